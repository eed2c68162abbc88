"""The revisions as a whole: their form, the SQL files they froze, the script they print, and the backfill."""

import ast
import re
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise

import pytest
from alembic.script import ScriptDirectory

from profiles_schema.errors import InsufficientPrivilege
from profiles_schema.migrations import paths
from profiles_schema.schema import objects
from profiles_schema.schema.catalog import differences
from support import REPOSITORY, alembic, psql, snapshot

FILES = sorted(paths.versions().glob("*.py"))
SQL = REPOSITORY / "profiles_schema" / "schema" / "sql"
SQL_FILES = sorted(SQL.rglob("*.sql"))
HEAD = ScriptDirectory.from_config(paths.config()).get_current_head()
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
EVERY_SQL_FILE = pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def assigned(path):
    return {
        target.id: ast.literal_eval(line.value)
        for line in parsed(path).body
        if isinstance(line, ast.Assign)
        for target in line.targets
    }


# Form


@EVERY_FILE
def test_a_revision_imports_the_standard_library_alembic_and_sqlalchemy_only(path):
    modules = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules.add(node.module.partition(".")[0])
    assert modules <= sys.stdlib_module_names | {"alembic", "sqlalchemy"}


@EVERY_FILE
def test_a_revision_is_called_as_its_file(path):
    assert assigned(path)["revision"] == path.stem
    assert re.fullmatch(r"\d{4}(_[a-z0-9]+)+", path.stem)
    assert len(path.stem) <= 32


@EVERY_FILE
def test_a_revision_says_what_a_reader_needs_to_know(path):
    title, blank, *rest = ast.get_docstring(parsed(path)).splitlines()
    assert title.endswith(".")
    assert blank == ""
    assert [line.partition(":")[0] for line in rest if re.match(r"[A-Z][a-z ]+:", line)] == [
        "Why", "Locks", "Compatible with", "Back"
    ]  # fmt: skip
    assert all(line.partition(":")[2].strip() for line in rest)


@EVERY_FILE
def test_what_a_downgrade_drops_is_declared(path):
    """Every table of users' data that a downgrade drops is named in downgrade_drops, so that it is counted first."""
    source = path.read_text(encoding="utf-8").partition("def downgrade()")[2]
    dropped = set(re.findall(r"\bdrop table (?:if exists )?((?:public|auth)\.\w+)", source))
    assert dropped == set(assigned(path).get("downgrade_drops", ()))


def test_the_revisions_are_one_line_in_the_order_of_their_numbers():
    assert assigned(FILES[0])["down_revision"] is None
    for before, after in pairwise(FILES):
        assert assigned(after)["down_revision"] == before.stem
    assert [int(path.stem[:4]) for path in FILES] == list(range(1, len(FILES) + 1))
    assert all((assigned(p)["branch_labels"], assigned(p)["depends_on"]) == (None, None) for p in FILES)


def test_the_history_is_no_package():
    assert not list((REPOSITORY / "alembic").rglob("__init__.py"))


# The SQL files


def test_every_sql_file_is_in_the_inventory_and_every_entry_has_its_file():
    listed = [SQL / o.kind / f"{o.name}.sql" for o in objects.inventory()]
    assert sorted(listed) == SQL_FILES
    assert len(set(listed)) == len(listed)


def outside_quotes(sql):
    """A file without comments, without what is quoted, and without its dollar tags."""
    sql = re.sub(r"--[^\n]*", "", sql)
    sql = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"", "''", sql)
    return re.sub(r"\$\w*\$", "", sql)


@EVERY_SQL_FILE
def test_an_sql_file_speaks_with_the_voice_of_the_house(path):
    sql = path.read_text(encoding="utf-8")
    assert sql.startswith("-- "), "it begins with what it is for"
    assert sql.endswith("\n")
    assert not sql.endswith("\n\n")
    assert not re.findall(r"[ \t]+$", sql, re.MULTILINE)
    assert "\t" not in sql
    shouted = set(re.findall(r"\b[A-Z]{2,}\b", outside_quotes(sql)))
    assert shouted <= {"SQLSTATE"}
    assert "$$" not in sql, "a dollar tag has a name"


