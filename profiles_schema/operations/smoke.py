"""Does it work, here and now?

Signs a user up, calls every public function as that user, and attempts what must be denied. Everything happens in one
transaction that is always rolled back.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.driver import sqlstate
from profiles_schema.migrations.sql_objects import applies
from profiles_schema.operations.settings import accepted
from profiles_schema.schema.objects import Where
from profiles_schema.settings import ENVELOPE_PREFIX

DENIED = "42501"
RAISED = "P0001"
_NO_CHANGES = "Users change nothing, as before"
"""The policy of an adopted table whose users could change nothing (answer `keep` to `writes:TABLE`)."""
# Signed in with a second factor: many applications ask for that in a restrictive policy.
_AAL = "aal2"
_TABLES = (
    "user_profiles", "user_progress", "user_api_keys", "user_provider_keys", "export_history", "user_profile_audit_logs"
)  # fmt: skip
# What a row needs in the tables that a sign-up leaves empty.
_ROWS: dict[str, dict[str, Any]] = {
    "user_api_keys": {"openai_api_key": f"{ENVELOPE_PREFIX}smoke.{'A' * 60}"},
    "user_provider_keys": {"provider": "smoke", "envelope": f"{ENVELOPE_PREFIX}smoke.{'A' * 60}"},
    "export_history": {"export_type": "smoke", "export_format": "json"},
    "user_profile_audit_logs": {"action": "updated", "origin": "manual"},
    "sessions": {},
}
# A column that users may change in their own rows.
_CHANGED = {
    "user_profiles": "bio", "user_progress": "new_words_count", "user_api_keys": "openai_api_key",
    "user_provider_keys": "envelope", "export_history": "filters",
}  # fmt: skip


@dataclass(frozen=True)
class SmokeStep:
    """One thing tried: ``passed``, and what happened instead where it did not."""

    name: str
    passed: bool
    detail: str = ""


class _Failed(Exception):
    """A step's expectation was not met."""


def smoke(connection: Connection) -> Iterator[SmokeStep]:
    """Try everything once, yielding each step as it is done.

    Args:
        connection: A connection outside a transaction, as a role that may insert into auth.users and become anon,
            authenticated and service_role. What is done is always rolled back.
    """
    transaction = connection.begin()
    try:
        trial = _Trial(connection)
        for name, attempt in trial.steps():
            step = _try(connection, name, attempt)
            yield step if step.passed else replace(step, detail=step.detail + trial.hidden())
    finally:
        transaction.rollback()


def _try(connection: Connection, name: str, attempt: Callable[[], None]) -> SmokeStep:
    savepoint = connection.begin_nested()
    try:
        attempt()
    except _Failed as failure:
        savepoint.rollback()
        return SmokeStep(name, passed=False, detail=str(failure))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        savepoint.rollback()
        message = str(error.orig).strip().partition("\n")[0]
        return SmokeStep(name, passed=False, detail=f"{message} (SQLSTATE {sqlstate(error)})")
    savepoint.commit()
    return SmokeStep(name, passed=True)


def user_columns(connection: Connection) -> frozenset[str]:
    """The columns of auth.users; an application's own may have an id and an email only."""
    names = connection.scalars(
        text(
            "select attname::text from pg_catalog.pg_attribute"
            " where attrelid = pg_catalog.to_regclass('auth.users') and attnum > 0 and not attisdropped"
        )
    )
    return frozenset(names)


def insert_user(connection: Connection, user: uuid.UUID, email: str, full_name: str) -> None:
    """Sign a user up as an auth server does, with as much as the table has room for."""
    wanted = {
        "id": ":id",
        "email": ":email",
        "raw_user_meta_data": "jsonb_build_object('full_name', cast(:full_name as text))",
        "created_at": "now()",
    }
    columns = user_columns(connection)
    values = {name: value for name, value in wanted.items() if name in columns}
    connection.execute(
        text(f"insert into auth.users ({', '.join(values)}) values ({', '.join(values.values())})"),
        {"id": user, "email": email, "full_name": full_name},
    )


def _insert(table: str, row: dict[str, Any]) -> TextClause:
    return text(f"insert into public.{table} ({', '.join(row)}) values ({', '.join(f':{name}' for name in row)})")


