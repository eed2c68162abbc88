"""Who may do what, cell by cell: every right is tried, and every denial as hard as every permission."""

import json
import uuid

import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from profiles_schema import metadata
from support import ENVELOPE

ANON, OWNER, OTHER, SERVICE = "anon", "owner", "another user", "service_role"
ROLES = [ANON, OWNER, OTHER, SERVICE]

ALLOWED, DENIED, NO_ROWS = "allowed", "denied", "no rows"

# {table: {command: what happens to anon, the owner of the row, another user, service_role}}
D, A, N = DENIED, ALLOWED, NO_ROWS
NOBODY = [D, D, D, D]
EXPECTED = {
    "user_profiles": {
        "select": [D, A, N, A],
        "insert": [D, D, D, A],
        "update": [D, A, N, A],
        "delete": [D, D, D, A],
    },
    "user_progress": {
        "select": [D, A, N, A],
        "insert": [D, A, D, A],
        "update": [D, A, N, A],
        "delete": [D, D, D, A],
    },
    "user_api_keys": {
        "select": [D, A, N, A],
        "insert": [D, A, D, A],
        "update": [D, A, N, A],
        "delete": [D, A, N, A],
    },
    "user_provider_keys": {
        "select": [D, A, N, A],
        "insert": [D, A, D, A],
        "update": [D, A, N, A],
        "delete": [D, A, N, A],
    },
    "export_history": {
        "select": [D, A, N, A],
        "insert": [D, A, D, A],
        "update": [D, A, N, A],
        "delete": [D, D, D, A],
    },
    "user_profile_audit_logs": {
        "select": [D, A, N, A],
        "insert": [D, D, D, A],
        "update": [D, D, D, D],
        "delete": [D, D, D, D],
    },
    "sessions": {
        "select": [D, A, N, A],
        "insert": [D, D, D, A],
        "update": [D, D, D, A],
        "delete": [D, D, D, A],
    },
}
for commands in EXPECTED.values():
    commands |= {"truncate": NOBODY, "references": NOBODY, "trigger": NOBODY, "rename": NOBODY}

UPDATES = {
    "user_profiles": "bio = 'x'",
    "user_progress": "new_words_count = 1",
    "user_api_keys": f"openai_api_key = '{ENVELOPE}'",
    "user_provider_keys": f"envelope = '{ENVELOPE}'",
    "export_history": "filters = '{}'",
    "user_profile_audit_logs": "error_message = 'x'",
    "sessions": "ended_at = now()",
}
INSERTS = {
    "user_profiles": "(user_id, username) values (:id, 'newcomer')",
    "user_progress": "(user_id) values (:id)",
    "user_api_keys": f"(user_id, openai_api_key) values (:id, '{ENVELOPE}')",
    "user_provider_keys": f"(user_id, provider, envelope) values (:id, 'deepl', '{ENVELOPE}')",
    "export_history": "(user_id, export_type, export_format) values (:id, 'all', 'json')",
    "user_profile_audit_logs": "(user_id, action, origin) values (:id, 'created', 'manual')",
    "sessions": "(user_id) values (:id)",
}


def attack(table, command):
    """The statement of an attack; :id is the user it aims at."""
    return {
        "select": f"select * from public.{table} where user_id = :id",
        "insert": f"insert into public.{table} {INSERTS[table]}",
        "update": f"update public.{table} set {UPDATES[table]} where user_id = :id",
        "delete": f"delete from public.{table} where user_id = :id",
        "truncate": f"truncate public.{table} cascade",
        "references": f"create table playground.spy (id {'text' if table == 'user_profiles' else 'uuid'}"
        f" references public.{table} (id))",
        "trigger": f"create trigger spy before insert on public.{table}"
        " for each row execute function suppress_redundant_updates_trigger()",
        "rename": f"alter table public.{table} rename to mine",
    }[command]


