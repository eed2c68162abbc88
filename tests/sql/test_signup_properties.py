"""Whatever an identity provider or a client sends: always a profile, a legal and unique username, never an error.

Users come in batches, each batch one statement on a database of its own rollback: fast, and imports are tested too.
"""

import json
import re
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from support import insert_user
from support.adoption_oracle import visible_name

BATCH = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

# What neither a text column nor jsonb can hold is no input: U+0000, and half a surrogate pair.
CHARACTERS = st.characters(exclude_characters="\x00", exclude_categories=("Cs",))
NASTY = st.sampled_from([
    "", " ", "\t\r\n", "\u200b", "\u202eevil", "\ufeff", "e\u0301" * 300, "👩\u200d👩\u200d👧" * 100, "שלום", "مرحبا", "\x01\x1f\x7f",
    "%s%(x)s%%", "'; drop table users; --", "$1", "\\", "{}", "null", "İ", "\u017f", "\u212a", "x" * 5_000, "\U0001d56c" * 250, "a b", "@", "@@@", "a@b@c",
    "admin", "ADMIN", "user", "ada", "ADA", "a\u0308da", "https://a.example/\u202e", "http://", "https:// x", "https://" + "x" * 2040,
    "https://" + "x" * 2041, "javascript:alert(1)", "UTC", "Europe/Berlin", "europe/berlin", "FOO+5", "de", "de_DE", "pt-BR", "a" * 9,
    "x-" * 17 + "x", "true", "1e400", "NaN", "infinity",
])  # fmt: skip
TEXTS = st.one_of(
    NASTY,
    st.text(CHARACTERS, max_size=60),
    st.builds(lambda t, n: t * n, st.text(CHARACTERS, max_size=5), st.integers(0, 500)),
)
NUMBERS = st.one_of(st.integers(-(10**40), 10**40), st.floats(allow_nan=False, allow_infinity=False))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
KEYS = st.sampled_from([
    "full_name", "name", "preferred_username", "user_name", "first_name", "given_name", "last_name", "family_name", "avatar_url", "picture",
    "timezone", "language", "locale", "role", "is_anonymous", "email", "email_verified", "username", "id", "user_id", "deleted_at", "is_active",
])  # fmt: skip
METADATA = st.one_of(st.dictionaries(KEYS, st.one_of(SCALARS, JSON), max_size=8), JSON)
EMAILS = st.one_of(
    st.none(),
    st.builds(
        "{}@example.org".format,
        st.sampled_from(["ada", "Ada", "ADA", "a.da", "a+da", "admin", "x" * 70, "ab", "李小龙", "ada_00000001"]),
    ),
    st.emails(),
    TEXTS.map(lambda value: value[:255]),
)
PHONES = st.one_of(st.none(), st.from_regex(r"\+[1-9][0-9]{5,14}", fullmatch=True), TEXTS)
USERS = st.fixed_dictionaries({
    "email": EMAILS, "phone": PHONES, "raw_user_meta_data": METADATA, "raw_app_meta_data": METADATA, "is_anonymous": st.booleans(),
    "confirmed": st.booleans(),
})  # fmt: skip
LIMITS = {"display_name": 200, "first_name": 200, "last_name": 200, "phone": 40, "avatar_url": 2048, "language": 35}


def distinct(users):
    """As the auth server does: phones are unique, and so are addresses, but for single sign-on."""
    phones = set()
    for user in users:
        if user["phone"] in phones:
            user["phone"] = None
        phones.add(user["phone"])
    return users


def columns(user):
    confirmed_at = "2026-01-02T03:04:05Z" if user["confirmed"] else None
    return {key: value for key, value in user.items() if key != "confirmed"} | {
        "email_confirmed_at": confirmed_at,
        "is_sso_user": True,
    }


def first_text(metadata, *keys):
    """The first usable text of some keys, in the words of the documentation and another language."""
    for key in keys if isinstance(metadata, dict) else ():
        if isinstance(metadata.get(key), str) and (found := metadata[key].strip(" \t\r\n")):
            return found
    return None


def cut(value, characters):
    return value and value[:characters].strip(" \t\r\n")


