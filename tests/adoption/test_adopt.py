"""Existing deployments: every shape is taken over without losing a row, and given back as it was found.

PROFILES_TEST_SHAPE_ROWS says how many users a shape has; `make chaos` takes ten thousand.
"""

import os
import re
import uuid
from collections import Counter, defaultdict

import pytest
from pytest_postgresql import factories
from sqlalchemy.exc import ProgrammingError

from profiles_schema.errors import DataLossRefused
from profiles_schema.operations import normalize
from profiles_schema.operations.health import examine
from profiles_schema.schema import objects
from profiles_schema.schema.catalog import differences
from profiles_schema.schema.traits import trait_columns
from support import Database, Server, drift, shapes, snapshot
from support import adoption_oracle as oracle

ROWS = int(os.environ.get("PROFILES_TEST_SHAPE_ROWS", "300"))
HOSTED = ["a", "b", "c", "d", "a+c", "d+c"]
SINGLE = ["a", "b", "c", "d", "e"]
ALL = [pytest.param(shape, marks=[pytest.mark.slow] * ("+" in shape)) for shape in [*HOSTED, "e"]]

# What is the application's own in our tables after adoption, by shape: everything else is as in a new database.
OWN = {
    "a": r"public\.user_profiles\.(favourite_colour|user_profiles_favourite_colour_check|user_profiles_colour)$",
    "b": r"public\.user_profiles\.(plan|seats|profiles_company|profiles_id_fkey)$",
    "c": r"public\.user_\w+\.unique_user_(api_keys|progress)$",
    "d": r"public\.user_profiles\.(user_profiles_user_id_key|idx_user_profiles_email)$"
    r"|public\.user_profile_audit_logs\.idx_audit_logs_user_id$",
    "e": r"public\.user_profiles\.(shard|" + "|".join(trait.name for trait in trait_columns()) + ")$",
}  # fmt: skip

# What comes where users insert their own row.
OF_OWN_INSERTS = r"policy (Owners can make their own profile on |public\.user_profiles\.Owners can make their own)"
# What comes where statements know no user_id.
OF_OLD_STATEMENTS = (
    r"(trigger|function|grant function) (public\.user_profiles\.carry_user_id|"
    r"public\.user_profiles\.fill_profile_of_view|profiles_internal\.fill_profile_of_view)"
)
WRITTEN_THROUGH_THE_VIEW = re.compile(
    r"grant public\.user_profiles\.(id|user_id|username|display_name|first_name|last_name|phone|bio|company_name|target_audience|business_context|"
    r"master_system_prompt|avatar_emoji|profile_picture_url|logo_url|profile_visibility|key_metrics|preferences|notification_settings|"
    r"timezone|language|updated_at) to authenticated$"
)

ANSWERING = ("replace", "accept")
FOUND: dict[str, shapes.Found] = {}
NEW: dict[str, dict[str, str]] = {}


def as_found(shape, rows=ROWS):
    """What loads a database with a shape, and remembers how it was found."""

    def load(host, port, user, dbname, password, autocommit):
        server = Server(host=host, port=port, user=user, options="", dbname=dbname)
        database = Database(server, dbname, None if shape == "e" else "project_owner")
        if shape != "e":
            from support.hosted import open_by_default

            open_by_default(host, port, user, dbname, password, autocommit)
        database.answering = ANSWERING
        shapes.create(database, shape)
        shapes.fill(database, shape, rows)
        FOUND[shape] = shapes.look(database, shape)
        database.upgrade(**shapes.options(shape))

    return load


def template(shape):
    name = shape.replace("+", "_")
    return factories.postgresql_noproc(depends_on="server", dbname=f"adopted_{name}", load=[as_found(shape)])


adopted_a, adopted_b, adopted_c, adopted_d, adopted_e = (template(shape) for shape in "abcde")
adopted_a_c, adopted_d_c = template("a+c"), template("d+c")
_a, _b, _c, _d, _e, _a_c, _d_c = (
    factories.postgresql(f"adopted_{name}") for name in ("a", "b", "c", "d", "e", "a_c", "d_c")
)


@pytest.fixture
def adopted(request, server):
    """A database that was upgraded from a shape; ``shape`` and ``found`` tell how it was."""

    def choose(shape):
        client = request.getfixturevalue("_" + shape.replace("+", "_"))
        name = client.info.dbname
        if shape != "e":
            Database(server, name).script(f"grant create, connect, temporary on database {name} to project_owner")
        database = Database(server, name, None if shape == "e" else "project_owner")
        database.shape, database.found, database.answering = shape, FOUND[shape], ANSWERING
        return database

    return choose