@EVERY_SQL_FILE
def test_text_can_carry_an_sql_file(path):
    sql = path.read_text(encoding="utf-8")
    assert "[:" not in sql, "a POSIX class looks like a bind parameter to SQLAlchemy"
    assert "\\:" not in sql, "SQLAlchemy would take this for its own escape"
    assert not re.search(r"(?<![:\w]):\w", sql)


def test_no_copy_in_an_unreleased_revision_is_stale():
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "freeze.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run: make freeze\n{done.stdout}{done.stderr}"


# As a script


def script(*arguments):
    """The script that the plain alembic command prints, without a database in sight."""
    done = alembic(None, *arguments, "--sql")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def up():
    return script("upgrade", "head")


@pytest.fixture(scope="module")
def down():
    return script("downgrade", f"{HEAD}:base")


EVERYTHING = (
    "select 'schema', nspname from pg_namespace where nspname !~ '^pg_(toast_)?temp'"
    " union all select 'relation', oid::regclass::text from pg_class where oid >= 16384 and relpersistence <> 't'"
    " union all select 'function', oid::regprocedure::text from pg_proc where oid >= 16384"
    " union all select 'type', oid::regtype::text from pg_type where oid >= 16384 order by 1, 2"
)


@pytest.mark.slow
def test_the_script_builds_what_the_upgrade_builds(empty, database, up):
    done = psql(empty, up)
    assert done.returncode == 0, done.stderr
    assert differences(snapshot(database), snapshot(empty)) == []
    assert empty.value("select version_num from profiles_internal.alembic_version") == HEAD
    assert empty.profile(empty.sign_up("ada@example.org")).username == "ada"


def test_the_script_takes_away_what_the_upgrade_built(empty, down):
    before = empty.run(EVERYTHING)
    empty.upgrade()
    done = psql(empty, down)
    assert done.returncode == 0, done.stderr
    assert empty.run(EVERYTHING) == before


def test_the_script_drops_no_rows(database, down):
    user = database.sign_up("ada@example.org")
    done = psql(database, down)
    assert done.returncode != 0
    assert "would drop tables that hold rows: public.user_p" in done.stderr
    assert database.profile(user).username == "ada"


def test_the_scripts_do_the_same_in_a_hosted_project(hosted, hosted_open, up, down):
    hosted_open.upgrade()
    before = hosted.run(EVERYTHING)
    done = psql(hosted, up)
    assert done.returncode == 0, done.stderr
    assert differences(snapshot(hosted_open), snapshot(hosted)) == []
    done = psql(hosted, down)
    assert done.returncode == 0, done.stderr
    assert hosted.run(EVERYTHING) == before


def test_the_script_starts_where_the_database_is_or_not_at_all(database, up):
    before = snapshot(database)
    done = psql(database, up)
    assert done.returncode != 0
    assert f"the database is at {HEAD}, this script starts at base" in done.stderr
    assert snapshot(database) == before


# The backfill

BEFORE_TRIGGERS = "0013_create_table_triggers"

IMPORT = """
insert into auth.users (id, email, deleted_at, raw_user_meta_data)
select gen_random_uuid(), 'user' || n % 3000 || '@example.org', case when n % 100 = 0 then now() end, '{"name": "Ada"}'
from generate_series(1, 3500) as n
"""


def missing(database):
    return database.value(
        "select count(*) from auth.users as u where deleted_at is null and (not exists (select from public.user_profiles as p"
        " where p.user_id = u.id) or not exists (select from public.user_progress as p where p.user_id = u.id))"
    )


def contents(database):
    return [
        database.run(f"select md5(string_agg(t::text, '' order by t::text)), count(*) from {table} as t")
        for table in ("public.user_profiles", "public.user_progress", "public.user_profile_audit_logs")
    ]


@pytest.mark.slow
def test_users_who_were_there_before_get_a_profile_and_those_who_left_do_not(empty):
    empty.upgrade(BEFORE_TRIGGERS)
    empty.run(IMPORT)
    empty.upgrade()
    assert missing(empty) == 0
    assert empty.value("select count(*) from public.user_profiles") == 3465
    assert empty.value("select count(*) from public.user_progress") == 3465
    assert empty.value("select count(distinct username) from public.user_profiles") == 3465
    assert empty.value("select count(*) from public.user_profiles where display_name <> 'Ada'") == 0

    before = contents(empty)
    empty.downgrade("-1")
    empty.upgrade()
    assert contents(empty) == before