def outcome(connection, statement, **values):
    """What comes of a statement: allowed, denied, no rows, or the SQLSTATE of another error. Undone afterwards."""
    savepoint = connection.begin_nested()
    try:
        result = connection.execute(text(statement), values)
        rows = len(result.all()) if result.returns_rows else result.rowcount
    except DBAPIError as error:
        return DENIED if error.orig.pgcode == "42501" else error.orig.pgcode
    else:
        return NO_ROWS if rows == 0 else ALLOWED
    finally:
        savepoint.rollback()


class Cast:
    """Ada has a row in every table, Grace (a user too) in none, Eve is the other one."""

    def __init__(self, database):
        self.database = database
        self.ada, self.grace, self.eve = (database.sign_up(f"{name}@example.org") for name in ("ada", "grace", "eve"))
        for table, values in INSERTS.items():
            if table not in {"user_profiles", "user_progress"}:
                database.administrator.run(f"insert into public.{table} {values}", id=self.ada)
        for table in ("user_profiles", "user_progress"):
            database.administrator.run(f"delete from public.{table} where user_id = :id", id=self.grace)
        database.administrator.run("delete from public.user_profile_audit_logs where user_id = :id", id=self.grace)
        database.administrator.script(
            "create schema playground; grant all on schema playground to anon, authenticated, service_role"
        )

    def acting_as(self, role, owner):
        """Become one of the four; the owner is the user whom the attack aims at."""
        name = {OWNER: "authenticated", OTHER: "authenticated"}.get(role, role)
        return self.database.administrator.acting_as(name, {OWNER: owner, OTHER: self.eve}.get(role))


@pytest.fixture
def cast(project):
    return Cast(project)


def attempt_everything(cast, roles=ROLES):
    seen = {table: {command: [] for command in commands} for table, commands in EXPECTED.items()}
    for role in roles:
        for command in next(iter(EXPECTED.values())):
            target = cast.grace if command == "insert" else cast.ada
            with cast.acting_as(role, target) as connection:
                for table in EXPECTED:
                    seen[table][command].append(outcome(connection, attack(table, command), id=target))
    return seen


def test_every_command_on_every_table_by_every_role(cast):
    assert attempt_everything(cast) == EXPECTED


def test_the_matrix_names_every_table_of_ours():
    assert set(EXPECTED) == {table.name for table in metadata.tables.values() if table.schema is None}


def test_nobody_reaches_the_tables_behind(cast):
    behind = [f"profiles_internal.{t.name}" for t in metadata.tables.values() if t.schema == "profiles_internal"]
    behind += ["profiles_internal.alembic_version", "auth.users"]
    assert len(behind) > 8
    for role in ROLES:
        with cast.acting_as(role, cast.ada) as connection:
            for table in behind:
                for statement in (
                    f"select * from {table}", f"select 1 from {table}", f"insert into {table} default values",
                    f"delete from {table}", f"truncate {table} cascade", f"lock table {table} in access share mode",
                ):  # fmt: skip
                    assert outcome(connection, statement) == DENIED, (role, statement)


def test_nobody_creates_anything_in_our_schemas(cast):
    for role in ROLES:
        with cast.acting_as(role, cast.ada) as connection:
            for statement in (
                "create table profiles_internal.mine (id integer)",
                "create function profiles_internal.may_act_for(text) returns boolean language sql as 'select true'",
                "alter table public.user_profiles disable row level security",
                "alter table public.user_profiles disable trigger all",
                'drop policy "Owners can read their own profile" on public.user_profiles',
                "create policy mine on public.user_profiles to public using (true)",
            ):
                assert outcome(connection, statement) == DENIED, (role, statement)


# Columns --------------------------------------------------------------------------------------------------------------

