"""Probes: files of statements are read as PostgreSQL would, run as the roles they name, rolled back, and compared."""

import json

import pytest

from profiles_schema.errors import UsageError
from profiles_schema.operations.rehearse import probes
from support import profiles_schema

ADA = "11111111-1111-4111-8111-111111111111"
NOTES = """
create table public.notes (
  id integer generated always as identity primary key, owner uuid, body text, data jsonb, n integer,
  constraint named unique (body) deferrable initially deferred
);
alter table public.notes enable row level security;
create policy mine on public.notes to authenticated using (auth.uid() = owner);
grant select, insert on public.notes to authenticated, service_role;
create policy ours on public.notes to service_role using (true);
insert into public.notes (owner, body, data, n) values
  ('11111111-1111-4111-8111-111111111111', 'hers', '{"a": 1}', 1), (null, 'nobody''s', null, null);
"""


def statements(content):
    return [probe.statement for probe in probes.parse(content, "x.sql")]


@pytest.fixture
def notes(database):
    database.script(NOTES)
    return database


@pytest.fixture
def tried(notes):
    """Runs a file's content, as the superuser of a database with notes."""

    def run(content):
        with notes.engine.connect() as connection:
            return probes.run(connection, probes.parse(content, "x.sql"))

    return run


# Files


@pytest.mark.parametrize(
    "statement",
    [
        "select 'a;b', \";\" from t",
        "select E'it\\'s; x', 'it''s;'",
        "do $body$ begin perform 1; end $body$",
        "select $$;$$, $1$ from t",
        "select /* ; /* ; */ ; */ 1 -- ; more\n + 1",
        "select a$b$c from t",
        "select 1.5e3, 'é'",
    ],
)
def test_a_semicolon_in_quotes_or_comments_ends_no_statement(statement):
    if "$1$" in statement:  # a parameter opens no quote
        statement = "select $$;$$, $1 from t"
    assert statements(f"{statement};\nselect 2") == [statement, "select 2"]


def test_comments_say_who_runs_a_statement_and_what_it_is_called():
    found = probes.parse(
        f"""
-- Prose, and a statement of the owner.
select 1;
-- as authenticated {ADA} {{"email": "ada@example.org"}}
-- name: what Ada sees
select 2; select 3;
-- AS anon
select 4 -- the last needs no semicolon
""",
        "x.sql",
    )
    assert [(p.place, p.role, p.user, p.name) for p in found] == [
        ("x.sql:3", "owner", None, ""),
        ("x.sql:6", "authenticated", ADA, "what Ada sees"),
        ("x.sql:6", "authenticated", ADA, ""),
        ("x.sql:8", "anon", None, ""),
    ]
    assert json.loads(found[1].claims) == {
        "role": "authenticated", "sub": ADA, "aud": "authenticated", "email": "ada@example.org",
    }  # fmt: skip
    assert json.loads(found[3].claims) == {"role": "anon"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no statement"),
        ("-- as anon\n;;", "holds no statement"),
        ("-- as admin\nselect 1", '"-- as admin" names no known role'),
        ("-- as authenticated\nselect 1", "needs the id of a user"),
        (f"-- as anon {ADA}\nselect 1", "takes no user"),
        ("-- as anon {broken}\nselect 1", "no JSON object"),
        ("select 'open", "x.sql:1: ' is not closed"),
        ("select 1;\nselect $a$ b", "x.sql:2: $a$ is not closed"),
        ("/* /* */ select 1", "/* is not closed"),
        ("select 1\n-- as anon\nselect 2;", "inside a statement"),
        ("commit", "COMMIT cannot be a probe"),
        ("copy t from stdin", "COPY cannot be a probe"),
    ],
)
def test_a_malformed_file_is_one_clear_error(content, said):
    with pytest.raises(UsageError, match=said.replace("$", r"\$").replace("*", r"\*")):
        probes.parse(content, "x.sql")


@pytest.mark.parametrize("content", [None, b"\xff", b"-- as nobody\nselect 1"])
def test_a_file_that_cannot_be_used_is_a_usage_error_before_anything_is_copied(tmp_path, content):
    path = tmp_path / "app.sql"
    if content is not None:
        path.write_bytes(content)
    done = profiles_schema(None, "rehearse", "--source", "postgresql://nowhere.invalid/x", "--probe", str(path))
    assert done.returncode == 2
    assert "app.sql" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "rror" in line]) == 1


# Runs