def check(profile, user):
    assert re.fullmatch(r"[a-z0-9_.-]{3,32}", profile.username)
    assert profile.id == str(profile.user_id)
    assert (profile.role, profile.is_active, profile.referral_code, profile.external_id) == ("user", True, None, None)
    assert profile.is_anonymous is user["is_anonymous"]
    assert profile.email == (user["email"] or None)
    assert profile.email_verified is bool(user["email"] and user["confirmed"])
    assert profile.phone == (user["phone"] if user["phone"] and len(user["phone"]) <= 40 else None)
    for column, limit in LIMITS.items():
        assert len(getattr(profile, column) or "") <= limit, column
    metadata = user["raw_user_meta_data"]
    assert re.fullmatch(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", profile.language)
    picture = profile.avatar_url
    assert picture is None or picture in (first_text(metadata, "avatar_url"), first_text(metadata, "picture"))
    asked = metadata.get("timezone") if isinstance(metadata, dict) else None
    assert profile.timezone in ("UTC", asked)


def name_of(metadata, *keys):
    found = cut(first_text(metadata, *keys), 200)
    return (visible_name(found, 200).strip(" ") or None) if found else None


def check_names(profile, metadata):
    assert profile.display_name == name_of(metadata, "full_name", "name", "preferred_username", "user_name")
    assert profile.first_name == name_of(metadata, "first_name", "given_name")
    assert profile.last_name == name_of(metadata, "last_name", "family_name")


def profiles(connection):
    return {row.user_id: row for row in connection.execute(text("select * from public.user_profiles"))}


def check_all(connection, users):
    found = profiles(connection)
    assert set(found) == set(users)
    assert len({row.username.lower() for row in found.values()}) == len(users)
    assert connection.scalar(text("select count(*) from public.user_progress")) == len(users)
    failed = connection.execute(
        text(
            "select error_code, error_message from public.user_profile_audit_logs where action in ('failed', 'skipped')"
        )
    )
    assert failed.all() == []
    for user_id, user in users.items():
        check(found[user_id], user)
    return found


@pytest.fixture
def connection(database):
    with database.engine.connect() as connected:
        yield connected


@pytest.mark.slow
@BATCH
@given(st.lists(USERS, min_size=1, max_size=12).map(distinct))
def test_any_sign_up_makes_a_legal_profile(connection, users):
    with connection.begin() as transaction:
        made = {insert_user(connection, **columns(user)): user for user in users}
        found = check_all(connection, made)
        for user_id, user in made.items():
            check_names(found[user_id], user["raw_user_meta_data"])
        transaction.rollback()


@BATCH
@given(st.lists(USERS, min_size=2, max_size=12).map(distinct))
def test_any_import_in_one_statement_makes_legal_profiles(connection, users):
    with connection.begin() as transaction:
        made = {uuid.uuid4(): user for user in users}
        rows = [
            {"id": str(user_id), **columns(user)}
            | {key: json.dumps(user[key]) for key in ("raw_user_meta_data", "raw_app_meta_data")}
            for user_id, user in made.items()
        ]
        names = ", ".join(rows[0])
        slots = ", ".join(
            "(" + ", ".join(f"cast(:{name}{n} as {CASTS.get(name, 'text')})" for name in rows[0]) + ")"
            for n in range(len(rows))
        )
        values = {f"{name}{n}": value for n, row in enumerate(rows) for name, value in row.items()}
        connection.execute(text(f"insert into auth.users ({names}) values {slots}"), values)
        check_all(connection, made)
        transaction.rollback()


CASTS = {
    "id": "uuid", "raw_user_meta_data": "jsonb", "raw_app_meta_data": "jsonb", "is_anonymous": "boolean", "is_sso_user": "boolean",
    "email_confirmed_at": "timestamptz",
}  # fmt: skip


@BATCH
@given(st.lists(st.tuples(USERS, USERS, st.booleans()), min_size=1, max_size=8))
def test_any_change_of_a_user_is_followed(connection, changes):
    with connection.begin() as transaction:
        before, after = distinct([old for old, _, _ in changes]), distinct([new for _, new, _ in changes])
        for n, user in enumerate([*before, *after]):  # never the phone that another user still has
            user["phone"] = user["phone"] and f"{n} {user['phone']}"
        ids = [insert_user(connection, **columns(user)) for user in before]
        edited = [user_id for user_id, (_, _, edits) in zip(ids, changes, strict=True) if edits]
        for user_id in edited:
            connection.execute(
                text("update public.user_profiles set username = :name, display_name = 'Edited' where user_id = :id"),
                {"name": f"e.{user_id.hex[:20]}", "id": user_id},
            )
        for user_id, user in zip(ids, after, strict=True):
            values = columns(user)
            values |= {key: json.dumps(user[key]) for key in ("raw_user_meta_data", "raw_app_meta_data")}
            assignments = ", ".join(f"{name} = cast(:{name} as {CASTS.get(name, 'text')})" for name in values)
            connection.execute(
                text(f"update auth.users set {assignments}, last_sign_in_at = now() where id = :id"),
                {**values, "id": user_id},
            )
        found = check_follow(connection, dict(zip(ids, after, strict=True)))
        for user_id in edited:
            assert (found[user_id].username, found[user_id].display_name) == (f"e.{user_id.hex[:20]}", "Edited")
        assert all(profile.login_count == 1 for profile in found.values())
        transaction.rollback()


def check_follow(connection, users):
    """As at sign-up, but a phone, picture, language and time zone of the older metadata may stay."""
    found = profiles(connection)
    assert set(found) == set(users)
    assert len({row.username.lower() for row in found.values()}) == len(users)
    failed = connection.execute(
        text(
            "select error_code, error_message from public.user_profile_audit_logs where action in ('failed', 'skipped')"
        )
    )
    assert failed.all() == []
    for user_id, user in users.items():
        profile = found[user_id]
        assert re.fullmatch(r"[a-z0-9_.-]{3,32}", profile.username)
        assert (profile.role, profile.is_active) == ("user", True)
        assert profile.is_anonymous is user["is_anonymous"]
        assert profile.email == (user["email"] or None)
        assert profile.email_verified is bool(user["email"] and user["confirmed"])
        if user["phone"] and len(user["phone"]) <= 40:
            assert profile.phone == user["phone"]
        for column, limit in LIMITS.items():
            assert len(getattr(profile, column) or "") <= limit, column
    return found


@pytest.mark.parametrize("kilobytes", [100, 1_000, 4_000])
def test_metadata_of_any_size_makes_a_profile(connection, kilobytes):
    big = "é" * (kilobytes * 512)
    shapes = (
        {"full_name": big, "avatar_url": "https://a.example/" + big, "timezone": big, "language": big},
        {big[:10_000]: big},
        [[big]],
        big,
        {"name": {"deep": json.loads("[" * 500 + "]" * 500)}, "full_name": "Ada"},
        {f"key{n}": n for n in range(kilobytes * 20)},
    )
    with connection.begin() as transaction:
        for shape in shapes:
            user_id = insert_user(connection, raw_user_meta_data=shape)
            connection.execute(text("update auth.users set last_sign_in_at = now() where id = :id"), {"id": user_id})
        found = profiles(connection)
        assert len(found) == len(shapes)
        assert [len(profile.display_name or "") for profile in found.values()] == [200, 0, 0, 0, 3, 0]
        transaction.rollback()