# The columns that a user may write; every other one is refused.
WRITABLE = {
    "user_profiles": {
        "insert": set(),
        "update": {
            "username", "display_name", "first_name", "last_name", "phone", "bio", "company_name",
            "target_audience", "business_context", "master_system_prompt", "avatar_emoji", "profile_picture_url", "logo_url",
            "profile_visibility", "key_metrics", "preferences", "notification_settings", "timezone", "language",
        },
    },
    "user_progress": {
        "insert": {"user_id"},
        "update": {"mastered_words_count", "learning_words_count", "new_words_count"},
    },
    "user_api_keys": {
        "insert": {"user_id", "openai_api_key", "unsplash_api_key", "anthropic_api_key", "hints"},
        "update": {"openai_api_key", "unsplash_api_key", "anthropic_api_key", "hints"},
    },
    "user_provider_keys": {
        "insert": {"user_id", "provider", "label", "envelope", "hint"},
        "update": {"envelope", "hint"},
    },
    "export_history": {
        "insert": {"user_id", "export_type", "export_format", "filters"},
        "update": {"filters"},
    },
    "user_profile_audit_logs": {"insert": set(), "update": set()},
    "sessions": {"insert": set(), "update": set()},
}  # fmt: skip


def columns_of(database, table):
    return [
        row[0]
        for row in database.run(
            "select attname::text from pg_attribute where attrelid = cast(:name as regclass) and attnum > 0 and not attisdropped",
            name=f"public.{table}",
        )
    ]


def is_refused(connection, statement):
    """Whether the grants refuse a statement; that of another rule (a policy, a CHECK) is no refusal of the column."""
    savepoint = connection.begin_nested()
    try:
        connection.execute(text(statement))
    except DBAPIError as error:
        return str(error.orig).startswith("permission denied for table")
    else:
        return False
    finally:
        savepoint.rollback()


def test_every_column_by_insert_and_update_as_its_owner(cast):
    columns = {table: columns_of(cast.database, table) for table in WRITABLE}
    assert len(columns["user_profiles"]) == 44
    written = {table: {"insert": set(), "update": set()} for table in WRITABLE}
    with cast.acting_as(OWNER, cast.ada) as connection:
        for table, names in columns.items():
            for column in names:
                if not is_refused(connection, f"insert into public.{table} ({column}) values (default)"):
                    written[table]["insert"].add(column)
                if not is_refused(connection, f"update public.{table} set {column} = default"):
                    written[table]["update"].add(column)
    assert written == WRITABLE


def test_service_role_writes_no_rolled_up_column_and_no_points(cast):
    rolled_up = set(columns_of(cast.database, "user_progress")) - {
        "id", "user_id", "created_at", "updated_at",
        "mastered_words_count", "learning_words_count", "new_words_count",
    }  # fmt: skip
    assert len(rolled_up) == 18
    with cast.acting_as(SERVICE, cast.ada) as connection:
        for column in sorted(rolled_up):
            assert is_refused(connection, f"insert into public.user_progress ({column}) values (default)"), column
            assert is_refused(connection, f"update public.user_progress set {column} = default"), column


ESCALATIONS = [
    "update public.user_profiles set role = 'admin'",
    "update public.user_profiles set bio = 'x', role = 'admin'",
    "update public.user_profiles set user_id = '{eve}'",
    "insert into public.user_profiles (user_id, username) values ('{ada}', 'x') on conflict (user_id) do update set role = 'admin'",
    "insert into public.user_api_keys (user_id) values ('{eve}')",
    "insert into public.user_api_keys (user_id) values ('{eve}') on conflict (user_id) do update set openai_api_key = null",
    "insert into public.user_progress (user_id) values ('{eve}') on conflict (user_id) do nothing",
    "insert into public.export_history (user_id, export_type, export_format, status) values ('{ada}', 'a', 'b', 'completed')",
    "update public.export_history set status = 'processing'",
    "update public.export_history set data = '{{}}'",
    "update public.user_api_keys set user_id = '{eve}'",
    "update public.user_api_keys set validation = '{{}}'",
    "insert into public.user_provider_keys (user_id, provider, envelope) values ('{eve}', 'deepl', null)",
    "update public.user_provider_keys set user_id = '{eve}'",
    "update public.user_provider_keys set provider = 'other'",
    "update public.user_provider_keys set is_active = true",
    "update public.user_provider_keys set last_used_at = null",
    "select profiles_internal.record_key_use('{eve}', 'deepl', '')",
    "insert into profiles_internal.encryption_keys (key_id, check_value) values ('k', 'x')",
    "copy public.user_profiles from program 'id'",
    "select profiles_internal.erase_profile('{eve}')",
    "select profiles_internal.record_events(array['{eve}']::uuid[], 'failed', 'trigger')",
    "select profiles_internal.create_profiles(array[]::jsonb[])",
    "select profiles_internal.make_user('x@example.org', null, null, null, null)",
    "select profiles_internal.profile_stats()",
    "select public.ensure_user_profile('{eve}')",
    "select profiles_internal.ensure_profile('{eve}')",
    "select profiles_internal.ensure_profile(null)",
]