def test_a_probe_runs_as_the_role_and_user_that_it_names(tried):
    found = tried(
        f"""
select current_user, auth.uid() is null;
-- as anon
select current_user, auth.role(), current_setting('search_path');
select * from notes;
-- as authenticated {ADA}
select current_user, auth.uid(); select body from notes;
-- as service_role
select count(*) from notes
"""
    )
    assert [outcome.rows or outcome.sqlstate for outcome in found] == [
        (("postgres", "t"),), (("anon", "anon", "public, extensions"),), "42501",
        (("authenticated", ADA),), (("hers",),), (("2",),),
    ]  # fmt: skip


def test_nothing_that_a_probe_does_is_left_not_even_in_a_sequence(tried, notes):
    insert = "insert into notes (body) values ('new') returning id, body;"
    found = tried(f"{insert} {insert} create table left_over (); select count(*) from notes")
    assert [outcome.rows for outcome in found] == [(("3", "new"),), (("3", "new"),), (), (("2",),)]
    assert notes.value("select to_regclass('left_over') is null")
    assert notes.value("select last_value from notes_id_seq") == 2


def test_what_a_deferred_constraint_refuses_is_an_error(tried):
    (found,) = tried("insert into notes (body) values ('hers')")
    assert (found.sqlstate, found.count) == ("23505", 0)


def test_a_role_that_is_not_there_yet_is_an_error_of_the_probe(empty):
    with empty.engine.connect() as connection:
        connection.exec_driver_sql("create role probing_owner; alter role probing_owner set search_path = app, public")
        connection.commit()
        try:
            (found,) = probes.run(
                connection, probes.parse("select current_setting('search_path')", "x"), owner="probing_owner"
            )
            (missing,) = probes.run(connection, probes.parse("select 1", "x"), owner="not there")
        finally:
            connection.exec_driver_sql("drop role probing_owner")
            connection.commit()
    assert found.rows == (("app, public",),)
    assert missing.sqlstate == "22023"


# Comparison


@pytest.mark.parametrize(
    ("before", "after", "differ"),
    [
        ("select 1", "select 1", False),
        ("select 1", "select 2", True),
        ("values (1), (2)", "values (2), (1)", False),
        ("values (1), (2), (2)", "values (2), (1), (1)", True),
        ("select x from (values (1), (2)) v (x) order by x", "select x from (values (1), (2)) v (x) order by x desc", True),
        ("select 1 as a, 2 as b", "select 3 as c, 2 as b, 1 as a", False),
        ("select 1 as a, 2 as b", "select 1 as a", True),
        ("select '1' as a", "select 1 as a", True),
        ("select '{\"a\": 1}' as a", "select '{\"a\": 1}'::jsonb as a", True),
        ("select '{\"b\": 1,  \"a\": 1.50}'::json as a", "select '{\"b\": 1, \"a\": 1.50}'::jsonb as a", False),
        ("select '{\"a\": 1.5}'::json as a", "select '{\"a\": 1.6}'::jsonb as a", True),
        ("select 'x'::varchar as a", "select 'x'::text as a", False),
        ("select 1 where false", "select 1 / 0", True),
        ("select * from missing", "select * from missed", False),
        ("do 'begin raise exception ''one''; end'", "do 'begin raise exception ''two''; end'", True),
        ("insert into notes (body) values ('a')", "insert into notes (body) values ('a'), ('b')", True),
        ("select null::text", "select 'NULL'", True),
    ],
)  # fmt: skip
def test_a_difference_is_another_row_or_error_or_kind_of_value(tried, before, after, differ):
    old, new = tried(before), tried(after)
    assert bool(probes.differences(old, new)) is differ


def test_what_changes_no_meaning_is_a_remark(tried):
    old = tried("select 1 as a; select * from missing")
    new = tried("select 1 as a, 2 as b; select * from missed")
    assert probes.differences(old, new) == []
    more, words = probes.remarks(old, new)
    assert more.endswith(": also returns b")
    assert words.endswith("""'relation "missing" does not exist' has become 'relation "missed" does not exist'""")


def test_sides_show_only_what_differs_and_never_a_control_character(tried):
    old, new = tried("values ('same', null), ('\x1b[31mred', 'x')"), tried("values ('same', null)")
    (found,) = probes.differences(old, new)
    assert found.sides() == (["2 rows", "\\x1b[31mred | x"], ["1 row"])
    assert "red" not in str(found)


def test_sides_show_rows_of_which_only_the_order_differs(tried):
    query = "select * from (values (1), (2)) as v (n) order by n"
    (found,) = probes.differences(tried(query), tried(f"{query} desc"))
    assert found.sides() == (["2 rows", "1", "2"], ["2 rows", "2", "1"])
