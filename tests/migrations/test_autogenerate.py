"""`check` and `revision --autogenerate`: what is ours and differs is found and put right; what is not ours is left alone."""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, Text, Uuid

from profiles_schema import metadata
from profiles_schema.migrations import expected, paths
from profiles_schema.migrations.runner import COMMAND
from profiles_schema.schema.catalog import Key, differences
from profiles_schema.schema.objects import SqlObject
from support import REPOSITORY, Database, alembic, drift, profiles_schema, snapshot
from support.damages import APPLICATIONS_OWN, DAMAGES, compatible_damages

VERSIONS = paths.versions()
NEXT = f"{len(list(VERSIONS.glob('0*.py'))) + 1:04d}"

# SQLAlchemy 2.1 warns of an option that it made itself, when it reads a CHECK that is not validated.
pytestmark = pytest.mark.filterwarnings("ignore:Can't validate argument 'dialect_options'")


@pytest.fixture
def reader(database):
    yield
    database.script("drop owned by application_reader; drop role application_reader;")


class Scripts:
    """A copy of the history that revisions can be written into."""

    def __init__(self, directory):
        shutil.copytree(REPOSITORY / "alembic", directory / "alembic", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "alembic.ini", directory)
        self.directory = directory
        self.before = set(self.versions())

    def versions(self):
        return sorted((self.directory / "alembic" / "versions").glob("*.py"))

    def config(self, connection, verb):
        config = Config(str(self.directory / "alembic.ini"), cmd_opts=argparse.Namespace(x=[]))
        config.attributes |= {"connection": connection, COMMAND: verb}
        return config

    def run(self, database, verb, *arguments, **options):
        with database.engine.connect() as connection:
            config = self.config(connection, verb)
            return getattr(command, verb)(config, *arguments, **options)

    def revision(self, database, message="bring it back", **options):
        """Autogenerate; returns the new file."""
        self.run(database, "revision", message=message, autogenerate=True, **options)
        (new,) = set(self.versions()) - self.before
        self.before.add(new)
        return new

    def proposes_nothing(self, database):
        """Whether one more revision would be empty."""
        new = self.revision(database)
        bodies = [f.body for f in ast.parse(new.read_text()).body if isinstance(f, ast.FunctionDef)]
        new.unlink()
        self.before.discard(new)
        return [type(line) for body in bodies for line in body] == [ast.Pass, ast.Pass]

    def drift(self, database):
        with database.engine.connect() as connection:
            config = self.config(connection, "check")
        return drift(database, config)


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    # alembic.ini configures logging of the whole process.
    monkeypatch.setattr("logging.config.fileConfig", lambda *_, **__: None)
    return Scripts(tmp_path)


# check


def test_check_is_clean_right_after_the_upgrade(project):
    assert drift(project) == []


@pytest.mark.parametrize("damages", compatible_damages(), ids=len)
def test_check_names_what_differs_and_nothing_else(database, damages):
    for damage in damages:
        database.script(DAMAGES[damage][0])
    found = drift(database)
    for damage in damages:
        assert [line for line in found if DAMAGES[damage][1] in line], damage
    names = [DAMAGES[damage][1] for damage in damages]
    assert [line for line in found if not any(name in line for name in names)] == []


@pytest.mark.parametrize(
    "damage", ["sign-up trigger missing", "sign-up trigger disabled", "policy using", "function body"]
)
def test_check_names_what_differs_in_a_hosted_project(supabase, damage):
    sql, name = DAMAGES[damage]
    supabase.administrator.script(sql)
    (found,) = drift(supabase)
    assert name in found


def test_check_goes_on_where_a_table_of_ours_is_missing(database):
    database.script("drop table public.user_api_keys")
    assert drift(database) == ["The table user_api_keys is missing."]


def test_what_the_application_owns_is_never_proposed(database, reader):
    database.script(APPLICATIONS_OWN)
    assert drift(database) == []


def test_schema_auth_of_the_auth_server_is_never_proposed(supabase):
    supabase.administrator.script(
        "alter table auth.users add column favourite text; create index on auth.users (favourite);"
        " create table auth.sessions (id uuid); create policy p on auth.users using (true);"
        " create or replace function auth.email() returns text language sql as 'select null::text';"
        " create trigger audit after insert on auth.users for each row execute function suppress_redundant_updates_trigger();"
    )
    assert drift(supabase) == []


def test_check_changes_nothing(project):
    before = snapshot(project)
    xids = "select count(*) from pg_class where relpersistence = 't'"
    assert drift(project) == []
    assert snapshot(project) == before
    assert project.value(xids) == 0