class _Trial:
    """The steps, and the two made-up users they are about."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.user = uuid.uuid4()
        self.other = uuid.uuid4()
        self.columns = user_columns(connection)
        self.tables = [*_TABLES, *(["sessions"] if applies(connection, Where.OWN_SESSIONS) else [])]
        # What a policy of the application allows that the operator accepts is no failure.
        opened = connection.execute(
            text(
                "select c.relname, p.polcmd from pg_policy as p join pg_class as c on c.oid = p.polrelid"
                " where p.polpermissive and c.relnamespace = 'public'::regnamespace"
                "  and format('public.%s.%s', c.relname, p.polname) = any (cast(:accepted as text[]))"
            ),
            {"accepted": accepted(connection).get("accepted_policies", [])},
        )
        # Where anon could read before a table was taken over, it may look, and finds nothing.
        self.anon_looks = set(
            connection.scalars(
                text(
                    "select substr(a.object_name, 8) from profiles_internal.adopted as a where a.object_type = 'rights'"
                    ' and jsonb_path_exists(a.data, \'$.rights[*] ? (@.role == "anon" && @.right == "select")\')'
                    " and has_any_column_privilege('anon', a.object_name, 'select')"
                )
            )
        )
        self.opened = {(row.relname, row.polcmd) for row in opened}

    def hidden(self) -> str:
        """Which policies may have made a step fail: restrictive ones, where a user does not see the own profile for them."""
        policies = self.connection.scalars(
            text(
                "select format('\"%s\" (%s)', p.polname, pg_get_expr(coalesce(p.polqual, p.polwithcheck), p.polrelid)) from pg_policy as p"
                " where p.polrelid = to_regclass('public.user_profiles') and not p.polpermissive order by p.polname"
            )
        ).all()
        own = text("select count(*) from public.user_profiles where user_id = :id")
        if not policies or self.connection.scalar(own, {"id": self.user}) == 0:
            return ""
        savepoint = self.connection.begin_nested()
        try:
            with self.acting_as("authenticated", self.user):
                seen = self.connection.scalar(own, {"id": self.user})
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            seen = 0
        savepoint.rollback()
        if seen:
            return ""
        return (
            f"; the trial's user, with the claims role, sub and aal ({_AAL}), does not see its own profile, on which the"
            f" application has restrictive policies: {', '.join(policies)}"
        )

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "the roles of the API may use the schemas", self.use_schemas
        yield "a sign-up creates profile and progress", self.sign_up
        yield "a second sign-up with the same name works too", self.sign_up_with_the_same_name
        if "last_sign_in_at" in self.columns:
            yield "a sign-in reaches the profile", self.sign_in
        yield "get_my_profile_v2 returns the caller's profile", self.get_my_profile
        yield "get_my_referral_code creates a code and keeps it", self.referral_code
        yield "get_my_progress returns the caller's progress", self.get_my_progress
        yield "award_points counts a key once", self.award_points
        yield "export_my_data queues one export", self.export_my_data
        yield "delete_my_account wants the username", self.delete_my_account
        if self.value("select exists (select from pg_policy where polname = :name)", name=_NO_CHANGES):
            yield "users change nothing, as before", self.change_nothing
        else:
            yield "update_my_profile_v2 changes it", self.update_my_profile
        yield "update_my_profile_v2 refuses columns that users may not write", self.update_forbidden
        yield "ensure_user_profile returns the caller's profile", self.ensure_own
        yield "ensure_user_profile refuses another user's", self.ensure_other
        yield "gen_available_username proposes a free name", self.available_username
        yield "another user's rows are invisible", self.read_other
        yield "another user's rows cannot be changed", self.change_other
        yield "a user cannot change their own role", self.change_role
        yield "anon can read no table", self.anon_reads
        yield "anon can call get_public_profile", self.anon_calls
        yield "get_user_profile_stats is for service_role", self.stats
        if applies(self.connection, Where.OWN_IDENTITY):
            yield "create_user creates a user with a profile", self.create_user
        yield "an export goes through its states", self.export
        yield "deleting a user works", self.delete_user

    def closed(self, command: str) -> list[str]:
        """The tables in which no accepted policy allows a command on others' rows."""
        return [table for table in self.tables if not {(table, command), (table, "*")} & self.opened]

    # How a step speaks

    def value(self, sql: str, **values: Any) -> Any:
        return self.connection.scalar(text(sql), values)

    def expect(self, found: Any, wanted: Any, what: str) -> None:
        if found != wanted:
            raise _Failed(f"{what} is {found!r} instead of {wanted!r}")

    def expect_denied(self, sql: str, code: str = DENIED, **values: Any) -> None:
        savepoint = self.connection.begin_nested()
        try:
            self.connection.execute(text(sql), values)
        except DBAPIError as error:
            savepoint.rollback()
            if sqlstate(error) == code:
                return
            raise
        savepoint.rollback()
        raise _Failed("it was allowed")

    @contextmanager
    def acting_as(self, role: str, user: uuid.UUID | None = None) -> Iterator[None]:
        claims = json.dumps({"role": role, **({"sub": str(user), "aal": _AAL} if user else {})})
        self.value("select set_config('request.jwt.claims', :claims, true)", claims=claims)
        self.connection.exec_driver_sql(f"set local role {role}")
        # After an error nothing can be said to the server before the step's savepoint, which undoes this as well.
        yield
        self.connection.exec_driver_sql("reset role")
        self.value("select set_config('request.jwt.claims', '', true)")

    # The steps

    def use_schemas(self) -> None:
        grants = self.connection.scalars(
            text(
                "select format('grant usage on schema %I to %I', n.nspname, r.rolname)"
                " from pg_catalog.pg_namespace as n cross join pg_catalog.pg_roles as r"
                " where n.nspname in ('public', 'auth', 'profiles_internal')"
                " and r.rolname in ('anon', 'authenticated', 'service_role')"
                " and not pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage') order by n.nspname, r.rolname"
            )
        ).all()
        if grants:
            raise _Failed(f"they may not; run: {'; '.join(grants)}")

    def _insert_user(self, user: uuid.UUID) -> None:
        insert_user(self.connection, user, f"smoke@{user.hex}.invalid", "Smoke Test")
        self.expect(
            self.value("select count(*) from public.user_profiles where user_id = :id", id=user),
            1,
            "the number of profiles",
        )
        self.expect(
            self.value("select count(*) from public.user_progress where user_id = :id", id=user),
            1,
            "the number of progress rows",
        )

    def sign_up(self) -> None:
        # Also where the feature flag is off: whether sign-ups work is a matter of the triggers.
        self.connection.execute(
            text(
                "update profiles_internal.settings set value = 'true' where key = 'auto_create_profiles' and value = 'false'"
            )
        )
        self._insert_user(self.user)
        self.expect(
            self.value("select display_name from public.user_profiles where user_id = :id", id=self.user),
            "Smoke Test" if "raw_user_meta_data" in self.columns else None,
            "display_name",
        )

    def sign_up_with_the_same_name(self) -> None:
        self._insert_user(self.other)

    def sign_in(self) -> None:
        self.connection.execute(text("update auth.users set last_sign_in_at = now() where id = :id"), {"id": self.user})
        self.expect(
            self.value("select login_count from public.user_profiles where user_id = :id", id=self.user),
            1,
            "login_count",
        )

    def get_my_profile(self) -> None:
        with self.acting_as("authenticated", self.user):
            self.expect(self.value("select (public.get_my_profile_v2()).user_id"), self.user, "user_id")

    def referral_code(self) -> None:
        with self.acting_as("authenticated", self.user):
            code = self.value("select public.get_my_referral_code()")
            self.expect(self.value("select public.get_my_referral_code()"), code, "the second answer")

    def get_my_progress(self) -> None:
        with self.acting_as("authenticated", self.user):
            self.expect(self.value("select (public.get_my_progress()).user_id"), self.user, "user_id")

    def export_my_data(self) -> None:
        with self.acting_as("authenticated", self.user):
            queued = self.value("select public.export_my_data()")
            self.expect(self.value("select public.export_my_data()"), queued, "the second export")

    def delete_my_account(self) -> None:
        with self.acting_as("authenticated", self.user):
            self.expect_denied("select public.delete_my_account('somebody else')", "22023")

    def award_points(self) -> None:
        award = "select public.award_points(:id, 5, 'smoke', 'smoke')"
        with self.acting_as("service_role", None):
            totals = [self.value(award, id=self.user) for _ in range(2)]
        self.expect(totals[1], totals[0], "the total")
        with self.acting_as("authenticated", self.user):
            self.expect_denied("select public.award_points(auth.uid(), 5, 'smoke', 'another')")

    def update_my_profile(self) -> None:
        with self.acting_as("authenticated", self.user):
            bio = self.value("""select (public.update_my_profile_v2('{"bio": "smoke"}'::jsonb)).bio""")
            self.expect(bio, "smoke", "bio")

    def change_nothing(self) -> None:
        with self.acting_as("authenticated", self.user):
            self.expect_denied("select public.update_my_profile_v2(jsonb_build_object('bio', 'smoke'))")

    def update_forbidden(self) -> None:
        with self.acting_as("authenticated", self.user):
            savepoint = self.connection.begin_nested()
            try:
                self.connection.execute(text("""select public.update_my_profile_v2('{"role": "admin"}'::jsonb)"""))
            except DBAPIError as error:
                savepoint.rollback()
                self.expect(sqlstate(error), "22023", "the SQLSTATE")
                return
            savepoint.rollback()
            raise _Failed("it was allowed")

    def ensure_own(self) -> None:
        with self.acting_as("authenticated", self.user):
            self.expect(self.value("select public.ensure_user_profile() ->> 'user_id'"), str(self.user), "user_id")

    def ensure_other(self) -> None:
        with self.acting_as("authenticated", self.user):
            self.expect_denied("select public.ensure_user_profile(:other)", other=self.other)

    def available_username(self) -> None:
        with self.acting_as("authenticated", self.user):
            name = self.value("select public.gen_available_username('smoke@example.org'::text)")
        taken = self.value("select count(*) from public.user_profiles where lower(username) = :name", name=name)
        self.expect(taken, 0, f"the number of profiles named {name}")

    def read_other(self) -> None:
        self._give_rows(self.other)
        with self.acting_as("authenticated", self.user):
            open_ones = [
                table
                for table in self.closed("r")
                if self.value(
                    f"select exists (select from public.{table} where user_id is distinct from :id)", id=self.user
                )
            ]
        if open_ones:
            raise _Failed(f"rows of others can be read in {', '.join(open_ones)}")

    def _give_rows(self, user: uuid.UUID) -> None:
        """A row in each table that a sign-up leaves empty. Where the application's own rules refuse it, others' rows serve."""
        for table in self.tables:
            if table not in _ROWS:
                continue
            savepoint = self.connection.begin_nested()
            try:
                row = {"user_id": user, **_ROWS[table]}
                self.connection.execute(_insert(table, row), row)
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
                savepoint.rollback()
            else:
                savepoint.commit()

    def change_other(self) -> None:
        self._give_rows(self.other)
        open_ones = []
        with self.acting_as("authenticated", self.user):
            for table in self.tables:
                column = _CHANGED.get(table, "user_id")
                row = {"user_id": self.other, **_ROWS.get(table, {})}
                for command, what, attempt in (
                    ("w", "changed", f"update public.{table} set {column} = {column} where user_id = :other"),
                    ("d", "deleted", f"delete from public.{table} where user_id = :other"),
                ):
                    if table in self.closed(command) and self._reaches(text(attempt), {"other": self.other}):
                        open_ones.append(f"{what} in {table}")
                if table in self.closed("a") and self._reaches(_insert(table, row), row, RAISED):
                    open_ones.append(f"inserted into {table}")
        if open_ones:
            raise _Failed(f"rows of others can be {', '.join(open_ones)}")

    def _reaches(self, statement: TextClause, values: dict[str, Any], *refusals: str) -> bool:
        """Whether a statement gets at a row; undone at once. Another error than a denial comes from behind the policies.

        Only a trigger before an INSERT comes first: what it raises is a refusal, too.
        """
        savepoint = self.connection.begin_nested()
        try:
            result = self.connection.execute(statement, values)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            savepoint.rollback()
            return sqlstate(error) not in (DENIED, *refusals)
        savepoint.rollback()
        return result.rowcount > 0

    def change_role(self) -> None:
        with self.acting_as("authenticated", self.user):
            self.expect_denied("update public.user_profiles set role = 'admin' where user_id = :id", id=self.user)

    def anon_reads(self) -> None:
        with self.acting_as("anon"):
            for table in self.closed("r"):
                if table in self.anon_looks:
                    self.expect(self.value(f"select count(*) from public.{table}"), 0, f"the number of rows of {table}")
                    continue
                self.expect_denied(f"select 1 from public.{table}")

    def anon_calls(self) -> None:
        # In a table that was taken over, new profiles are private.
        name = self.value(
            "update public.user_profiles set profile_visibility = 'public' where user_id = :id returning username",
            id=self.user,
        )
        with self.acting_as("anon"):
            shown = self.value("select username from public.get_public_profile(cast(:name as text))", name=name)
            self.expect(shown, name, "username")
            listed = self.value(
                "select username from public.get_public_profiles(array[cast(:id as uuid)])", id=str(self.user)
            )
        self.expect(listed, name, "username of get_public_profiles")

    def stats(self) -> None:
        with self.acting_as("authenticated", self.user):
            self.expect_denied("select public.get_user_profile_stats()")
        allowed = self.value(
            "select has_function_privilege('service_role', 'public.get_user_profile_stats()', 'execute')"
        )
        self.expect(allowed, True, "service_role's right to call it")

    def create_user(self) -> None:
        with self.acting_as("service_role"):
            made = self.value("select public.create_user(email => :email)", email=f"smoke@{uuid.uuid4().hex}.invalid")
            found = self.value("select count(*) from public.user_profiles where user_id = :id", id=made)
        self.expect(found, 1, "the number of profiles")

    def export(self) -> None:
        with self.acting_as("authenticated", self.user):
            self.connection.execute(
                text(
                    "insert into public.export_history (user_id, export_type, export_format) values (:id, 'smoke', 'json')"
                ),
                {"id": self.user},
            )
        with self.acting_as("service_role"):
            for status in ("processing", "completed"):
                self.connection.execute(
                    text("update public.export_history set status = :status where user_id = :id"),
                    {"status": status, "id": self.user},
                )

    def delete_user(self) -> None:
        self.connection.execute(text("delete from auth.users where id = :id"), {"id": self.user})
        left = self.value("select count(*) from public.user_profiles where user_id = :id", id=self.user)
        self.expect(left, 0, "the number of profiles left")