@pytest.fixture
def new(request):
    """The catalog of a new database of the same kind, and its policies."""

    def choose(shape):
        kind = "_migrated_client" if shape == "e" else "_open_at_head_client"
        if kind not in NEW:
            database = Database(request.getfixturevalue("server"), request.getfixturevalue(kind).info.dbname)
            NEW[kind] = entries(database)
        return NEW[kind]

    return choose


def policies(database):
    with database.administrator.engine.begin() as connection:
        found = shapes.more(connection)
    ours = re.compile(r"policy .* on (public\.)?(user_\w+|export_history)$")
    return {key: value for key, value in found.items() if ours.match(key)}


def beside_sessions(catalog):
    """All but the learning sessions of the application, which stay as they are; our triggers come to them."""
    return {k: v for k, v in catalog.items() if "public.sessions" not in k or k.startswith("trigger ")}


def entries(database):
    """The catalog by what its entries are called, and the policies."""
    return {str(key): value for key, value in snapshot(database).items()} | policies(database)


def own(shape):
    return re.compile(
        # A comment on a column of ours that bears none is nobody's loss.
        r"comment public\.user_\w+\.\w+$|"
        + "|".join(rf"(column|comment|constraint|index) ({OWN[part]})" for part in shape.split("+"))
        + r"|(function|grant function|trigger) \S*(dual_write|keep_traits)\S*.*" * (shape == "e")
        + "".join(rf"|grant {OWN[part][:-1]} to \w+$" for part in shape.split("+") if part in "ab")
        + f"|{OF_OWN_INSERTS}" * bool({*shape} & {*"ab"})
        + rf"|{OF_OLD_STATEMENTS}" * ("a" in shape or shape == "b")
    )


def of_adopted(key):
    """What only serves wide columns, old names, or a table that was taken over; that it is as declared, drift says."""
    name = re.match(r"(?:grant )?function ([\w.]+)|trigger \S+\.(forget_adopted_values)$", key)
    names = {each.name for each in objects.FUNCTIONS if each.where is not objects.Where.EVERYWHERE}
    return name and (name[1] in names or "forget_adopted_values" in key)


def quarantined(database):
    return database.administrator.run(
        "select table_name, row_data::text as row, reason from profiles_internal.quarantine order by id"
    )


def somebody(database, number=0):
    """An active user whose row was there before, and is still."""
    rows = database.administrator.run(
        "select user_id from public.user_profiles where is_active order by user_id offset :number limit 1",
        number=number,
    )
    return rows[0].user_id


# Upgrade


@pytest.mark.parametrize("shape", ALL)
def test_an_adopted_database_has_the_catalog_of_a_new_one(adopted, new, shape):
    database = adopted(shape)
    found, wanted = entries(database), new(shape)
    if not {*shape} <= {*"c+e"}:
        # The key keeps its type.
        assert found["column public.user_profiles.id"].startswith("uuid not null")
        wanted = {**wanted, "column public.user_profiles.id": found["column public.user_profiles.id"]}
    if "c" in shape:
        found, wanted = beside_sessions(found), beside_sessions(wanted)
    if {*shape} & {*"ab"}:
        # Users go on inserting their own row.
        written = {key: value for key, value in found.items() if WRITTEN_THROUGH_THE_VIEW.match(key)}
        assert {*written.values()} <= {"insert", "insert, update"}
        wanted = {**wanted, **written}
    assert differences(wanted, found, extras=False) == []
    assert [key for key in found if key not in wanted and not own(shape).match(key) and not of_adopted(key)] == []
    assert drift(database) == []