CLAIMS = [{}, {"role": "service_role"}, {"user_role": "admin", "app_metadata": {"role": "service_role"}}]


def test_a_user_cannot_escalate_whatever_the_claims_say(cast):
    hosted = is_hosted(cast.database)
    with cast.acting_as(OWNER, cast.ada) as connection:
        for claims in CLAIMS:
            forged = json.dumps({"sub": str(cast.ada), **claims})
            connection.execute(text("select set_config('request.jwt.claims', :forged, true)"), {"forged": forged})
            for statement in ESCALATIONS:
                if not (hosted and "make_user" in statement):
                    assert outcome(connection, statement.format(ada=cast.ada, eve=cast.eve)) == DENIED, statement


def test_a_user_sees_one_row_of_each_table_without_asking_for_it(cast):
    """Row level security, not the application's WHERE, keeps the others out."""
    cast.database.administrator.run("insert into public.user_api_keys (user_id) values (:eve)", eve=cast.eve)
    cast.database.administrator.run(
        f"insert into public.user_provider_keys {INSERTS['user_provider_keys']}", id=cast.eve
    )
    cast.database.administrator.run("insert into public.sessions (user_id) values (:eve), (null)", eve=cast.eve)
    with cast.acting_as(OWNER, cast.ada) as connection:
        for table in EXPECTED:
            owners = {row.user_id for row in connection.execute(text(f"select * from public.{table}"))}
            assert owners == {cast.ada}, table


def test_without_a_subject_in_the_claims_there_is_nothing_to_see(cast):
    with cast.acting_as(OWNER, cast.ada) as connection:
        for claims in ("", "{}", '{"sub": null}', '{"role": "authenticated"}'):
            connection.execute(text("select set_config('request.jwt.claims', :claims, true)"), {"claims": claims})
            for table in EXPECTED:
                assert outcome(connection, f"select * from public.{table}") == NO_ROWS
            assert outcome(connection, "update public.user_profiles set bio = 'x'") == NO_ROWS


# Functions ------------------------------------------------------------------------------------------------------------

API = {"anon", "authenticated", "service_role"}
USERS = {"authenticated", "service_role"}

