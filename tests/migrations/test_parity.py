"""Two roads, one database: all migrations, and the models with the live SQL files."""

import re
import textwrap
from pathlib import Path

import pytest
from sqlalchemy import text

from profiles_schema import metadata
from profiles_schema.driver import execute_literally
from profiles_schema.migrations import expected
from profiles_schema.migrations.paths import script_location
from profiles_schema.migrations.sql_objects import public_functions
from profiles_schema.operations import adopt
from profiles_schema.schema import objects
from profiles_schema.schema.catalog import differences, take_snapshot
from profiles_schema.schema.objects import Where

EVERY_TABLE = [f"{table.schema or 'public'}.{table.name}" for table in metadata.tables.values()]


def snapshot(database):
    with database.engine.connect() as connection:
        return take_snapshot(connection, EVERY_TABLE, public_functions(), ["profiles_internal", "auth"])


def build_from_declarations(database):
    database.script(
        "create schema auth; comment on schema auth is 'profiles-schema: who signs in'; create schema profiles_internal;"
    )
    with database.engine.begin() as connection:
        metadata.create_all(connection)
        for sql_object in objects.inventory():
            execute_literally(connection, sql_object.statement)


def test_migrations_and_declarations_build_the_same_database(database, empty):
    build_from_declarations(empty)
    assert differences(snapshot(database), snapshot(empty)) == []


def test_the_snapshot_sees_every_kind_of_object(database):
    kinds = {key.kind for key in snapshot(database)}
    assert kinds == {
        "table", "column", "comment", "constraint", "index", "trigger", "policy", "grant", "function"
    }  # fmt: skip


@pytest.mark.slow
def test_up_down_up_gives_the_first_catalog(empty):
    empty.upgrade()
    first = snapshot(empty)
    empty.downgrade("base")
    empty.upgrade()
    assert differences(first, snapshot(empty)) == []


@pytest.mark.slow
def test_every_revision_goes_down_and_up_again(empty):
    from alembic.script import ScriptDirectory

    from support import alembic_config

    with empty.engine.connect() as connection:
        revisions = [r.revision for r in ScriptDirectory.from_config(alembic_config(connection)).walk_revisions()]
    for revision in reversed(revisions):
        empty.upgrade(revision)
        before = snapshot(empty)
        empty.downgrade("-1")
        empty.upgrade(revision)
        assert differences(before, snapshot(empty)) == [], revision


def test_after_downgrade_to_base_nothing_but_roles_remains(empty):
    def everything():
        return empty.run(
            "select 'schema', nspname from pg_namespace where nspname !~ '^pg_(toast_)?temp'"
            " union all select 'relation', oid::regclass::text from pg_class where oid >= 16384"
            " union all select 'function', oid::regprocedure::text from pg_proc where oid >= 16384"
            " union all select 'type', oid::regtype::text from pg_type where oid >= 16384 order by 1, 2"
        )

    before = everything()
    empty.upgrade()
    assert len(everything()) > len(before)
    empty.downgrade("base")
    assert everything() == before
    assert empty.value("select count(*) from pg_roles where rolname in ('anon', 'authenticated', 'service_role')") == 3


def test_a_new_database_holds_only_what_it_uses(database):
    rows = database.run(
        "select n.nspname || '.' || p.proname as name, pg_get_functiondef(p.oid) as body from pg_proc as p"
        " join pg_namespace as n on n.oid = p.pronamespace where n.nspname in ('profiles_internal', 'public')"
        " and not exists (select from pg_depend as d where d.objid = p.oid and d.deptype = 'e')"
    )
    assert {row.name for row in rows} >= {"profiles_internal.sign_up", "public.ensure_user_profile"}
    assert len(rows) <= 65
    assert sum(len(row.body.splitlines()) for row in rows) <= 2_650


def test_the_plan_and_the_revisions_run_the_same_text(empty):
    empty.upgrade("0013_create_table_triggers")
    planned = {re.search(r"function (\S+?)\(", each)[1]: each for each in adopt.functions()}
    rows = empty.run(
        "select 'profiles_internal.' || p.proname as name, p.prosrc from pg_proc as p"
        " where p.pronamespace = 'profiles_internal'::regnamespace"
    )
    found = {row.name: row.prosrc for row in rows if row.name in planned}
    # All but what 0006 makes where there is a table of profiles.
    assert {name for name in planned if name not in found} <= {
        each.name for each in objects.FUNCTIONS if each.where is Where.ADOPTED_PROFILES
    }
    assert [name for name, body in found.items() if body not in planned[name]] == []
    empty.upgrade()
    left = empty.run(
        "select p.proname from pg_proc as p where p.pronamespace = 'profiles_internal'::regnamespace"
        " and p.proname = any (cast(:names as text[]))",
        names=[path.stem for path in (script_location() / "adoption").glob("*.sql")],
    )
    assert left == []