def test_the_oracle_sees_what_is_not_accounted_for(adopted):
    database = adopted("d+c")
    damage = {
        "update public.user_profiles set first_name = 'x' where id::text = (select max(id::text) from public.user_profiles)": "'x', expected",
        "delete from public.user_profiles where id::text = (select min(id::text) from public.user_profiles where referral_code <> '')": ": gone",
        "update public.user_progress set total_points = 17"
        " where id = (select id from public.user_progress where total_points = 0 limit 1)": "'17', expected '0'",
        "delete from profiles_internal.quarantine where id = (select min(id) from profiles_internal.quarantine)": "not in quarantine",
        "update profiles_internal.quarantine set reason = 'no reason'"
        " where id = (select max(id) from profiles_internal.quarantine)": "quarantined as no reason",
        "delete from profiles_internal.adopted where id ="
        " (select max(id) from profiles_internal.adopted where object_name = 'public.user_profiles.referral_code')": "is not kept",
        "insert into profiles_internal.adopted (revision, object_type, object_name, data) select 'x', 'value', 'public.user_profiles.email',"
        " jsonb_build_object('key', max(id::text), 'old', 'a', 'new', 'b') from public.user_profiles": "but it did not change",
        "update profiles_internal.adopted set data = jsonb_set(data, '{rows}', '0')"
        " where object_type = 'table' and object_name = 'public.export_history'": "public.export_history: recorded as",
    }  # fmt: skip
    database.administrator.script(f"set local session_replication_role = replica; {'; '.join(damage)}")
    lines = oracle.unexplained(database, database.found, "d+c")
    assert [seen for seen in damage.values() if not any(seen in line for line in lines)] == []


@pytest.mark.parametrize("shape", ALL)
def test_every_row_is_kept_converted_by_a_rule_or_in_quarantine(adopted, shape):
    database = adopted(shape)
    assert oracle.unexplained(database, database.found, shape) == []


@pytest.mark.parametrize("shape", SINGLE)
def test_the_tables_of_the_application_keep_their_rows(adopted, shape):
    database = adopted(shape)
    taken = {f"public.{name}" for name in shapes.adopted_tables(shape)}
    changed = [str(change) for change in shapes.row_changes(database, database.found) if change.table not in taken]
    assert changed == []


@pytest.mark.parametrize("shape", SINGLE)
def test_health_is_content_and_counts_what_is_in_quarantine(adopted, shape):
    database = adopted(shape)
    with database.engine.connect() as connection:
        health = examine(connection, full=True)
    assert (health.missing, health.coverage) == (0, 1.0)
    said = {finding.message for finding in health.findings if finding.code == "quarantine"}
    left: dict[str, Counter[str]] = defaultdict(Counter)
    for row in quarantined(database):
        left[row.table_name][row.reason] += 1
    assert said == {
        f"{reasons.total()} {'row' if reasons.total() == 1 else 'rows'} of {table} in profiles_internal.quarantine: "
        + ", ".join(f"{reason} ({rows})" for reason, rows in sorted(reasons.items()))
        + "."
        for table, reasons in left.items()
    }
    # What its own log says of failures was repaired since: no profile contradicts its user.
    assert {finding.code for finding in health.problems} == set()


@pytest.mark.parametrize("shape", ["e"])
def test_trait_columns_are_converted_and_verified(adopted, shape):
    database = adopted(shape)
    with database.engine.connect() as connection:
        *_, last = normalize.verify(connection)
    assert not last.counts.get("different")


@pytest.mark.parametrize("shape", SINGLE)
def test_a_sign_up_makes_a_profile(adopted, shape):
    database = adopted(shape)
    before = database.administrator.value("select count(*) from public.user_profiles")
    if shape == "e":
        user = database.value(
            "select public.create_user(email => 'new@example.org', external_id => '99999999999999999')"
        )
    else:
        user = database.sign_up("new+tag@example.org", raw_user_meta_data={"full_name": "New"})
    profile = database.administrator.profile(user)
    assert profile.id == (str(user) if shape in "ce" else user)
    # Where nobody was asked, nobody is shown.
    assert profile.profile_visibility == ("private" if shape in "bde" else "public")
    assert profile.username.startswith("new")
    assert database.administrator.value("select count(*) from public.user_profiles") == before + 1
    assert database.administrator.value("select count(*) from public.user_progress where user_id = :u", u=user) == 1
    assert (
        database.administrator.value(
            "select count(*) from public.user_profile_audit_logs where user_id = :u and action = 'failed'", u=user
        )
        == 0
    )


