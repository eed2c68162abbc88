"""What services change: update, patch, sync, many at once; every refusal is typed and repeats no value."""

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from profiles_schema.errors import (
    InvalidProfile,
    NotAllowed,
    ProfileNotFound,
    ServiceError,
    ServiceFailed,
    StaleProfile,
    UsernameTaken,
)
from profiles_schema.schema.models.checks import HIDDEN_CHARACTERS, URL_LIMIT
from profiles_schema.services import flows, queries
from profiles_schema.services.changes import DOCUMENTS, EDITABLE, broken_rules, changes_model, merge_patch, rules
from support import wait_until
from support.services import Services

NOBODY = uuid.UUID(int=0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(flows, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def events(service):
    seen = []
    service.subscribe(seen.append)
    return seen


# Rules


def test_the_editable_columns_are_those_that_users_may_update(database):
    rows = database.run(
        "select attname from pg_attribute where attrelid = 'public.user_profiles'::regclass and attnum > 0"
        " and has_column_privilege('authenticated', attrelid, attname, 'update')"
    )
    assert {row.attname for row in rows} == set(EDITABLE)


def test_every_check_of_an_editable_column_is_known_to_the_model(database):
    rows = database.run(
        "select k.conname, array_agg(a.attname::text) as columns from pg_constraint as k"
        " join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = any (k.conkey)"
        " where k.conrelid = 'public.user_profiles'::regclass and k.contype = 'c' group by 1"
    )
    inside = {f"ck_user_profiles_{name}": set(rule.columns) for name, rule in rules()}
    asked = {row.conname: set(row.columns) for row in rows if set(row.columns) & set(EDITABLE)}
    assert {name: inside.get(name) for name in asked} == asked
    assert set(changes_model().model_fields) == set(EDITABLE)
    not_null = {
        row.attname
        for row in database.run(
            "select attname from pg_attribute where attrelid = 'public.user_profiles'::regclass and attnotnull"
        )
    }
    assert {name for name in EDITABLE if broken_rules({name: None})} == not_null & set(EDITABLE)


AWKWARD = (
    "", "a", "ada", "ada\n", "Ada", "a" * 3, "a" * 32, "a" * 33, "a.b_c-d", "ädä", "a b", "x" * 40, "x" * 41, "x" * 200,
    "x" * 201, "x" * 4_000, "x" * 4_001, "x" * 20_000, "x" * 20_001, "\t", "a\u200bb", "a\u200db", "\u2028", "\x01", "\x7f", "😀",
    "😀" * 16, "😀" * 17, "<b>", "&", "https://example.org", "http://", "javascript:alert(1)", "//example.org/x", "/x", "/\\x",
    "/\n", "0.998.png", "avatars/ada.png", "avatars/../x", "a:b", "a\\b", "https://" + "x" * (URL_LIMIT - 8),
    "https://" + "x" * (URL_LIMIT - 7), "public", "private", "Public", "public\n", "en", "en-US", "e", "de-", "en_US", "x" * 35,
    "abcdefgh" + "-abcdefgh" * 3, "abcdefgh-abcdefgh-abcdefgh-abcdefgh", "0\x1f", "\x85", "pt-BR\n", "\u017ft", "\u212a", "a\u0000b", "\ud800",
)  # fmt: skip
AWKWARD_DOCUMENTS = (
    {}, [], None, {"a": None}, {"a": 1e40}, {"a": 1.1e40}, {"a": -1.1e40}, {"a": 10**41}, {"a": 1e-40}, {"a": 1e-41}, {"a": 0}, {"a": True},
    {"a": "x" * 65_000}, {"a": "x" * 65_527}, {"a": "x" * 65_528}, {"a": "ä" * 32_763}, {"a": "ä" * 32_764}, {"a": '"' * 32_763}, {"a": '"' * 32_764},
    ["x" * 65_532], ["x" * 65_533], {"a\u0000": 1}, {"a": "\ud800"}, {"a": float("nan")}, "text", 1, {1: 2}, {"a": (1,)},
)  # fmt: skip


def nested(levels, kind):
    document = {} if kind is dict else []
    for _ in range(levels):
        document = {"a": document} if kind is dict else [document]
    return document


def verdict(database, user, name, value):
    """Whether the table takes a value."""
    try:
        sent = json.dumps(value) if name in DOCUMENTS and value is not None else value
        database.run(
            f"update public.user_profiles set {name} = {'cast(:v as jsonb)' if name in DOCUMENTS else ':v'} where user_id = :id",
            v=sent, id=user,
        )  # fmt: skip
    except (DBAPIError, ValueError, TypeError, RecursionError):
        return False
    return True


@pytest.mark.parametrize("name", EDITABLE)
def test_the_model_and_the_table_agree(database, ada, name):
    values = AWKWARD_DOCUMENTS if name in DOCUMENTS else (*AWKWARD, None)
    if name in DOCUMENTS:
        values = (*values, *(nested(n, kind) for n in (31, 32, 33, 2_000) for kind in (dict, list)))
    differ = []
    for value in values:
        if name in DOCUMENTS and value is not None and not isinstance(value, dict | list):
            expected = False
        elif name in DOCUMENTS and value in ({1: 2}, {"a": (1,)}):
            expected = False  # which JSON would change
        else:
            expected = verdict(database, ada, name, value)
        only_the_server_knows = name == "timezone" or (name.endswith("_url") and not (value or "").isascii())
        if only_the_server_knows and not expected:
            continue
        if (not broken_rules({name: value})) != expected:
            differ.append((repr(value)[:60], expected))
    assert differ == []


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from(
    "\t\n\x7f\x85\u200b\u200d\u2028\u2066\ufeff<>&:\\/._-a1Z "
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["username", "first_name", "avatar_emoji", "logo_url", "language", "profile_visibility", "phone"]
)
def test_the_model_and_the_table_agree_on_any_text(database, ada, name):
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.text(CHARACTERS, max_size=45) | st.from_regex(r"https?://\S{0,9}", fullmatch=True))
    def agrees(value):
        refused = bool(broken_rules({name: value}))
        taken = verdict(database, ada, name, value)
        assert not (refused and taken)
        assert refused or taken or not value.isascii()

    agrees()


def test_hidden_characters_are_hidden_in_python_too():
    assert broken_rules({"first_name": "a\u202eb"}) == {"first_name": ["names without hidden characters"]}
    assert HIDDEN_CHARACTERS.startswith("[")


@pytest.mark.parametrize("key", ["\ud800", "bio\udfff", "\x00", "", "x" * 500])
def test_a_key_that_is_no_text_is_named_like_any_other(key):
    assert list(broken_rules({key: 1, "bio": 17}).values()) == [["must be a text"], ["cannot be changed here"]]


# update


def test_update_writes_and_returns_the_profile_with_one_statement(service, database, ada, events):
    before = service.get(ada)
    with service.factory.counted() as statements:
        after = service.update(ada, {"bio": "Engineer", "preferences": {"theme": "dark"}, "phone": None})
    assert len(statements) == 1
    assert (after.bio, after.preferences) == ("Engineer", {"theme": "dark"})
    assert after.updated_at > before.updated_at
    assert (before.bio, database.profile(ada).bio) == (None, "Engineer")
    assert service.get(ada).bio == "Engineer"
    assert [(event.kind, event.details["changed"]) for event in events] == [
        ("updated", ["bio", "phone", "preferences"])
    ]
    assert service.update(ada, {"preferences": after.preferences}).preferences == {"theme": "dark"}


def test_update_names_everything_that_is_wrong_at_once(service, database, ada, bob):
    before = database.profile(ada)
    secret = "Secret\u200bValue"
    with pytest.raises(InvalidProfile) as raised:
        service.update(
            ada,
            {
                "bio": "x" * 4_001, "first_name": secret, "role": "admin", "user_id": str(bob), "nonsense": 1, "language": None,
                "phone": 5, "preferences": [], "key_metrics": {}, "username": "bob", "timezone": "Mars/Olympus",
            },
        )  # fmt: skip
    assert raised.value.fields == {
        "username": ("is taken",),
        "timezone": ("is a name of pg_timezone_names",),
        "first_name": ("names without hidden characters",),
        "phone": ("must be a text",),
        "bio": ("up to 4000 characters",),
        "language": ("cannot be null",),
        "key_metrics": ("must be an array",),
        "preferences": ("must be an object",),
        "role": ("cannot be changed here",),
        "user_id": ("cannot be changed here",),
        "nonsense": ("cannot be changed here",),
    }
    problem = raised.value.problem()
    assert {key: problem[key] for key in ("type", "title", "status", "detail")} == {
        "type": "urn:profiles-schema:invalid-profile",
        "title": "Invalid profile",
        "status": 422,
        "detail": "The profile cannot be changed like this.",
    }
    assert {"pointer": "#/bio", "detail": "up to 4000 characters"} in problem["errors"]
    for said in (json.dumps(problem), str(raised.value), repr(raised.value)):
        assert "Secret" not in said
        assert "Olympus" not in said
    assert database.profile(ada) == before


@pytest.mark.parametrize("merge", ["update", "patch"])
def test_a_taken_name_is_refused(service, ada, bob, merge, events):
    with pytest.raises(UsernameTaken) as raised:
        getattr(service, merge)(ada, {"username": "bob"})
    assert raised.value.fields == {"username": ("is taken",)}
    assert raised.value.problem()["status"] == 409
    assert [(event.kind, event.details["error"]) for event in events] == [("refused", "UsernameTaken")]
    assert service.update(ada, {"username": "ada"}).username == "ada"
    assert service.update(ada, {"username": "ada_l"}).username == "ada_l"


def test_a_name_that_is_taken_in_the_same_moment_is_refused(service, ada, bob):
    found = service.together("update", (ada, {"username": "countess"}), (bob, {"username": "countess"}))
    assert sorted(type(each).__name__ for each in found) == ["ProfileSnapshot", "UsernameTaken"]


def test_a_name_that_is_taken_while_it_is_looked_up_is_not_called_reserved(service, database, ada, bob):
    database.administrator.script(
        "alter function public.gen_available_username(text) rename to look_later;"
        "create function public.gen_available_username(p_email text) returns text language plpgsql security definer as"
        " 'begin perform pg_advisory_xact_lock_shared(17); return public.look_later(p_email); end';"
    )
    with ThreadPoolExecutor(1) as pool, database.engine.connect() as holder:
        holder.exec_driver_sql("select pg_advisory_lock(17)")
        refused = pool.submit(service.update, ada, {"username": "countess"})
        wait_until(lambda: database.value("select count(*) from pg_locks where locktype = 'advisory' and not granted"))
        database.run("update public.user_profiles set username = 'countess' where user_id = :bob", bob=bob)
        holder.exec_driver_sql("select pg_advisory_unlock(17)")
        with pytest.raises(UsernameTaken):
            refused.result(10)


@pytest.mark.parametrize("name", ["admin", "adm1n", "support", "user"])
def test_a_reserved_name_is_refused_although_service_role_could_give_it(service, ada, name):
    with pytest.raises(InvalidProfile) as raised:
        service.update(ada, {"username": name})
    assert raised.value.fields == {"username": ("is reserved",)}


def test_what_only_the_database_knows_is_told_at_once(service, database, ada, bob):
    with pytest.raises(InvalidProfile) as raised:
        service.update(ada, {"timezone": "Mars/Olympus"})
    assert raised.value.fields == {"timezone": ("is a name of pg_timezone_names",)}
    with pytest.raises(InvalidProfile) as raised:
        service.update(ada, {"timezone": "Mars/Olympus", "username": "bob"})
    assert set(raised.value.fields) == {"timezone", "username"}
    assert service.update(ada, {"timezone": "Europe/Berlin"}).timezone == "Europe/Berlin"
    database.run("alter table public.user_profiles add constraint own_rule check (bio <> phone)")
    with pytest.raises(InvalidProfile) as raised:
        service.update(ada, {"bio": "same", "phone": "same", "language": "de"})
    assert raised.value.fields == {"bio": ("breaks the rule own_rule",), "phone": ("breaks the rule own_rule",)}
    database.run("create unique index own_index on public.user_profiles (bio)")
    service.update(bob, {"bio": "mine"})
    with pytest.raises(InvalidProfile):
        service.update(ada, {"bio": "mine"})


def test_a_trigger_of_the_application_may_refuse(service, database, ada):
    database.script(
        "create function own() returns trigger language plpgsql as"
        " $$ begin raise exception 'not %', new.bio using errcode = coalesce(nullif(new.phone, ''), 'P0001'); end $$;"
        "create trigger own before update on public.user_profiles for each row execute function own()"
    )
    with pytest.raises(InvalidProfile) as raised:
        service.update(ada, {"bio": "Secret"})
    assert "Secret" not in str(raised.value)
    with pytest.raises(ServiceFailed) as failed:
        service.update(ada, {"bio": "Secret", "phone": "XX000"})
    assert failed.value.sqlstate == "XX000"
    assert "Secret" not in str(failed.value)
    assert failed.value.__suppress_context__


def test_only_the_living_are_changed(service, database, ada):
    for call in ("update", "patch"):
        with pytest.raises(ProfileNotFound):
            getattr(service, call)(NOBODY, {"bio": "x"})
        with pytest.raises(ProfileNotFound):
            getattr(service, call)(NOBODY, {})
    database.run("update auth.users set deleted_at = now() where id = :id", id=ada)
    for call in ("update", "patch"):
        with pytest.raises(NotAllowed, match="erased or inactive"):
            getattr(service, call)(ada, {"bio": "x"})
    assert database.profile(ada).bio is None


def test_a_role_without_the_right_is_refused(services, ada):
    service = services.service(services.factory("anon"))
    for call in ("update", "patch"):
        with pytest.raises(NotAllowed):
            getattr(service, call)(ada, {"bio": "x"})


def test_compare_and_set(service, ada):
    seen = service.get(ada)
    service.update(ada, {"bio": "one"}, if_updated_at=seen.updated_at)
    for call in ("update", "patch"):
        with pytest.raises(StaleProfile) as raised:
            getattr(service, call)(ada, {"bio": "two"}, if_updated_at=seen.updated_at)
    assert raised.value.problem()["status"] == 409
    seen = service.get(ada)
    assert seen.bio == "one"
    assert service.patch(ada, {"bio": "two"}, if_updated_at=seen.updated_at).bio == "two"


def test_nothing_to_change_is_no_change(service, ada):
    before = service.get(ada)
    assert service.update(ada, {}).updated_at == before.updated_at
    assert service.patch(ada, {}).updated_at == before.updated_at
    assert service.update(ada, {"username": "ada"}).updated_at == before.updated_at


def test_validators_of_the_application_add_what_they_find(services, ada):
    service = services.service()
    asked = []

    def polite(user_id, changes):
        asked.append((user_id, dict(changes)))
        return {"bio": "must be polite"} if "damn" in changes.get("bio", "") else None

    service.add_validator(polite)
    with pytest.raises(InvalidProfile) as raised:
        service.update(ada, {"bio": "damn", "phone": 1})
    assert raised.value.fields == {"bio": ("must be polite",), "phone": ("must be a text",)}
    assert asked == [(ada, {"bio": "damn"})]
    service.patch(ada, {"bio": "fine"})

    async def later(_user_id, changes):
        await asyncio.sleep(0)
        return {"bio": "not yet"} if "bio" in changes else None

    service.add_validator(later)
    if service.factory.is_async:
        with pytest.raises(InvalidProfile, match="not yet"):
            service.update(ada, {"bio": "fine"})
    else:
        with pytest.raises(TypeError, match="asynchronous service"):
            service.update(ada, {"bio": "fine"})


# patch


def test_patch_merges_documents(service, database, ada):
    service.update(ada, {"preferences": {"theme": "light", "mail": {"daily": True, "weekly": True}}})
    with service.factory.counted() as statements:
        after = service.patch(
            ada, {"preferences": {"theme": "dark", "mail": {"daily": None}}, "key_metrics": [1], "bio": "x"}
        )
    assert len(statements) == 2
    assert after.preferences == {"theme": "dark", "mail": {"weekly": True}}
    assert (after.key_metrics, after.bio) == ([1], "x")
    assert database.profile(ada).preferences == after.preferences
    with pytest.raises(InvalidProfile) as raised:
        service.patch(ada, {"preferences": None, "notification_settings": [1]})
    assert set(raised.value.fields) == {"preferences", "notification_settings"}


def test_a_patch_that_makes_a_document_too_large_is_refused(service, ada):
    service.patch(ada, {"preferences": {"a": "x" * 40_000}})
    with pytest.raises(InvalidProfile) as raised:
        service.patch(ada, {"preferences": {"b": "x" * 40_000}})
    assert raised.value.fields == {"preferences": ("object 64 kb 32 levels",)}


def test_patches_at_once_do_not_undo_each_other(services, ada):
    service = services.service(services.factory(pool_size=10))
    found = service.together("patch", *[(ada, {"preferences": {f"key{n}": n}}) for n in range(10)])
    assert not [each for each in found if isinstance(each, Exception)]
    assert service.get(ada).preferences == {f"key{n}": n for n in range(10)}


DOCUMENT = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
def test_patches_merge_as_the_function_of_the_database(database):
    @settings(max_examples=200, deadline=None)
    @given(DOCUMENT, DOCUMENT)
    def agrees(target, patch):
        merged = database.value(
            "select profiles_internal.merge_patch(cast(:target as jsonb), cast(:patch as jsonb))",
            target=json.dumps(target), patch=json.dumps(patch),
        )  # fmt: skip
        assert merge_patch(target, patch) == merged

    agrees()


# sync


def test_sync_follows_the_user_and_says_what_changed(service, database, ada, events):
    database.run("alter table auth.users disable trigger profiles_on_auth_user_updated")
    database.run(
        "update auth.users set email = 'new@example.org', email_confirmed_at = now(), last_sign_in_at = now() where id = :id",
        id=ada,
    )
    assert service.get(ada).email == "ada@example.org"
    result = service.sync(ada)
    assert set(result.changed["auth"]) == {"email", "email_verified", "last_login", "login_count", "username"}
    assert (result.profile.email, result.profile.login_count) == ("new@example.org", 1)
    assert service.get(ada).email == "new@example.org"
    again = service.sync(ada)
    assert (again.changed, again.profile.login_count) == ({}, 1)
    assert [event.kind for event in events] == ["synced", "synced"]
    log = database.run(
        "select origin, changed from public.user_profile_audit_logs where user_id = :id and action = 'updated'", id=ada
    )
    assert {row.origin for row in log} == {"sync"}


def test_sync_asks_the_sources(services, database, ada):
    service = services.service()
    service.add_source("crm", lambda profile: {"company_name": f"{profile.username} Ltd"})
    service.add_source("none", lambda _profile: None)
    service.add_source("down", lambda _profile: 1 / 0)
    service.add_source("wrong", lambda _profile: {"role": "admin"})
    if services.service().factory.is_async:

        async def slow(_profile):
            await asyncio.sleep(0)
            return {"preferences": {"crm": True}}

    else:

        def slow(_profile):
            return {"preferences": {"crm": True}}

    service.add_source("slow", slow)
    result = service.sync(ada)
    assert result.changed == {"crm": ("company_name",), "slow": ("preferences",)}
    assert (result.profile.company_name, result.profile.preferences) == ("ada Ltd", {"crm": True})
    assert {name: type(error) for name, error in result.failed.items()} == {
        "down": ZeroDivisionError,
        "wrong": InvalidProfile,
    }
    assert {entry.origin for entry in service.history(ada)} == {"sync"}


def test_sync_makes_a_profile_and_knows_who_is_there(services, database):
    service = services.service()
    database.run("alter table auth.users disable trigger profiles_on_auth_user_created")
    user = database.sign_up("eve@example.org")
    assert service.sync(user).profile.email == "eve@example.org"
    with pytest.raises(ProfileNotFound):
        service.sync(NOBODY)
    stranger = services.service(services.factory("authenticated"))
    with pytest.raises(NotAllowed):
        stranger.sync(user)


# Many


def test_create_many_has_an_outcome_for_each(service, database, ada):
    database.run("alter table auth.users disable trigger profiles_on_auth_user_created")
    users = [database.sign_up(f"user{n}@example.org") for n in range(4)]
    with service.factory.counted() as statements:
        outcomes = service.create_many([ada, *users])
    assert len(statements) == 3
    assert list(outcomes) == [ada, *users]
    assert [outcome.profile.email for outcome in outcomes.values()] == [
        "ada@example.org", *(f"user{n}@example.org" for n in range(4)),
    ]  # fmt: skip
    late = database.sign_up("late@example.org")
    outcomes = service.create_many([NOBODY, late, ada])
    assert isinstance(outcomes[NOBODY].error, ProfileNotFound)
    assert outcomes[late].profile.username == "late"
    assert outcomes[ada].profile.username == "ada"


def test_update_many_takes_two_statements(service, database):
    users = [database.sign_up(f"user{n}@example.org") for n in range(20)]
    wanted = {user: {"bio": f"bio {n}", "preferences": {"n": n}} for n, user in enumerate(users)}
    wanted[users[0]] = {"phone": "1"}
    with service.factory.counted() as statements:
        outcomes = service.update_many(wanted)
    assert len(statements) == 2
    assert [outcome.profile.bio for outcome in outcomes.values()] == [None, *(f"bio {n}" for n in range(1, 20))]
    assert outcomes[users[0]].profile.phone == "1"
    assert database.profile(users[7]).preferences == {"n": 7}
    assert database.profile(users[0]).preferences == {}


def test_update_many_has_an_outcome_for_each(service, database, ada, bob):
    gone = database.sign_up("gone@example.org")
    database.run("update auth.users set deleted_at = now() where id = :id", id=gone)
    eve, mal, same = (database.sign_up(f"{name}@example.org") for name in ("eve", "mal", "same"))
    outcomes = service.update_many({
        ada: {"bio": "one"}, bob: {"username": "ada"}, gone: {"bio": "x"}, NOBODY: {"bio": "x"}, eve: {"timezone": "Mars/Olympus"},
        mal: {"role": "admin"}, same: {}, database.sign_up("zoe@example.org"): {"username": "root"},
    })  # fmt: skip
    assert [type(outcome.error).__name__ for outcome in outcomes.values()] == [
        "NoneType", "UsernameTaken", "NotAllowed", "ProfileNotFound", "InvalidProfile", "InvalidProfile", "NoneType", "InvalidProfile",
    ]  # fmt: skip
    assert (outcomes[ada].profile.bio, outcomes[same].profile.username) == ("one", "same")
    assert outcomes[eve].error.fields == {"timezone": ("is a name of pg_timezone_names",)}
    assert database.profile(ada).bio == "one"
    assert database.profile(eve).timezone == "UTC"
    both = service.update_many({ada: {"username": "countess"}, bob: {"username": "countess"}})
    assert sorted(type(outcome.error).__name__ for outcome in both.values()) == ["NoneType", "UsernameTaken"]
    assert service.update_many({}) == {}


# Reading on


@pytest.mark.slow
def test_public_profiles_show_what_is_public(services, database, ada, bob):
    database.run(
        "update public.user_profiles set profile_visibility = 'private', bio = 'b' where user_id = :id", id=bob
    )
    users = [database.sign_up(f"user{n}@example.org") for n in range(201)]
    service = services.service(services.factory("anon"))
    with service.factory.counted() as statements:
        found = service.get_public_many([ada, bob, NOBODY, *users])
    assert len(statements) == 2
    assert list(found) == [ada, *users] or set(found) == {ada, *users}
    assert (found[ada].username, found[ada].user_id) == ("ada", ada)
    assert not hasattr(found[ada], "email")


def test_search_pages_through_names(service, database):
    users = [database.sign_up(f"{name}@example.org") for name in ("anna", "ann_b", "ann-c", "annz", "anon1", "bert")]
    database.run("update public.user_profiles set is_active = false where username = 'annz'")
    assert len(users) == 6
    seen, after = [], None
    while True:
        with service.factory.counted() as statements:
            page = service.search("ANN", after=after, limit=2)
        assert len(statements) == 1
        seen += [profile.username for profile in page.profiles]
        if (after := page.next) is None:
            break
    assert seen == ["ann-c", "ann_b", "anna"]
    assert service.search("ann%").profiles == []
    assert [profile.username for profile in service.search("ann_").profiles] == ["ann_b"]
    assert len(service.search().profiles) == 5


def test_search_finds_documents(service, database, ada, bob):
    service.update(ada, {"preferences": {"theme": "dark", "mail": {"daily": True}}})
    service.update(bob, {"preferences": {"theme": "light"}})
    found = service.search(containing={"preferences": {"theme": "dark"}})
    assert [profile.user_id for profile in found.profiles] == [ada]
    assert service.search("bob", containing={"preferences": {"theme": "dark"}}).profiles == []
    for wrong in ({"key_metrics": {}}, {"role": {}}, {"bio; drop": {}}):
        with pytest.raises(ValueError, match="not a column"):
            service.search(containing=wrong)
    for limit in (0, 201):
        with pytest.raises(ValueError, match="page"):
            service.search(limit=limit)


def test_history_says_what_changed_and_no_value(service, ada):
    for n in range(3):
        service.update(ada, {"bio": f"Secret {n}", **({"phone": "1"} if n == 1 else {})})
    with service.factory.counted() as statements:
        entries = service.history(ada)
    assert len(statements) == 1
    assert [entry.changed for entry in entries] == [("bio",), ("bio", "phone"), ("bio",)]
    assert entries[0].at > entries[2].at
    assert datetime.now(UTC) - entries[0].at < timedelta(minutes=5)
    assert "Secret" not in repr(entries)
    assert service.history(ada, before=entries[0], limit=1) == [entries[1]]
    assert service.history(NOBODY) == []


@pytest.mark.parametrize("index", ["name", "document"])
def test_a_search_takes_an_index(database, index):
    services = Services(database, "psycopg2")
    service = services.service()
    database.script(
        "insert into auth.users (email) select 'usr' || g || '@example.org' from generate_series(1, 5000) as g;"
        "update public.user_profiles set preferences = jsonb_build_object('number', username); analyze public.user_profiles"
    )
    asked = {"name": {"prefix": "usr499"}, "document": {"containing": {"preferences": {"number": "usr4990"}}}}[index]
    assert len(service.search(**asked).profiles) == {"name": 11, "document": 1}[index]
    services.close()
    statement = queries.search_statement(asked.get("prefix", ""), asked.get("containing", {}), None).limit(51)
    compiled = statement.compile(database.engine)
    values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in compiled.params.items()}
    with database.engine.connect() as connection:
        plan = "\n".join(connection.exec_driver_sql(f"explain {compiled}", values).scalars())
    assert {"name": "idx_user_profiles_username_lower", "document": "idx_user_profiles_preferences_gin"}[index] in plan
    assert "Seq Scan" not in plan


def test_every_error_has_a_problem():
    kinds = [ServiceError, *ServiceError.__subclasses__()]
    for kind in kinds:
        problem = kind().problem()
        assert set(problem) >= {"type", "title", "status", "detail"}
        assert 400 <= problem["status"] < 600
        json.dumps(problem)
    assert InvalidProfile(fields={"a/b~c": ["x"]}).problem()["errors"] == [{"pointer": "#/a~1b~0c", "detail": "x"}]