# Who may execute what; a function that is not named here is nobody's.
EXECUTABLE = {
    "create_user(text,text,text,text,jsonb)": {"service_role"},
    "ensure_user_profile(uuid)": USERS,
    "ensure_user_profile(uuid,text,text,text,text,text,text)": USERS,
    "gen_available_username(text)": USERS,
    "award_points(uuid,integer,text,text)": {"service_role"},
    "delete_my_account(text)": {"authenticated"},
    "export_my_data()": {"authenticated"},
    "get_my_profile_v2()": {"authenticated"},
    "get_my_progress()": {"authenticated"},
    "get_my_referral_code()": {"authenticated"},
    "get_public_profile(text)": API,
    "get_public_profiles(uuid[])": API,
    "get_user_profile_stats()": {"service_role"},
    "update_my_profile_v2(jsonb,boolean,timestamp with time zone)": {"authenticated"},
    "profiles_internal.available_username(text)": USERS,
    "profiles_internal.check_encryption_key(text,text)": USERS,
    "profiles_internal.record_key_use(uuid,text,text)": USERS,
    "profiles_internal.delete_my_account(text)": {"authenticated"},
    "profiles_internal.export_my_data()": {"authenticated"},
    "profiles_internal.award_points(uuid,integer,text,text)": {"service_role"},
    "profiles_internal.ensure_profile(uuid,jsonb,boolean)": USERS,
    "profiles_internal.referral_code()": {"authenticated"},
    "profiles_internal.may_add_own_rows()": {"authenticated"},
    "profiles_internal.may_use_own_rows()": {"authenticated"},
    "profiles_internal.make_user(text,text,text,text,jsonb)": {"service_role"},
    "profiles_internal.merge_patch(jsonb,jsonb)": {"authenticated"},
    "profiles_internal.profile_stats()": {"service_role"},
    "profiles_internal.public_profiles(text,uuid[])": API,
    "profiles_internal.refused_changes(jsonb)": {"authenticated"},
}
OURS_ALONE = {"create_user(text,text,text,text,jsonb)", "profiles_internal.make_user(text,text,text,text,jsonb)"}


def is_hosted(database):
    return (
        database.administrator.value("select to_regprocedure('profiles_internal.make_user(text,text,text,text,jsonb)')")
        is None
    )


def test_every_function_by_every_role(cast):
    found = cast.database.run(
        "select p.oid::regprocedure::text as name, role, has_function_privilege(role, p.oid, 'execute') as allowed"
        " from pg_proc as p cross join unnest(array['anon', 'authenticated', 'service_role']) as role"
        " where p.pronamespace in ('public'::regnamespace, 'profiles_internal'::regnamespace)"
    )
    assert len({row.name for row in found}) > 25
    allowed = {}
    for row in found:
        if row.allowed:
            allowed.setdefault(row.name, set()).add(row.role)
    expected = {
        name: roles for name, roles in EXECUTABLE.items() if not (is_hosted(cast.database) and name in OURS_ALONE)
    }
    assert allowed == expected


CALLS = {
    "create_user(text,text,text,text,jsonb)": "public.create_user('new@example.org')",
    "ensure_user_profile(uuid)": "public.ensure_user_profile()",
    "ensure_user_profile(uuid,text,text,text,text,text,text)": "public.ensure_user_profile('{ada}', '', '', '', '', '', '')",
    "gen_available_username(text)": "public.gen_available_username('ada@example.org')",
    "award_points(uuid,integer,text,text)": "public.award_points('{ada}', 5, 'a gift', 'k1')",
    "delete_my_account(text)": "public.delete_my_account('ada')",
    "export_my_data()": "public.export_my_data()",
    "get_my_profile_v2()": "public.get_my_profile_v2()",
    "get_my_progress()": "public.get_my_progress()",
    "get_my_referral_code()": "public.get_my_referral_code()",
    "get_public_profile(text)": "public.get_public_profile('ada')",
    "get_user_profile_stats()": "public.get_user_profile_stats()",
    "update_my_profile_v2(jsonb,boolean,timestamp with time zone)": 'public.update_my_profile_v2(\'{{"bio": "x"}}\')',
}


def test_every_public_function_is_tried_by_every_role(cast):
    for name, call in CALLS.items():
        if is_hosted(cast.database) and name in OURS_ALONE:
            continue
        for role, who in (("anon", ANON), ("authenticated", OWNER), ("service_role", SERVICE)):
            with cast.acting_as(who, cast.ada) as connection:
                seen = outcome(connection, "select " + call.format(ada=cast.ada))
            expected = ALLOWED if role in EXECUTABLE[name] else DENIED
            if (name, role) == ("ensure_user_profile(uuid)", "service_role"):
                expected = DENIED  # service_role has no id of its own: it must say whose profile
            assert seen == expected, (name, role)