def test_a_user_with_a_profile_but_without_progress_gets_progress(hosted):
    hosted.upgrade(BEFORE_TRIGGERS)
    with_profile, without = (hosted.sign_up(f"{name}@example.org") for name in ("ada", "grace"))
    hosted.run(
        "insert into public.user_profiles (user_id, username, bio) values (:id, 'lovelace', 'mine')", id=with_profile
    )
    hosted.upgrade()
    assert missing(hosted) == 0
    assert (hosted.profile(with_profile).username, hosted.profile(with_profile).bio) == ("lovelace", "mine")
    assert hosted.profile(without).username == "grace"


def test_one_poisoned_user_is_recorded_and_keeps_nobody_back(empty):
    empty.upgrade(BEFORE_TRIGGERS)
    empty.run(IMPORT)
    poisoned = empty.sign_up("poison@example.org")
    empty.script(
        "create function public.refuse() returns trigger language plpgsql as $refuse$ begin"
        " if new.email = 'poison@example.org' then raise exception 'never %', new.email; end if; return new; end $refuse$;"
        " create trigger refuse before insert on public.user_profiles for each row execute function public.refuse();"
    )
    empty.upgrade()
    assert missing(empty) == 1
    assert empty.profile(poisoned) is None
    (record,) = empty.run(
        "select user_id, origin, error_code, error_message from public.user_profile_audit_logs where action = 'failed'"
    )
    assert (record.user_id, record.origin, record.error_code) == (poisoned, "backfill", "P0001")
    assert "poison@" not in (record.error_message or "")


@pytest.mark.parametrize("mode", ["defer", "inline"])
def test_the_backfill_can_be_deferred(empty, mode):
    empty.upgrade(BEFORE_TRIGGERS)
    empty.sign_up("ada@example.org")
    empty.upgrade(backfill=mode)
    assert missing(empty) == (1 if mode == "defer" else 0)
    jobs = empty.run("select kind, state, rows_total from profiles_internal.jobs")
    assert [tuple(job) for job in jobs] == ([("backfill", "pending", 1)] if mode == "defer" else [])


@pytest.mark.slow
def test_a_deferred_backfill_of_more_than_it_counts_claims_no_total(empty):
    empty.upgrade(BEFORE_TRIGGERS)
    empty.run("insert into auth.users (id) select gen_random_uuid() from generate_series(1, 100_002)")
    empty.upgrade()
    jobs = empty.run("select kind, state, rows_total from profiles_internal.jobs")
    assert [tuple(job) for job in jobs] == [("backfill", "pending", None)]


def test_a_deferred_backfill_registers_one_job_however_often_it_runs(empty):
    empty.upgrade(BEFORE_TRIGGERS)
    empty.sign_up("ada@example.org")
    for _ in range(2):
        empty.upgrade(backfill="defer")
        empty.downgrade("-1")
    assert empty.value("select count(*) from profiles_internal.jobs") == 1


def test_with_nobody_waiting_a_deferred_backfill_registers_nothing(empty):
    empty.upgrade(backfill="defer")
    assert empty.value("select count(*) from profiles_internal.jobs") == 0


@contextmanager
def blinded(database):
    """The project's owner without BYPASSRLS, which belongs to the whole server."""
    database.administrator.run("alter role project_owner nobypassrls")
    try:
        yield
    finally:
        database.administrator.run("alter role project_owner bypassrls")


def test_a_role_that_sees_no_users_is_told_so(hosted):
    with blinded(hosted):
        hosted.upgrade(BEFORE_TRIGGERS)
        hosted.administrator.sign_up("ada@example.org")
        with pytest.raises(InsufficientPrivilege) as refused:
            hosted.upgrade()
    assert "row level security hides auth.users" in str(refused.value)
    assert "alter role project_owner bypassrls" in str(refused.value)
    hosted.upgrade()
    assert missing(hosted) == 0


def test_a_backfill_that_failed_leaves_nothing_behind_at_base(hosted):
    with blinded(hosted):
        hosted.upgrade(BEFORE_TRIGGERS)
        hosted.administrator.sign_up("ada@example.org")
        with pytest.raises(InsufficientPrivilege):
            hosted.upgrade()
    hosted.downgrade("base", allow_data_loss="yes")
    assert hosted.value("select to_regnamespace('profiles_internal')") is None