@pytest.mark.parametrize("shape", SINGLE)
def test_a_user_reaches_the_own_rows_and_nobody_elses(adopted, shape):
    database = adopted(shape)
    me, other = somebody(database), somebody(database, 1)
    with database.acting_as("authenticated", me) as connection:
        run = connection.exec_driver_sql
        assert [row[0] for row in run("select user_id from public.user_profiles")] == [me]
        assert run("update public.user_profiles set bio = 'mine'").rowcount == 1
        assert run(f"update public.user_profiles set bio = 'mine' where user_id = '{other}'").rowcount == 0
        assert {row[0] for row in run("select user_id from public.user_progress")} == {me}
        assert {row[0] for row in run("select user_id from public.export_history")} <= {me}
        assert {row[0] for row in run("select user_id from public.user_api_keys")} <= {me}
    for role, statement in (
        ("authenticated", "update public.user_profiles set role = 'admin'"),
        ("authenticated", "update public.user_profiles set email_verified = true"),
        ("authenticated", "delete from public.user_profiles"),
        ("anon", "truncate public.user_profiles cascade"),
    ):
        with database.acting_as(role, me) as connection, pytest.raises(ProgrammingError, match="permission denied"):
            connection.exec_driver_sql(statement)
    # Where the application's own policies look at the table, anon may look, too, and finds nothing.
    if database.value("select has_any_column_privilege('anon', 'public.user_profiles', 'select')"):
        with database.acting_as("anon", me) as connection:
            assert connection.exec_driver_sql("select from public.user_profiles").all() == []


@pytest.mark.parametrize("part", ["user_api_keys", "user_progress", "export_history"])
def test_rows_of_shape_c_belong_to_their_users(adopted, part):
    database = adopted("c")
    owner = database.administrator.value(f"select user_id from public.{part} order by user_id limit 1")
    number = database.administrator.value(f"select count(*) from public.{part} where user_id = :u", u=owner)
    assert number > 0
    with database.acting_as("authenticated", owner) as connection:
        assert connection.exec_driver_sql(f"select count(*) from public.{part}").scalar_one() == number
    with database.acting_as("authenticated", uuid.uuid4()) as connection:
        assert connection.exec_driver_sql(f"select count(*) from public.{part}").scalar_one() == 0


# And back


def added(database):
    """Rows that the upgrade made for users who had none, in tables that were there: they stay."""
    tables = shapes.adopted_tables(database.shape)
    return {
        f"public.{table}": len(database.found.users - {row[owner] for row in database.found.rows[table].values()})
        for table, owner in (
            ("user_profiles", "id" if "a" in database.shape else "user_id"),
            ("profiles", "id"),
            ("user_progress", "user_id"),
        )
        if table in tables and database.shape != "e"
    }


def test_downgrade_drops_nothing_without_the_flag(adopted):
    database = adopted("c")
    with database.engine.begin() as connection:
        found = shapes.contents.catalog(connection, [*shapes.SCHEMAS, "profiles_internal"])
    with pytest.raises(DataLossRefused, match=r"public\.user_profiles \(\d+ rows\)"):
        database.downgrade("base")
    with database.engine.begin() as connection:
        assert shapes.contents.catalog(connection, [*shapes.SCHEMAS, "profiles_internal"]) == found
    assert oracle.unexplained(database, database.found, "c") == []


@pytest.mark.parametrize("shape", ALL)
def test_downgrade_gives_everything_back_as_found_and_upgrade_takes_it_again(adopted, shape):
    database = adopted(shape)
    first = snapshot(database), oracle.state(database, database.found, shape)
    database.downgrade("base", allow_data_loss="yes")
    assert shapes.changes(database, database.found) == []
    changed = {change.table: change for change in shapes.row_changes(database, database.found)}
    assert [str(change) for change in changed.values() if change.missing or change.changed or change.columns] == []
    assert {name: change.added for name, change in changed.items()} == {k: v for k, v in added(database).items() if v}

    database.upgrade(**shapes.options(shape))
    assert differences(first[0], snapshot(database)) == []
    again = oracle.state(database, database.found, shape)
    assert {name: rows for name, rows in again.items() if rows != first[1][name]} == {}
    assert drift(database) == []


@pytest.mark.slow
def test_ten_thousand_rows_are_taken_over_and_given_back(hosted_open):
    shapes.create(hosted_open, "a")
    shapes.fill(hosted_open, "a", 10_000)
    found = shapes.look(hosted_open, "a")
    hosted_open.answering = ANSWERING
    hosted_open.upgrade()
    assert oracle.unexplained(hosted_open, found, "a") == []
    hosted_open.downgrade("base", allow_data_loss="yes")
    assert shapes.changes(hosted_open, found) == []
    [changed] = shapes.row_changes(hosted_open, found)
    assert (changed.missing, changed.changed, changed.columns) == (0, 0, "")


