"""Users, profiles and missing ones before and after a run, and the rows of ``migration_log``."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from profiles_schema._version import __version__
from profiles_schema.driver import is_disconnect
from profiles_schema.settings import INTERNAL_SCHEMA

if TYPE_CHECKING:
    from sqlalchemy import Connection

_EXACT_BELOW_ROWS = 1_000_000
_BYTES_PER_ROW = 200  # a guess for tables that were never analysed, on the side of "many"
_STATEMENT_TIMEOUT_MS = 3000
MIGRATION_LOG = f"{INTERNAL_SCHEMA}.migration_log"


@dataclass(frozen=True)
class Counts:
    """How many there are; None where a table is absent, not readable, or too big to count now."""

    users: int | None = None
    profiles: int | None = None
    missing: int | None = None
    about: bool = False

    def __str__(self) -> str:
        if self.users is None and self.profiles is None:
            return "no tables of users yet"
        about = "about " if self.about else ""
        parts = [
            f"{about}{number} {word if number != 1 else word[:-1]}"
            for number, word in ((self.users, "users"), (self.profiles, "profiles"))
            if number is not None
        ]
        parts.append("missing not counted" if self.missing is None else f"{self.missing} missing")
        return ", ".join(parts)


@dataclass
class Outcome:
    """What a migration did: from which revisions to which, how many users and profiles before and after, how long."""

    came_from: tuple[str, ...]
    before: Counts
    started: float = field(default_factory=time.monotonic)
    revisions: list[dict[str, Any]] = field(default_factory=list)
    went_to: tuple[str, ...] = ()
    after: Counts = field(default_factory=Counts)
    newest: bool = False
    seconds: float = 0.0

    def add(self, step: Any, seconds: float) -> None:
        """A revision is done; the step is alembic's."""
        if not step.is_stamp:
            direction = "upgrade" if step.is_upgrade else "downgrade"
            self.revisions.append(
                {"revision": step.up_revision_id, "direction": direction, "seconds": round(seconds, 3)}
            )

    def end(self, went_to: tuple[str, ...], after: Counts, *, newest: bool) -> None:
        """The migration is over."""
        self.went_to, self.after, self.newest = went_to, after, newest
        self.seconds = round(time.monotonic() - self.started, 3)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``from`` and ``to`` are null before the first revision."""
        return {
            "from": ", ".join(self.came_from) or None,
            "to": ", ".join(self.went_to) or None,
            "at_head": self.newest,
            "revisions": self.revisions,
            "before": asdict(self.before),
            "after": asdict(self.after),
            "seconds": self.seconds,
        }


def count(connection: Connection) -> Counts:
    """Count exactly below a million rows, by the planner's estimate above; never for longer than some seconds."""
    from sqlalchemy.exc import DBAPIError

    try:
        connection.rollback()
        # Counts of one moment: else there are more profiles than users while people sign up.
        connection.exec_driver_sql("set transaction isolation level repeatable read, read only")
        connection.exec_driver_sql(
            f"select pg_catalog.set_config('statement_timeout', '{_STATEMENT_TIMEOUT_MS}', true), "
            # A policy that hides rows must make this fail, not lie.
            "pg_catalog.set_config('row_security', 'off', true)"
        )
        return _count_rows(connection)
    except DBAPIError as error:
        if is_disconnect(error):
            raise
        return Counts()
    finally:
        if not (connection.closed or connection.invalidated):
            connection.rollback()


def _count_rows(connection: Connection) -> Counts:
    tables = connection.exec_driver_sql(
        "select t.name, pg_catalog.has_table_privilege(c.oid, 'SELECT'), "
        f"case when c.reltuples >= 0 then c.reltuples else pg_catalog.pg_relation_size(c.oid) / {_BYTES_PER_ROW} end::int8, "
        "(select array_agg(attname::text || ' ' || atttypid::regtype::text) from pg_catalog.pg_attribute "
        " where attrelid = c.oid and attnum > 0 and not attisdropped "
        " and attname in ('id', 'user_id', 'deleted_at')) "
        "from (values ('auth.users'), ('public.user_profiles')) t (name) "
        "join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(t.name)"
    ).all()
    readable = {name: (estimate, set(columns or ())) for name, may_read, estimate, columns in tables if may_read}
    users, profiles = (
        _rows(connection, name, readable[name][0]) if name in readable else None
        for name in ("auth.users", "public.user_profiles")
    )
    about = any(estimate >= _EXACT_BELOW_ROWS for estimate, _ in readable.values())
    missing = None
    if (
        not about
        and "id uuid" in readable.get("auth.users", (0, set()))[1]
        and "user_id uuid" in readable.get("public.user_profiles", (0, set()))[1]
    ):
        erased = any(c.startswith("deleted_at ") for c in readable["auth.users"][1])
        missing = connection.exec_driver_sql(
            "select count(*) from auth.users u "
            "where not exists (select from public.user_profiles p where p.user_id = u.id)"
            + (" and u.deleted_at is null" if erased else "")
        ).scalar_one()
    return Counts(users, profiles, missing, about)


def _rows(connection: Connection, table: str, estimate: int) -> int:
    if estimate >= _EXACT_BELOW_ROWS:
        return estimate
    number: int = connection.exec_driver_sql(f"select count(*) from {table}").scalar_one()
    return number


def write_log(
    connection: Connection, *, revision: str, direction: str, seconds: float, outcome: str, counts: Counts
) -> bool:
    """Write one row into ``migration_log`` within the current transaction, if the table exists."""
    if not connection.exec_driver_sql(f"select pg_catalog.to_regclass('{MIGRATION_LOG}') is not null").scalar_one():
        return False
    values: dict[str, Any] = {
        "revision": revision,
        "direction": direction,
        "seconds": seconds,
        "version": __version__,
        "outcome": outcome,
        "users": counts.users,
        "missing": counts.missing,
    }
    connection.exec_driver_sql(
        f"insert into {MIGRATION_LOG} "
        "(revision, direction, started, seconds, role, package_version, outcome, users, missing) values "
        "(%(revision)s, %(direction)s, pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(seconds)s), "
        "%(seconds)s, current_user, %(version)s, %(outcome)s, %(users)s, %(missing)s)",
        values,
    )
    return True


def offline_log(revision: str, direction: str) -> str:
    """The row as a statement of an SQL script."""
    return f"""do $migration_log$
begin
  if pg_catalog.to_regclass('{MIGRATION_LOG}') is not null then
    insert into {MIGRATION_LOG} (revision, direction, started, seconds, role, package_version, outcome)
    values ('{revision}', '{direction}', pg_catalog.now(),
            extract(epoch from pg_catalog.clock_timestamp() - pg_catalog.now()), current_user, '{__version__}', 'done');
  end if;
end
$migration_log$;"""


def amend_log(connection: Connection, revision: str, direction: str, *, counts: Counts) -> None:
    """Put the counts at the end of a run into the newest row of its last revision."""
    if not connection.exec_driver_sql(f"select pg_catalog.to_regclass('{MIGRATION_LOG}') is not null").scalar_one():
        return
    connection.exec_driver_sql(
        f"update {MIGRATION_LOG} set users = %(users)s, missing = %(missing)s "
        f"where (revision, direction) = (%(revision)s, %(direction)s) and started = (select max(started) "
        f"from {MIGRATION_LOG} where (revision, direction) = (%(revision)s, %(direction)s))",
        {"users": counts.users, "missing": counts.missing, "revision": revision, "direction": direction},
    )