def test_check_waits_for_nobody_who_writes_and_keeps_nobody_waiting(project):
    tables = "public.user_profiles, public.user_progress, public.user_api_keys, public.export_history, public.sessions"
    with project.administrator.engine.connect() as writer, writer.begin():
        writer.exec_driver_sql(f"lock table {tables}, public.user_profile_audit_logs, auth.users in row exclusive mode")
        assert drift(project) == []
    with project.engine.connect() as connection:
        assert list(expected.sentences(connection)) == []
        assert locks(connection) == {"AccessShareLock"}


def locks(connection):
    """The locks on tables that a transaction holds."""
    modes = "select distinct mode from pg_locks where pid = pg_backend_pid() and locktype = 'relation'"
    return set(connection.exec_driver_sql(modes).scalars())


READER = """
create role reader_of_checks login;
grant usage on schema public, auth, profiles_internal to reader_of_checks;
grant select on profiles_internal.adopted, profiles_internal.settings, profiles_internal.legacy_columns,
  profiles_internal.alembic_version to reader_of_checks;
"""


@contextmanager
def as_reader(database):
    """The database as a role that may read what docs/how-to/monitor-a-database.md says, and as if it were a standby."""
    administrator = database.administrator
    administrator.script(READER)
    administrator.run(f'alter database "{database.name}" set default_transaction_read_only = on')
    try:
        yield Database(database.server, database.name, "reader_of_checks")
    finally:
        administrator.script("set transaction read write; drop owned by reader_of_checks; drop role reader_of_checks")


def test_a_role_that_may_only_read_can_check_a_standby(project):
    with as_reader(project) as reader:
        assert drift(reader) == []
        for run in (profiles_schema, alembic):
            assert run(reader.url, "check").returncode == 0


@pytest.mark.parametrize("damages", compatible_damages(), ids=len)
def test_a_role_that_may_only_read_finds_on_a_standby_what_the_owner_finds(database, damages):
    for damage in damages:
        database.script(DAMAGES[damage][0])
    found = drift(database)
    assert len(found) >= len(damages)
    with as_reader(database) as reader:
        assert drift(reader) == found


# revision --autogenerate


# The first holds one damage of every object, the others what else can happen to the same.
FIRST, *MORE = compatible_damages()


@pytest.mark.parametrize("damages", [FIRST, *(pytest.param(more, marks=pytest.mark.slow) for more in MORE)], ids=len)
def test_a_revision_brings_back_what_is_declared_and_its_downgrade_what_was(database, scripts, damages):
    head = snapshot(database)
    for damage in damages:
        database.script(DAMAGES[damage][0])
    damaged = snapshot(database)

    new = scripts.revision(database)
    assert new.name == f"{NEXT}_bring_it_back.py"
    ast.parse(new.read_text())
    scripts.run(database, "upgrade", "head")
    assert scripts.drift(database) == []
    assert differences(head, snapshot(database)) == []

    scripts.run(database, "downgrade", "-1")
    left = differences(damaged, snapshot(database))
    # Row level security is never switched off again.
    assert left == (["table public.user_api_keys: changed"] if "row security off" in damages else [])
    scripts.run(database, "upgrade", "head")
    assert scripts.drift(database) == []


def test_a_missing_column_comes_back_with_its_check_and_its_grants(database, scripts):
    head = snapshot(database)
    database.script("alter table public.user_profiles drop column bio")
    assert drift(database) == [
        "The column bio of public.user_profiles is missing.",
        "The constraint ck_user_profiles_bio_up_to_4000_characters of public.user_profiles is missing.",
        "authenticated has lost its rights on the column bio of public.user_profiles.",
    ]
    scripts.revision(database)
    scripts.run(database, "upgrade", "head")
    assert differences(head, snapshot(database)) == []


@pytest.mark.slow
def test_a_revision_that_was_interrupted_can_run_again_as_a_whole(database, scripts):
    together = ("index method", "CHECK text", "policy missing", "function result", "trigger missing", "column grant")
    database.script(";".join(DAMAGES[damage][0] for damage in together))
    new = scripts.revision(database)
    once = new.read_text()
    body = once.partition("def upgrade() -> None:\n")[2].partition("def downgrade")[0]
    new.write_text(once.replace(body, f"{body.rstrip()}\n{body}"))
    scripts.run(database, "upgrade", "head")
    assert scripts.drift(database) == []


@pytest.mark.parametrize("damage", ["sign-up trigger missing", "policy missing", "table grant"])
def test_the_owner_of_a_hosted_project_can_run_such_a_revision(hosted, scripts, damage):
    hosted.upgrade()
    head = snapshot(hosted)
    hosted.administrator.script(DAMAGES[damage][0])
    damaged = snapshot(hosted)
    scripts.revision(hosted)
    scripts.run(hosted, "upgrade", "head")
    assert differences(head, snapshot(hosted)) == []
    scripts.run(hosted, "downgrade", "-1")
    assert differences(damaged, snapshot(hosted)) == []