def test_no_function_of_ours_is_open_to_public_and_each_pins_its_search_path(database):
    with database.engine.connect() as connection:
        rows = connection.execute(
            text(
                "select p.oid::regprocedure::text, p.proconfig, p.proacl::text from pg_proc as p"
                " join pg_namespace as n on n.oid = p.pronamespace"
                " where n.nspname in ('profiles_internal', 'auth')"
                " or (n.nspname = 'public' and n.nspname || '.' || p.proname = any (cast(:ours as text[])))"
            ),
            {"ours": public_functions()},
        ).all()
    assert len(rows) > 30
    for name, settings, rights in rows:
        assert "search_path=pg_catalog, pg_temp" in settings, name
        assert rights is not None, name
        assert not any(entry.startswith("=") for entry in rights.strip("{}").split(",")), name


SHAPE = """
select c.relname, s.kind, s.name, s.definition, s.not_null, s.default_value
from pg_class as c
cross join lateral (
  select 1 as place, a.attnum::integer as position, 'column' as kind, a.attname::text as name,
    format_type(a.atttypid, a.atttypmod) as definition, a.attnotnull as not_null,
    pg_get_expr(d.adbin, d.adrelid) as default_value
  from pg_attribute as a left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  union all
  select 2, 0, case k.contype when 'p' then 'primary key' when 'u' then 'unique' when 'c' then 'check' else 'foreign key' end,
    k.conname, pg_get_constraintdef(k.oid), null, null
  from pg_constraint as k where k.conrelid = c.oid and k.contype in ('p', 'u', 'c', 'f')
  union all
  select 3, 0, 'index', i.relname, pg_get_indexdef(i.oid), null, null
  from pg_index as x join pg_class as i on i.oid = x.indexrelid
  where x.indrelid = c.oid and not exists (select from pg_constraint as k where k.conindid = i.oid and k.conrelid = c.oid)
  union all
  select 4, 0, 'comment', c.relname, obj_description(c.oid, 'pg_class'), null, null
) as s
where c.oid = any (cast(:tables as regclass[]))
order by array_position(cast(:tables as regclass[]), c.oid), s.place, s.position, s.kind, s.name collate "C"
"""
ADOPTED = [
    f"public.{name}"
    for name in ("user_profiles", "user_progress", "user_api_keys", "export_history", "user_profile_audit_logs")
]


def test_adoption_compares_with_the_tables_as_they_are(database, request):
    def literal(value):
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        return "'" + value.replace("'", "''") + "'"

    def line(row):
        """A row; one that is too long a value a line, and a text that is too long in pieces, which SQL joins again."""
        values = [literal(value) for value in row]
        if len(whole := f"    ({', '.join(values)})") <= 119:
            return whole
        pieces = ["'\n        '".join(wrapped(value)) for value in values]
        return f"    ({', '.join(pieces[:3])},\n      {', '.join(pieces[3:])})"

    def wrapped(value):
        return textwrap.wrap(
            value,
            90,
            expand_tabs=False,
            replace_whitespace=False,
            drop_whitespace=False,
            break_on_hyphens=False,
            break_long_words=False,
        )

    with database.engine.connect() as connection:
        connection.exec_driver_sql("set search_path = pg_catalog, pg_temp")
        rows = connection.execute(text(SHAPE), {"tables": ADOPTED}).all()
    path = script_location() / "adoption" / "wanted_shape.sql"
    lines = ",\n".join(line(row) for row in rows)
    found = path.read_text(encoding="utf-8")
    wanted = re.sub(r"(?s)(?<=  values\n).*?(?=\n\$wanted_shape)", lambda _: lines, found)
    if request.config.getoption("--update-catalog"):
        path.write_text(wanted, encoding="utf-8")
    assert found == wanted, "run: make snapshot"


def test_an_erasure_knows_our_columns(request):
    path = Path(objects.__file__).parent / "sql" / "functions" / "profiles_internal.left_columns.sql"
    wanted = found = path.read_text(encoding="utf-8")
    for table in ("user_profiles", "user_progress", "export_history"):
        names = textwrap.wrap(" ".join(metadata.tables[table].columns.keys()), 106)
        lines = f"        when '{table}' then '\n          " + "\n          ".join(names) + "'\n"
        wanted = re.sub(rf"(?s)        when '{table}' then '.*?'\n", lambda _, lines=lines: lines, wanted)
    if request.config.getoption("--update-catalog"):
        path.write_text(wanted, encoding="utf-8")
    assert found == wanted, "run: make snapshot, then: make freeze"


def test_the_shipped_fingerprints_are_those_of_head(database, empty, request):
    # What exists only where users go on inserting their own row.
    empty.script("create table public.profiles (id uuid primary key); grant insert on public.profiles to authenticated")
    empty.upgrade(adopt_table="profiles")
    # And what only wide columns, another table of users, or old names need.
    with empty.engine.begin() as connection:
        for function in objects.FUNCTIONS:
            if function.where is not Where.EVERYWHERE:
                execute_literally(connection, function.text)

    def seen(where):
        with where.engine.connect() as connection:
            return take_snapshot(connection, expected.every_table(), public_functions(), ["profiles_internal", "auth"])

    wanted = expected.fingerprints(seen(database), seen(empty))
    if request.config.getoption("--update-catalog"):
        path = Path(expected.__file__).parent.parent / "schema" / expected.FILE
        path.write_text(expected.dump(wanted), encoding="utf-8")
    assert expected.load() == wanted, "run: make snapshot"