def test_nothing_of_ours_is_open_to_public(cast):
    open_to_public = cast.database.run(
        """
        select 'table ' || c.oid::regclass, acl.privilege_type from pg_class as c, aclexplode(c.relacl) as acl
        where c.relnamespace in ('public'::regnamespace, 'profiles_internal'::regnamespace) and acl.grantee = 0
        union all
        select 'column ' || a.attname, acl.privilege_type from pg_attribute as a
        join pg_class as c on c.oid = a.attrelid, aclexplode(a.attacl) as acl
        where c.relnamespace in ('public'::regnamespace, 'profiles_internal'::regnamespace) and acl.grantee = 0
        union all
        select 'function ' || p.oid::regprocedure, acl.privilege_type
        from pg_proc as p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as acl
        where p.pronamespace in ('public'::regnamespace, 'profiles_internal'::regnamespace) and acl.grantee = 0
        union all
        select 'schema ' || n.nspname, acl.privilege_type from pg_namespace as n, aclexplode(n.nspacl) as acl
        where n.nspname = 'profiles_internal' and acl.grantee = 0
        """
    )
    assert open_to_public == []


def test_the_api_roles_hold_no_right_beyond_the_matrix(cast):
    """REFERENCES, TRIGGER, MAINTAIN and what a newer server may invent."""
    rows = cast.database.run(
        "select c.relname::text, acl.grantee::regrole::text, acl.privilege_type from pg_class as c, aclexplode(c.relacl) as acl"
        " where c.relnamespace in ('public'::regnamespace, 'profiles_internal'::regnamespace) and c.relkind = 'r'"
        " and acl.grantee::regrole::text in ('anon', 'authenticated', 'service_role')"
    )
    assert {row[1] for row in rows} == {"authenticated", "service_role"}
    assert {row[2] for row in rows} <= {"SELECT", "INSERT", "UPDATE", "DELETE"}


# Policies -------------------------------------------------------------------------------------------------------------

POLICIES = {
    ("user_profiles", "SELECT", "Owners can read their own profile"),
    ("user_profiles", "UPDATE", "Owners can edit their own profile"),
    ("user_api_keys", "SELECT", "Owners can read their own API keys"),
    ("user_api_keys", "INSERT", "Owners can store their own API keys"),
    ("user_api_keys", "UPDATE", "Owners can replace their own API keys"),
    ("user_api_keys", "DELETE", "Owners can delete their own API keys"),
    ("user_provider_keys", "SELECT", "Owners can read their own provider keys"),
    ("user_provider_keys", "INSERT", "Owners can store their own provider keys"),
    ("user_provider_keys", "UPDATE", "Owners can replace their own provider keys"),
    ("user_provider_keys", "DELETE", "Owners can delete their own provider keys"),
    ("user_progress", "SELECT", "Owners can read their own progress"),
    ("user_progress", "INSERT", "Owners can start their own progress"),
    ("user_progress", "UPDATE", "Owners can change their own progress"),
    ("export_history", "SELECT", "Owners can read their own exports"),
    ("export_history", "INSERT", "Owners can ask for their own exports"),
    ("export_history", "UPDATE", "Owners can change their own pending exports"),
}
BESIDE_THEM = {
    ("user_profile_audit_logs", "SELECT", "Owners can read their own audit log"),
    ("sessions", "SELECT", "Owners can read their own sessions"),
}