def test_a_revision_leaves_what_the_application_owns(database, scripts, reader):
    database.script(APPLICATIONS_OWN)
    before = snapshot(database)
    database.script(DAMAGES["column grant"][0])
    scripts.revision(database)
    scripts.run(database, "upgrade", "head")
    assert differences(before, snapshot(database)) == []
    assert database.value("select has_table_privilege('application_reader', 'public.user_profiles', 'select')")


@pytest.mark.slow
def test_an_unchanged_database_gives_an_empty_revision(database, scripts):
    new = scripts.revision(database, "nothing new")
    tree = ast.parse(new.read_text())
    bodies = {f.name: f.body for f in tree.body if isinstance(f, ast.FunctionDef)}
    assert {name: [type(line) for line in body] for name, body in bodies.items()} == {
        "upgrade": [ast.Pass], "downgrade": [ast.Pass]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("Add Émile's shoe size!", f"{NEXT}_add_émile_s_shoe_size.py"),
        ("x" * 60, f"{NEXT}_{'x' * 27}.py"),
        ("with a cut just behind_a word b", f"{NEXT}_with_a_cut_just_behind_a_wo.py"),
        ("trailing blanks are cut away so", f"{NEXT}_trailing_blanks_are_cut_awa.py"),
        (None, f"{NEXT}_change.py"),
    ],
)
def test_a_new_revision_is_numbered_and_named_after_its_message(database, scripts, message, name):
    new = scripts.revision(database, message)
    assert new.name == name
    assert len(new.stem) <= 32


def test_a_revision_id_that_was_asked_for_is_kept(database, scripts):
    assert scripts.revision(database, "whatever", rev_id="0099_mine").name == "0099_mine.py"


def test_a_new_revision_asks_for_what_a_reader_needs_to_know(database, scripts):
    docstring = ast.get_docstring(ast.parse(scripts.revision(database).read_text()))
    assert docstring.splitlines()[0] == "bring it back"
    for word in ("Why:", "Locks:", "Compatible with:", "Back:"):
        assert f"\n{word}" in docstring


def edited(monkeypatch, stem, old, new):
    """One live .sql file with other text."""
    original = SqlObject.text.func
    whole = {}

    def text(self):
        found = original(self)
        if self.name == stem:
            assert old in found
            whole[stem] = found = found.replace(old, new)
        return found

    monkeypatch.setattr(SqlObject, "text", property(text))
    return whole


@pytest.mark.slow
def test_an_edited_file_goes_into_the_revision_as_it_is(database, scripts, monkeypatch):
    whole = edited(
        monkeypatch, "public.get_my_profile_v2", "begin", "declare\n  note text := '''it'' %s :c \\n';\nbegin"
    )
    before = snapshot(database)
    new = scripts.revision(database, "note it")
    frozen = new.read_text()
    assert f'\n{whole["public.get_my_profile_v2"].strip()}\n"""'.replace(":c", "\\:c") in frozen
    scripts.run(database, "upgrade", "head")
    assert scripts.proposes_nothing(database)
    assert "note text := '''it'' %s :c \\n';" in database.value(
        "select prosrc from pg_proc where oid = 'public.get_my_profile_v2()'::regprocedure"
    )
    scripts.run(database, "downgrade", "-1")
    assert differences(before, snapshot(database)) == []


def test_colons_that_text_cannot_carry_survive(database, scripts, monkeypatch):
    edited(monkeypatch, "public.get_my_profile_v2", "begin", "declare\n  n text := '[[:space:]] 5 % \\:x :y';\nbegin")
    scripts.revision(database, "note it")
    scripts.run(database, "upgrade", "head")
    assert scripts.proposes_nothing(database)


@pytest.mark.slow
def test_a_new_column_and_a_function_that_reads_it_fit_into_one_revision(database, scripts, monkeypatch):
    table = metadata.tables["user_profiles"]
    table.append_column(Column("shoe_size", Integer))
    try:
        edited(monkeypatch, "profiles_internal.public_profiles", "p.bio", "p.bio || p.shoe_size")
        frozen = scripts.revision(database, "add shoe size").read_text()
        assert "op.add_column('user_profiles', sa.Column('shoe_size'" in frozen
        assert "p.bio || p.shoe_size" in frozen
        scripts.run(database, "upgrade", "head")
        assert scripts.proposes_nothing(database)
        scripts.run(database, "downgrade", "-1")
        assert Key("column", "public", "user_profiles", "shoe_size") not in snapshot(database)
    finally:
        table._columns.remove(table.c.shoe_size)