@pytest.mark.parametrize("shape", ["a", "b", "d", "e", "d+c"])
def test_what_was_written_since_comes_back_in_the_old_shape(adopted, shape):
    database = adopted(shape)
    table = "profiles" if shape == "b" else "user_profiles"
    text = {"d": "first_name"}.get(shape[0], "bio")
    # One whose value a rule had changed, and one whose value it had not.
    fitted = database.administrator.value(
        "select p.user_id from profiles_internal.adopted as a join public.user_profiles as p on p.id::text = a.data ->> 'key'"
        " where a.object_type = 'value' and a.object_name = :name order by p.user_id limit 1",
        name=f"public.user_profiles.{text}",
    )
    assert fitted is not None
    for user in (fitted, somebody(database)):
        with database.engine.begin() as connection:
            connection.exec_driver_sql("set local role service_role")
            connection.exec_driver_sql(
                f"update public.user_profiles set {text} = 'written since' where user_id = '{user}'"
            )
    column, now = {"d": ("user_id", "user_id"), "e": ("user_id", "external_id")}.get(shape[0], ("id", "user_id"))
    keys = [
        database.administrator.value(f"select {now} from public.user_profiles where user_id = :u", u=user)
        for user in (fitted, somebody(database))
    ]
    if shape == "e":
        made = database.value(
            "select public.create_user(email => 'new@example.org', external_id => '99999999999999999')"
        )
    else:
        made = database.sign_up("new@example.org", raw_user_meta_data={"full_name": "New", "first_name": "New"})
    if "c" in shape:
        # The application's own table of users has everybody, too.
        database.run("insert into public.users (id) values (:id)", id=made)

    database.downgrade("base", allow_data_loss="yes")
    assert shapes.changes(database, database.found) == []
    for key in keys:
        assert (
            database.administrator.value(f"select {text} from public.{table} where {column} = :key", key=key)
            == "written since"
        )
    key = "99999999999999999" if shape == "e" else made
    [row] = database.administrator.run(f"select * from public.{table} where {column} = :key", key=key)
    assert row.updated_at is not None
    if shape[0] in "ae":
        assert row.username == "new"
    if shape[0] == "d":
        assert (row.email, row.first_name) == ("new@example.org", "New")


def test_what_was_written_since_in_shape_c_comes_back(adopted):
    database = adopted("c")
    me, other = (
        row.user_id for row in database.run(
            "select p.user_id from public.user_progress as p join public.user_api_keys as k using (user_id)"
            " join public.export_history as e using (user_id) group by 1 order by 1 limit 2"
        )
    )  # fmt: skip
    key = "psk1.test." + "B" * 60
    new = database.sign_up("new@example.org")
    database.script(f"""
        insert into public.users (id) values ('{new}');
        update public.user_progress set total_points = 4711 where user_id = '{me}';
        update public.user_api_keys set openai_api_key = '{key}' where user_id = '{me}';
        insert into public.export_history (user_id, export_type, export_format) values ('{me}', 'since', 'csv');
        update public.export_history set file_url = 'https://example.org/since' where user_id = '{other}';
        insert into public.sessions (user_id, started_at, ended_at, descriptions_generated) values ('{new}', '2024-01-01', '2024-01-02', 5);
    """)
    database.downgrade("base", allow_data_loss="yes")
    assert shapes.changes(database, database.found) == []
    assert database.value("select total_points from public.user_progress where user_id = :u", u=me) == 4711
    assert database.value("select openai_api_key from public.user_api_keys where user_id = :u", u=me) == key
    assert database.value("select count(*) from public.export_history where export_type = 'since'") == 1
    assert database.value(
        "select bool_and(file_url = 'https://example.org/since') from public.export_history where user_id = :u", u=other
    )
    assert tuple(
        database.run("select total_sessions, total_descriptions from public.user_progress where user_id = :u", u=new)[0]
    ) == (1, 5)


def test_rows_that_the_old_shape_cannot_hold_leave_a_key_unproved(adopted, caplog):
    database = adopted("c")
    # Nobody of this name is in the application's own table of users.
    database.sign_up("new@example.org")
    database.downgrade("base", allow_data_loss="yes")
    changed = shapes.changes(database, database.found)
    assert {line.split(":")[0] for line in changed} == {
        "constraint public.user_progress.user_progress_user_id_fkey",
        "validity of user_progress_user_id_fkey of public.user_progress",
    }
    assert "came back NOT VALID" in caplog.text
