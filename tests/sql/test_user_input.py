"""What a person can put into the tables by sign-up or by a change, and what it can do to those who read it."""

import asyncio
import json

import pytest
from sqlalchemy import NullPool, create_engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from profiles_schema import ExportHistory, UserProfile

CHECK = "23514"


def refusal(database, role, user, statement, **values):
    """The error of a statement of a role for a user."""
    with pytest.raises(DBAPIError) as caught, database.acting_as(role, user) as connection:
        connection.execute(text(statement), values)
    return caught.value.orig.diag


# Depth of JSON --------------------------------------------------------------------------------------------------------


def nested(levels, kind="object"):
    """JSON whose innermost value is reached by so many steps."""
    if kind == "array":
        return "[" * levels + "1" + "]" * levels
    return '{"a":' * levels + "1" + "}" * levels


DOCUMENTS = [
    ("user_profiles", "preferences", "object"),
    ("user_profiles", "notification_settings", "object"),
    ("user_profiles", "key_metrics", "array"),
    ("export_history", "filters", "object"),
]


@pytest.mark.parametrize(("table", "column", "kind"), DOCUMENTS)
def test_json_of_a_user_is_32_levels_deep_at_most(database, table, column, kind):
    user = database.sign_up("ada@example.org")
    database.run(
        "insert into public.export_history (user_id, export_type, export_format) values (:u, 'a', 'b')", u=user
    )
    statement = f"update public.{table} set {column} = cast(:value as jsonb)"
    for role in ("authenticated", "service_role"):
        with database.acting_as(role, user) as connection:
            connection.execute(text(statement), {"value": nested(32, kind)})
        for levels in (33, 5_000):
            diagnosis = refusal(database, role, user, statement, value=nested(levels, kind))
            assert (diagnosis.sqlstate, column in diagnosis.constraint_name) == (CHECK, True)


@pytest.mark.parametrize("number", ["1e5000", "-1e60000", "1e41", "1e-5000", "-1e-41"])
@pytest.mark.parametrize(("table", "column", "kind"), DOCUMENTS)
def test_numbers_in_the_json_of_a_user_have_no_thousands_of_digits(database, table, column, kind, number):
    user = database.sign_up("ada@example.org")
    database.run(
        "insert into public.export_history (user_id, export_type, export_format) values (:u, 'a', 'b')", u=user
    )
    statement = f"update public.{table} set {column} = cast(:value as jsonb)"
    document = "[[%s], 1]" if kind == "array" else '{"a": {"b": [0, %s]}}'
    diagnosis = refusal(database, "authenticated", user, statement, value=document % number)
    assert (diagnosis.sqlstate, column in diagnosis.constraint_name) == (CHECK, True)
    for usual in ("0", "-7", "0.1", "1e-40", "9007199254740993", "123456789012345678901234567890.5"):
        with database.acting_as("authenticated", user) as connection:
            connection.execute(text(statement), {"value": document % usual})


def test_a_document_is_refused_before_its_numbers_are_spelled_out(database):
    user = database.sign_up("ada@example.org")
    zeros = "[" + ", ".join(["0e-16383"] * 20_000) + "]"
    statement = "update public.user_profiles set key_metrics = cast(:value as jsonb)"
    assert refusal(database, "authenticated", user, statement, value=zeros).sqlstate == CHECK
    call = "select public.update_my_profile_v2(jsonb_build_object('key_metrics', cast(:value as jsonb)), true)"
    diagnosis = refusal(database, "authenticated", user, call, value=zeros)
    assert (diagnosis.sqlstate, "key_metrics: is larger than 128 kB" in diagnosis.message_primary) == ("22023", True)


def test_json_of_a_user_never_breaks_the_reader_of_all_profiles(database):
    user = database.sign_up("ada@example.org")
    for table, column, kind in DOCUMENTS:
        if table == "user_profiles":
            refusal(
                database, "authenticated", user, "select public.update_my_profile_v2(cast(:changes as jsonb))",
                changes=f'{{"{column}": {nested(5_000, kind)}}}',
            )  # fmt: skip
    deepest = json.loads(nested(32))
    database.run("update public.user_profiles set preferences = cast(:value as jsonb)", value=nested(32))
    url = database.url.replace("postgresql://", "postgresql+{}://", 1)
    for driver in ("psycopg2", "psycopg"):
        engine = create_engine(url.format(driver), poolclass=NullPool)
        with Session(engine) as session:
            assert session.scalars(select(UserProfile)).one().preferences == deepest
            assert session.scalars(select(ExportHistory)).all() == []

    async def read():
        engine = create_async_engine(url.format("psycopg"))
        async with engine.connect() as connection:
            found = (await connection.execute(select(UserProfile.preferences))).scalar_one()
        await engine.dispose()
        return found

    assert asyncio.run(read()) == deepest