@pytest.mark.slow
def test_the_alembic_command_writes_a_revision_from_a_file_that_was_edited(database, scripts, tmp_path):
    package = tmp_path / "profiles_schema"
    shutil.copytree(REPOSITORY / "profiles_schema", package, ignore=shutil.ignore_patterns("__pycache__"))
    live = package / "schema" / "sql" / "functions" / "public.gen_available_username.sql"
    live.write_text(re.sub(r"\bend\n(\$\w+\$;)|(\$\w+\$;)", r"-- a remark\n\g<0>", live.read_text(), count=1))

    def command_line(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "alembic", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            env=os.environ | {"DATABASE_URL": database.url, "PYTHONPATH": str(tmp_path)}, check=False,
        )  # fmt: skip

    written = command_line("revision", "--autogenerate", "-m", "remark")
    assert written.returncode == 0, written.stderr
    assert (tmp_path / "alembic" / "versions" / f"{NEXT}_remark.py").is_file()
    for arguments in (["upgrade", "head"], ["downgrade", "-1"]):
        done = command_line(*arguments)
        assert done.returncode == 0, done.stderr


# An application's own history


class Application:
    """An application with models and a history of its own, which depends on ours."""

    def __init__(self, directory):
        self.directory = directory
        self.own_versions = directory / "versions"
        self.own_versions.mkdir(parents=True)
        (directory / "env.py").write_text(
            "from alembic import context\n"
            "import profiles_schema\n"
            "from profiles_schema.migrations.runner import run\n"
            "run(context, metadata=[profiles_schema.metadata, context.config.attributes['application']])\n"
        )
        (directory / "script.py.mako").write_text(
            '"""${message}"""\nfrom alembic import op\nimport sqlalchemy as sa\n'
            "revision = ${repr(up_revision)}\ndown_revision = ${repr(down_revision)}\n"
            "branch_labels = ${repr(branch_labels)}\ndepends_on = ${repr(depends_on)}\n"
            'def upgrade() -> None:\n    ${upgrades or "pass"}\n\n\ndef downgrade() -> None:\n    ${downgrades or "pass"}\n'
        )
        self.metadata = MetaData()
        Table(
            "orders", self.metadata, Column("id", Integer, primary_key=True), Column("note", Text, index=True),
            Column("user_id", Uuid, ForeignKey(metadata.tables["user_profiles"].c.user_id)),
        )  # fmt: skip

    def config(self, connection, verb):
        config = Config(cmd_opts=argparse.Namespace(x=[]))
        config.set_main_option("script_location", str(self.directory))
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", f"{self.own_versions}\n{VERSIONS}")
        config.attributes |= {"connection": connection, COMMAND: verb, "application": self.metadata}
        return config

    def run(self, database, verb, *arguments, **options):
        with database.engine.connect() as connection:
            return getattr(command, verb)(self.config(connection, verb), *arguments, **options)

    def drift(self, database):
        with database.engine.connect() as connection:
            config = self.config(connection, "check")
        return drift(database, config)


def test_an_application_keeps_its_own_history_beside_ours(empty, tmp_path):
    application = Application(tmp_path / "application")
    application.run(empty, "upgrade", "heads")
    ours = snapshot(empty)
    assert sorted(application.drift(empty)) == ["add index ix_orders_note on orders", "add table orders"]

    application.run(
        empty, "revision", message="Orders", autogenerate=True, head="base", branch_label="shop",
        version_path=str(application.own_versions), depends_on="0015_backfill_profiles",
    )  # fmt: skip
    (own,) = application.own_versions.glob("*.py")
    assert "op.create_table('orders'" in own.read_text()
    assert "replace" not in own.read_text()

    application.run(empty, "upgrade", "heads")
    assert application.drift(empty) == []
    empty.run("insert into public.orders (id, user_id) values (1, :id)", id=empty.sign_up("ada@example.org"))
    application.run(empty, "downgrade", "shop@base")
    assert empty.value("select to_regclass('public.orders')") is None
    assert differences(ours, snapshot(empty)) == []
    assert ScriptDirectory.from_config(paths.config()).get_current_head() == empty.value(
        "select version_num from profiles_internal.alembic_version"
    )


def test_an_application_finds_what_differs_in_ours(database, tmp_path):
    application = Application(tmp_path / "application")
    database.script(DAMAGES["policy using"][0])
    said = 'The policy "Owners can read their own profile" of public.user_profiles is not as declared.'
    assert sorted(application.drift(database)) == [said, "add index ix_orders_note on orders", "add table orders"]


def test_an_application_that_compares_only_its_own_tables_is_not_told_of_ours(database, tmp_path):
    application = Application(tmp_path / "application")
    (application.directory / "env.py").write_text(
        "from alembic import context\n"
        "from profiles_schema.migrations.runner import run\n"
        "run(context, metadata=context.config.attributes['application'])\n"
    )
    application.metadata = MetaData()
    Table("orders", application.metadata, Column("id", Integer, primary_key=True))
    database.script(DAMAGES["policy using"][0])
    assert application.drift(database) == ["add table orders"]