def test_the_policies_are_those_of_the_specification_and_two_beside_them(project):
    rows = project.run("select * from pg_policies where schemaname in ('public', 'profiles_internal')")
    assert len(POLICIES) == 16
    assert {(row.tablename, row.cmd, row.policyname) for row in rows} == POLICIES | BESIDE_THEM
    assert len(rows) == 18
    for row in rows:
        assert row.roles in (["authenticated"], "{authenticated}")
        assert row.permissive == "PERMISSIVE"
        helper = "may_add_own_rows" if row.cmd == "INSERT" else "may_use_own_rows"
        conditions = ["(( SELECT auth.uid() AS uid) = user_id)"] + ["is_active"] * (row.tablename == "user_profiles")
        own = f"({' AND '.join(conditions)} AND ( SELECT profiles_internal.{helper}() AS {helper}))"
        assert row.qual == (None if row.cmd == "INSERT" else own)
        assert row.with_check == (own if row.cmd in {"INSERT", "UPDATE"} else None)


def test_row_level_security_is_on_for_every_table(project):
    rows = project.run(
        "select relname::text, relrowsecurity from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    )
    assert dict(map(tuple, rows)) == dict.fromkeys(EXPECTED, True)


@pytest.mark.slow
def test_a_service_role_without_bypassrls_gets_policies_and_can_work(empty):
    empty.script(
        "do $$begin if to_regrole('service_role') is null then create role service_role nologin noinherit; end if; end$$;"
        "alter role service_role nobypassrls"
    )
    try:
        empty.upgrade()
        rows = empty.run("select tablename, cmd, roles from pg_policies where schemaname = 'public'")
        own = {(row.tablename, row.cmd) for row in rows if "service_role" in row.roles}
        assert own == {(table, "ALL") for table in EXPECTED}
        assert len(rows) == 18 + len(EXPECTED)

        cast = Cast(empty)
        assert attempt_everything(cast) == EXPECTED
        with cast.acting_as(SERVICE, cast.ada) as connection:
            assert connection.scalar(text("select count(*) from public.user_profiles")) == 2
            assert connection.scalar(text("select public.create_user('bob@example.org')")) is not None
            assert connection.scalar(text("select public.get_user_profile_stats() ->> 'users'")) == "4"
    finally:
        empty.script("alter role service_role bypassrls")


def test_a_direct_connection_of_a_stranger_reaches_nothing(database):
    """A login role that is no member of the API roles."""
    user_id = database.sign_up("ada@example.org")
    name = f"stranger_{uuid.uuid4().hex[:8]}"
    database.script(f"create role {name} login")
    try:
        connection = psycopg2.connect(database.server.url(database.name, name))
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in (
                *(f"select * from public.{table}" for table in EXPECTED),
                "set role authenticated", "set role service_role",
                f"select public.ensure_user_profile('{user_id}')", "select * from public.get_public_profile('ada')",
                "select * from profiles_internal.settings", "select * from auth.users", "select auth.uid()",
            ):  # fmt: skip
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    cursor.execute(statement)
        connection.close()
    finally:
        database.script(f"drop role {name}")


def test_a_service_whose_subject_is_no_user_is_audited(database):
    user = database.sign_up("ada@example.org")
    with database.engine.begin() as connection:
        connection.exec_driver_sql("select set_config('request.jwt.claims', '{\"sub\": \"worker-7\"}', true)")
        connection.exec_driver_sql("set local role service_role")
        connection.exec_driver_sql("update public.user_profiles set role = 'admin'")
    assert database.run("select user_id, action, changed from public.user_profile_audit_logs") == [
        (user, "updated", ["role"])
    ]


def test_nobody_can_take_a_reserved_username(database):
    user = database.sign_up("ada@example.org")
    with database.acting_as("authenticated", user) as connection, pytest.raises(Exception, match="reserved"):
        connection.exec_driver_sql("update public.user_profiles set username = 'support'")
    database.run("update public.user_profiles set username = 'support'")


def test_a_role_of_the_applications_own_may_act_for_its_user(database):
    user = database.sign_up("ada@example.org")
    database.script("create role member_of_ours; grant authenticated to member_of_ours")
    try:
        with database.acting_as("member_of_ours", user) as connection:
            assert connection.exec_driver_sql("select (public.get_my_profile_v2()).username").scalar() == "ada"
    finally:
        database.script("drop role member_of_ours")