# Names ----------------------------------------------------------------------------------------------------------------

HIDDEN = [
    chr(code)
    for low, high in ((1, 0x1F), (0x7F, 0x9F), (0x200B, 0x200B), (0x2028, 0x202E), (0x2060, 0x2060), (0x2066, 0x2069), (0xFEFF, 0xFEFF))
    for code in range(low, high + 1)
]  # fmt: skip
NAMES = ("display_name", "first_name", "last_name", "company_name")
# Persian with its zero-width non-joiner, a family joined to one emoji, a name with a mark of direction, combining letters.
GOOD_NAMES = [
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u200f\u05e9\u05dc\u05d5\u05dd",
    "Zoë de l'Été", "Ada <3", "x" * 200, "",
]  # fmt: skip


def test_no_name_holds_what_hides_or_turns_text_around(database):
    user = database.sign_up("ada@example.org")
    for column in NAMES:
        statement = f"update public.user_profiles set {column} = :value"
        with database.acting_as("authenticated", user) as connection:
            for value in GOOD_NAMES:
                connection.execute(text(statement), {"value": value})
    with database.engine.connect() as connection:
        for column in NAMES:
            for character in HIDDEN:
                savepoint = connection.begin_nested()
                with pytest.raises(DBAPIError, match="names_without_hidden_characters"):
                    connection.execute(
                        text(f"update public.user_profiles set {column} = :v"), {"v": f"Ada{character}x"}
                    )
                savepoint.rollback()


def test_names_at_sign_up_lose_what_hides_and_line_ends_become_spaces(database):
    for raw, kept in (
        ("Ada\u202eecalevoL", "AdaecalevoL"),
        ("\ufeffAda\u200b \u2066Lovelace\u2069", "Ada Lovelace"),
        ("Ada\nLovelace\u2028King", "Ada Lovelace King"),
        ("\x1b[31mAda\x07", "[31mAda"),
        ("\u200b\u2060", None),
        *((name, name or None) for name in GOOD_NAMES),
    ):
        user = database.sign_up(raw_user_meta_data={"full_name": raw, "first_name": raw, "family_name": raw})
        profile = database.profile(user)
        assert (profile.display_name, profile.first_name, profile.last_name) == (kept, kept, kept), ascii(raw)


def test_every_hidden_character_is_gone_at_sign_up(database):
    user = database.sign_up(raw_user_meta_data={"name": "A" + "".join(HIDDEN) + "B"})
    assert database.profile(user).display_name.replace(" ", "") == "AB"


def test_an_address_of_more_than_320_characters_is_not_copied(database):
    longest, longer = "x" * 308 + "@example.org", "x" * 309 + "@example.org"
    assert database.profile(database.sign_up(longest, email_confirmed_at="2026-01-01")).email == longest
    for address in (longer, "x" * 1_000_000 + "@example.org"):
        profile = database.profile(database.sign_up(address, email_confirmed_at="2026-01-01"))
        assert (profile.email, profile.email_verified) == (None, False)
        assert profile.username.startswith("user_")
    diagnosis = refusal(database, "service_role", None, "update public.user_profiles set email = :value", value=longer)
    assert diagnosis.constraint_name == "ck_user_profiles_email_up_to_320_characters"


