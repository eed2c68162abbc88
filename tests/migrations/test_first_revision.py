"""The first revision gives an existing text id of profiles its default, and can be deployed alone."""

import re

import pytest

from profiles_schema.migrations import paths
from profiles_schema.schema.catalog import differences
from support import drift, profiles_schema, psql, shapes, snapshot

FIRST = "0001_default_profile_id"
OURS = "(gen_random_uuid())::text"
DEFAULT = (
    "select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef as d join pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum"
    " where a.attrelid = to_regclass(:table) and a.attname = 'id'"
)
INSERT = "insert into public.user_profiles (user_id, username, first_seen_at, last_interaction_at) values ('1' || repeat('0', 17), 'new', 1, 1)"


@pytest.fixture
def bot(empty):
    """A bot's table on a plain server, with rows."""
    shapes.create(empty, "e")
    shapes.fill(empty, "e", 20)
    empty.found = shapes.look(empty, "e")
    return empty


def id_default(database, table="public.user_profiles"):
    return database.value(DEFAULT, table=table)


def test_alone_it_gives_the_default_and_changes_nothing_else(bot):
    bot.upgrade(FIRST)
    assert id_default(bot) == OURS
    changed = [c for c in shapes.changes(bot, bot.found) if "profiles_internal" not in c]
    assert changed == [f"column public.user_profiles.id: 'text not null' has become 'text not null default {OURS}'"]
    assert shapes.row_changes(bot, bot.found) == []
    bot.run(INSERT)
    assert len(bot.value("select id from public.user_profiles where username = 'new'")) == 36
    bot.run("delete from public.user_profiles where username = 'new'")
    bot.downgrade("base")
    assert id_default(bot) is None
    assert shapes.changes(bot, bot.found) == []
    assert bot.value("select to_regnamespace('profiles_internal')") is None


@pytest.mark.slow
def test_after_it_the_rest_goes_up_and_down_as_without_it(bot, server):
    bot.upgrade(FIRST)
    bot.upgrade(**shapes.options("e"))
    assert (id_default(bot), drift(bot)) == (OURS, [])
    bot.downgrade(FIRST, allow_data_loss="yes")
    assert id_default(bot) == OURS
    bot.downgrade("base", allow_data_loss="yes")
    assert shapes.changes(bot, bot.found) == []
    assert [str(change) for change in shapes.row_changes(bot, bot.found)] == []


def test_it_looks_at_the_table_that_is_to_be_taken_over(empty):
    empty.script("create table public.members (id text primary key, user_id text unique)")
    empty.upgrade(FIRST, adopt_table="members")
    assert id_default(empty, "public.members") == OURS
    empty.downgrade("base")
    assert id_default(empty, "public.members") is None


@pytest.mark.parametrize(
    "column",
    [
        "text default 'mine'", "text default (gen_random_uuid())::text", "uuid", "bigint generated always as identity",
        "character varying(20)",
    ],
)  # fmt: skip
def test_an_id_of_another_type_or_with_a_default_of_its_own_is_left_alone(empty, column):
    empty.script(f"create table public.user_profiles (id {column})")
    before = id_default(empty)
    empty.upgrade(FIRST)
    assert id_default(empty) == before
    empty.downgrade("base")
    assert id_default(empty) == before


def test_where_there_is_no_table_it_does_nothing(empty, database):
    empty.upgrade(FIRST)
    assert empty.value("select to_regclass('public.user_profiles')") is None
    empty.upgrade()
    assert differences(snapshot(database), snapshot(empty)) == []


def test_the_script_of_it_alone_gives_the_default_too(bot):
    from io import StringIO

    from alembic import command

    for target, wanted in ((FIRST, OURS), ("head", None)):
        config = paths.config()
        config.output_buffer = StringIO()
        command.upgrade(config, target, sql=True)
        script = config.output_buffer.getvalue()
        if wanted is None:
            assert "set_config('profiles_schema.goes_on', 'yes', false)" in script
            continue
        done = psql(bot, script)
        assert done.returncode == 0, done.stderr
        assert id_default(bot) == wanted


@pytest.mark.parametrize("alone", [False, True])
def test_the_log_has_a_row_for_every_revision_and_the_way_back(empty, alone):
    every = sorted(path.stem for path in paths.versions().glob("*.py"))
    if alone:
        empty.upgrade(FIRST)
    empty.upgrade()
    log = "select revision from profiles_internal.migration_log where direction = :direction and outcome = 'done' order by id"
    assert [row.revision for row in empty.run(log, direction="upgrade")] == every
    (log_of,) = (revision for revision in every if revision.endswith("create_internal_tables"))
    later = every[every.index(log_of) + 1 :]
    empty.downgrade(log_of, allow_data_loss="yes")
    assert [row.revision for row in empty.run(log, direction="downgrade")] == later[::-1]


@pytest.mark.slow
def test_the_log_of_a_script_has_a_row_for_every_revision(empty):
    from io import StringIO

    from alembic import command

    config = paths.config()
    config.output_buffer = StringIO()
    command.upgrade(config, "head", sql=True)
    assert psql(empty, config.output_buffer.getvalue()).returncode == 0
    rows = empty.run("select revision from profiles_internal.migration_log order by id")
    assert [row.revision for row in rows] == sorted(path.stem for path in paths.versions().glob("*.py"))


def test_behind_it_every_verb_says_that_the_upgrade_goes_on(bot):
    bot.upgrade(FIRST)
    done = profiles_schema(bot.url, "health")
    assert (done.returncode, re.findall("next: (.*)", done.stdout)) == (1, ["profiles-schema upgrade"])
    for verb in ("smoke", "backfill", "settings get", "normalize status", "jobs list", "repair --dry-run"):
        done = profiles_schema(bot.url, *verb.split())
        assert (done.returncode, done.stderr) == (
            1, "error: The database is not at the newest revision. Run: profiles-schema upgrade\n"
        ), verb  # fmt: skip