def test_an_avatar_emoji_is_no_markup(database):
    user = database.sign_up("ada@example.org")
    statement = "update public.user_profiles set avatar_emoji = :value"
    with database.acting_as("authenticated", user) as connection:
        for value in ("👩🏽‍❤️‍💋‍👨🏽", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣", "", None):
            connection.execute(text(statement), {"value": value})
    for value in ("<script>", "&lt;b", "a\nb", "🙂" * 17):
        assert refusal(database, "authenticated", user, statement, value=value).sqlstate == CHECK


# Reserved names -------------------------------------------------------------------------------------------------------

LOOK_ALIKES = [
    "admin_", "-admin-", "a.dmin", "adm1n", "4dmin", "supp0rt", "5upport", "suppor7", "postgres", "p0stgres", "service_role",
    "authenticated", "anon", "supabase", "supabase_admin", "r00t", "b1ll1ng", "nu11", "he1p", "mailer-daemon", "no-reply",
    "8illing", "www.", "off1c1a1", "b11l1ng", "billin9",
]  # fmt: skip
REAL_NAMES = ["mall", "apl", "adminah", "supporter", "anona", "roots", "api-fan", "teams", "louis_1"]


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_nobody_gets_a_name_that_looks_like_a_reserved_one(database, name):
    signed_up = database.profile(database.sign_up(f"{name}@example.org"))
    ada = database.sign_up("ada@example.org")
    assert signed_up.username.startswith("user_")
    diagnosis = refusal(database, "authenticated", ada, "update public.user_profiles set username = :name", name=name)
    assert (diagnosis.sqlstate, diagnosis.column_name) == (CHECK, "username")
    with database.acting_as("service_role") as connection:
        connection.execute(
            text("update public.user_profiles set username = :n where user_id = :u"), {"n": name, "u": ada}
        )


def test_a_role_of_the_application_that_inherits_the_rights_of_users_gets_no_reserved_name_either(database):
    ada = database.sign_up("ada@example.org")
    with database.engine.connect() as connection, connection.begin() as transaction:
        role = f"app_{ada.hex[:8]}"
        connection.exec_driver_sql(f"create role {role} login inherit; grant authenticated to {role}")
        connection.exec_driver_sql(f"set local session authorization {role}")
        connection.execute(
            text("select set_config('request.jwt.claims', :c, true)"), {"c": json.dumps({"sub": str(ada)})}
        )
        with pytest.raises(DBAPIError, match="is reserved"):
            connection.exec_driver_sql("update public.user_profiles set username = 'admin'")
        transaction.rollback()


def test_a_name_that_is_only_near_a_reserved_one_is_free(database):
    assert [database.profile(database.sign_up(f"{name}@example.org")).username for name in REAL_NAMES] == REAL_NAMES


def test_whoever_has_a_reserved_name_keeps_it_and_can_change_the_rest(database):
    user = database.sign_up("ada@example.org")
    database.run("update public.user_profiles set username = 'supp0rt'")
    with database.acting_as("authenticated", user) as connection:
        connection.execute(text('select public.update_my_profile_v2(\'{"bio": "x", "username": "supp0rt"}\')'))
    database.run("update auth.users set email = 'ada.l@example.org'")
    assert database.profile(user).username == "supp0rt"


# Tables that were here before -----------------------------------------------------------------------------------------


def test_adoption_makes_such_values_fit_and_a_downgrade_brings_them_back(empty):
    empty.script(
        "create table public.user_profiles (id text primary key, user_id uuid, username text, display_name text, email text,"
        " avatar_emoji text, preferences jsonb, key_metrics jsonb, notification_settings jsonb);"
        "insert into public.user_profiles values ('1', gen_random_uuid(), 'supp0rt', 'Ada' || chr(8238) || e'\\nL', repeat('x', 400),"
        f" '<script>', '{nested(5_000)}', '{nested(5_000, 'array')}', '{nested(32)}')"
    )
    columns = ", ".join(
        f"{name}::text" for name in ("username", "display_name", "email", "avatar_emoji", "preferences", "key_metrics", "notification_settings")
    )  # fmt: skip
    before = empty.run(f"select {columns} from public.user_profiles")
    empty.upgrade()
    after = empty.run(f"select {columns} from public.user_profiles")
    assert [tuple(row) for row in after] == [("supp0rt", "Ada L", None, "script", "{}", "[]", before[0][-1])]
    kept = empty.run(
        "select object_name, data ->> 'old' from profiles_internal.adopted where object_type = 'value' order by 1"
    )
    assert [row[0].rpartition(".")[2] for row in kept] == [
        "avatar_emoji",
        "display_name",
        "email",
        "key_metrics",
        "preferences",
    ]
    assert empty.value("select count(*) from profiles_internal.quarantine") == 0
    empty.downgrade("base", allow_data_loss="yes")
    assert empty.run(f"select {columns} from public.user_profiles") == before
