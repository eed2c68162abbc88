"""ProfileService and AsyncProfileService: reading and making profiles, on every driver."""

import copy
import inspect
import json
import logging
import pickle
import uuid
from datetime import UTC

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

import profiles_schema
from profiles_schema import UserProfile
from profiles_schema.errors import (
    NotAllowed,
    NotConfigured,
    ProfileNotCreated,
    ProfileNotFound,
    ReadOnlyProfile,
    ServiceFailed,
)
from profiles_schema.services import default, flows, profiles
from profiles_schema.services.acting import follow_actor, on_behalf_of
from support.pooler import ROADS

NOBODY = uuid.UUID(int=0)


@pytest.fixture(params=ROADS)
def road(request):
    return request.param


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org", raw_user_meta_data={"full_name": "Ada Lovelace"})


@pytest.fixture
def without_profile(database):
    """A user whose sign-up trigger was off."""
    database.run("alter table auth.users disable trigger profiles_on_auth_user_created")
    user = database.sign_up("bob@example.org")
    database.run("alter table auth.users enable trigger profiles_on_auth_user_created")
    return user


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(flows, "FIRST_PAUSE_SECONDS", 0.01)


def break_function(database):
    database.script(
        "create or replace function public.ensure_user_profile(p_user_id uuid default auth.uid()) returns jsonb"
        " language plpgsql as $$ begin raise exception 'secret value' using errcode = 'XX000'; end $$"
    )


def refuse_profiles(database, state):
    database.script(
        "create function refuse() returns trigger language plpgsql as"
        f" $$ begin raise exception 'secret value' using errcode = '{state}'; end $$;"
        "create trigger refuse before insert on public.user_profiles for each row execute function refuse()"
    )


def failures(database, user):
    return database.run(
        "select error_code, retry_count, origin from public.user_profile_audit_logs where user_id = :id and action = 'failed'",
        id=user,
    )


def test_the_two_services_have_the_same_methods_with_the_same_arguments():
    def public(kind):
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(member).parameters.values()]
            for name, member in inspect.getmembers(kind, callable)
            if not name.startswith("_")
        }

    assert public(profiles.ProfileService) == public(profiles.AsyncProfileService)
    one, other = (
        inspect.signature(each).parameters for each in (profiles.ProfileService, profiles.AsyncProfileService)
    )
    assert list(one) == list(other)
    assert all(one[name].default == other[name].default for name in one)


def test_get_returns_the_profile_and_none_without_one(service, ada, without_profile):
    profile = service.get(ada)
    assert isinstance(profile, UserProfile)
    assert (profile.user_id, profile.username, profile.display_name) == (ada, "ada", "Ada Lovelace")
    assert profile.updated_at.astimezone(UTC).tzinfo is UTC
    assert service.get(str(ada)) is profile
    assert service.get(without_profile) is None
    assert service.get(NOBODY) is None
    with pytest.raises(ValueError, match="uuid"):
        service.get("ada@example.org")


def test_every_column_is_loaded_and_nothing_is_loaded_later(service, ada, database):
    profile = service.get(ada)
    with service.factory.counted() as statements:
        shown = {each.key: getattr(profile, each.key) for each in UserProfile.__mapper__.column_attrs}
    assert not statements
    row = database.profile(ada)
    assert shown == {each.key: getattr(row, each.columns[0].name) for each in UserProfile.__mapper__.column_attrs}


def test_a_profile_is_read_only_and_a_copy_of_it_is_not(service, ada, database):
    database.run(
        "update public.user_profiles set preferences = :json, key_metrics = '[[1]]' where user_id = :id",
        id=ada, json=json.dumps({"a": {"b": [1]}}),
    )  # fmt: skip
    profile = service.get(ada)
    for change in (
        lambda: setattr(profile, "bio", "x"),
        lambda: setattr(profile, "unknown", "x"),
        lambda: setattr(profile, "personality", {}),
        lambda: delattr(profile, "bio"),
        lambda: profile.preferences.update(a=1),
        profile.preferences["a"].clear,
        lambda: profile.preferences["a"]["b"].append(2),
        profile.key_metrics[0].sort,
        lambda: profile.preferences.__setitem__("a", 1),
    ):
        with pytest.raises(ReadOnlyProfile, match="read-only"):
            change()
    assert json.dumps(profile.preferences) == '{"a": {"b": [1]}}'
    assert profile.personality.to_json() == {}
    copied = copy.deepcopy(profile.preferences)
    copied["a"]["b"].append(2)
    copy.copy(profile.preferences).pop("a")
    assert profile.preferences == {"a": {"b": [1]}}
    again = pickle.loads(pickle.dumps(profile))
    assert (again.username, again.preferences) == ("ada", profile.preferences)
    with pytest.raises(ReadOnlyProfile):
        again.bio = "x"
    engine = create_engine(database.url.replace("postgresql://", "postgresql+psycopg2://", 1))
    with Session(engine) as session, session.begin():
        mine = session.merge(profile)
        mine.bio = "changed"
    engine.dispose()
    assert database.profile(ada).bio == "changed"
    assert profile.bio is None


def test_get_many_takes_one_statement_for_what_is_not_in_memory(service, database, ada, without_profile):
    users = [database.sign_up(f"user{n}@example.org") for n in range(5)]
    service.get(ada)
    with service.factory.counted() as statements:
        found = service.get_many([ada, *users, users[0], str(users[1]), without_profile, NOBODY])
    assert len(statements) == 1
    assert list(found) == [ada, *users]
    assert all(profile.user_id == user for user, profile in found.items())
    with service.factory.counted() as statements:
        assert service.get_many([*users, NOBODY]) == {user: found[user] for user in users}
        assert service.get_many([]) == {}
    assert not statements


def test_get_or_create_reads_what_is_there_with_one_statement(services, ada):
    service = services.service(cache_size=0)
    with service.factory.counted() as statements:
        assert service.get_or_create(ada).username == "ada"
    assert len(statements) == 1


def test_get_or_create_makes_what_is_missing(service, database, without_profile):
    events = []
    service.subscribe(events.append)
    with service.factory.counted() as statements:
        profile = service.get_or_create(without_profile)
    assert len(statements) == 3
    assert (profile.username, profile.email) == ("bob", "bob@example.org")
    assert [(event.kind, event.user_id) for event in events] == [("created", without_profile)]
    assert service.get(without_profile) is profile
    assert database.value("select count(*) from public.user_progress where user_id = :id", id=without_profile) == 1


def test_there_is_no_profile_without_a_user(service, database, without_profile):
    database.run("update auth.users set deleted_at = now() where id = :id", id=without_profile)
    for user in (NOBODY, without_profile):
        with pytest.raises(ProfileNotFound, match="no such user"):
            service.get_or_create(user)
    assert database.value("select count(*) from public.user_profiles") == 0


def test_the_role_must_be_allowed_to(services, database, ada, without_profile):
    service = services.service(services.factory("anon"))
    with pytest.raises(NotAllowed):
        service.get(ada)
    service = services.service(services.factory("authenticated"))
    assert service.get(ada) is None
    events = []
    service.subscribe(events.append)
    with pytest.raises(NotAllowed):
        service.get_or_create(without_profile)
    assert [event.kind for event in events] == ["refused"]
    assert failures(database, without_profile) == []


def test_the_third_layer_inserts_where_the_function_fails(service, database, without_profile):
    break_function(database)
    profile = service.get_or_create(without_profile)
    assert (profile.id, profile.username) == (str(without_profile), without_profile.hex)
    assert database.value("select count(*) from public.user_progress where user_id = :id", id=without_profile) == 1
    database.run("update auth.users set last_sign_in_at = now() where id = :id", id=without_profile)
    assert database.profile(without_profile).email == "bob@example.org"
    with pytest.raises(ProfileNotFound):
        service.get_or_create(NOBODY)


def test_the_fourth_layer_records_the_failure_and_says_no_value(service, database, without_profile, caplog):
    refuse_profiles(database, "23514")
    with caplog.at_level(logging.DEBUG), pytest.raises(ProfileNotCreated) as raised:
        service.get_or_create(without_profile)
    assert raised.value.sqlstate == "23514"
    assert failures(database, without_profile) == [("23514", 0, "registration")]
    assert "secret" not in caplog.text + str(raised.value) + json.dumps(raised.value.problem())
    assert raised.value.problem()["status"] == 503
    (record,) = [each for each in caplog.records if getattr(each, "event", None) == "failed"]
    assert (record.user_id, record.sqlstate, record.attempts) == (str(without_profile), "23514", 1)
    # And once the cause is gone, the next call succeeds: a failure is not remembered.
    database.run("drop trigger refuse on public.user_profiles")
    assert service.get_or_create(without_profile).username == "bob"


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03", "57P01", "08006"])
def test_a_failure_that_may_pass_is_tried_three_times(service, database, without_profile, state):
    refuse_profiles(database, state)
    with pytest.raises(ProfileNotCreated) as raised:
        service.get_or_create(without_profile)
    assert raised.value.sqlstate == state
    assert failures(database, without_profile) == [(state, 2, "registration")]


def test_a_failure_that_passes_does_no_harm(service, database, without_profile):
    database.script(
        "create sequence attempts; grant usage on sequence attempts to service_role;"
        "create function refuse_twice() returns trigger language plpgsql security definer as"
        " $$ begin if nextval('public.attempts') < 3 then raise exception 'x' using errcode = '40001'; end if; return new; end $$;"
        "create trigger refuse before insert on public.user_profiles for each row execute function refuse_twice()"
    )
    assert service.get_or_create(without_profile).username == "bob"
    assert failures(database, without_profile) == []


def test_reads_survive_a_connection_that_was_cut(service, database, ada):
    service.get(ada)
    service.forget(ada)
    database.run(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    )
    assert service.get(ada).username == "ada"


def test_no_database_is_a_typed_error(services, database, ada):
    factory = services.factory()
    service = services.service(factory)
    database.administrator.run("alter table public.user_profiles rename to elsewhere")
    with pytest.raises(ServiceFailed) as raised:
        service.get(ada)
    assert raised.value.sqlstate == "42P01"
    assert raised.value.problem() == {
        "type": "urn:profiles-schema:service-failed",
        "title": "Service failed",
        "status": 503,
        "detail": "The database failed (SQLSTATE 42P01). Repeat the request later.",
    }


def test_many_at_once_make_one_profile_with_one_insert(services, database, without_profile):
    service = services.service(services.factory(pool_size=20, max_overflow=0))
    with service.factory.counted() as statements:
        found = service.together("get_or_create", *[(without_profile,)] * 20)
    assert {id(profile) for profile in found} == {id(found[0])}
    assert found[0].username == "bob"
    assert len([each for each in statements if "ensure_user_profile" in each]) == 1


def test_sessions_that_act_for_users_share_nothing(services, database, ada):
    eve = database.sign_up("eve@example.org")
    factory = services.factory()
    follow_actor(factory.sessions)
    service = services.service(factory)
    with on_behalf_of(ada):
        assert service.get(ada).username == "ada"
        assert service.get_or_create(ada).username == "ada"
    with on_behalf_of(eve):
        assert service.get(ada) is None
        assert service.get_many([ada, eve]).keys() == {eve}
    assert service.statistics().entries == 0


# The default service


def test_a_program_configures_one_service_and_calls_it_by_plain_functions(database, monkeypatch):
    monkeypatch.setattr(default, "_service", None)
    user = database.sign_up("ada@example.org")
    with pytest.raises(NotConfigured, match=r"configure\(session_factory\)"):
        profiles_schema.get_profile(user)
    engine = create_engine(database.url)
    try:
        service = profiles_schema.configure(sessionmaker(engine), cache_ttl_seconds=60)
        assert isinstance(service, profiles_schema.ProfileService)
        database.run("delete from public.user_profiles where user_id = :user", user=user)
        assert profiles_schema.get_profile(user) is None
        assert profiles_schema.get_or_create_profile(user).user_id == user
        assert profiles_schema.update_profile(user, {"bio": "Engineer"}).bio == "Engineer"
        assert profiles_schema.get_profile(user).bio == "Engineer"
    finally:
        engine.dispose()


def test_every_public_name_of_the_services_is_there():
    for package in (profiles_schema, profiles_schema.services):
        assert package.__all__ == sorted(package.__all__, key=lambda name: (name == name.lower(), name))
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="no attribute 'misspelt'"):
            package.misspelt  # noqa: B018
    shared = {*profiles_schema.services.__all__} & {*profiles_schema.__all__}
    assert "acting_as" in shared
    assert all(getattr(profiles_schema.services, name) is getattr(profiles_schema, name) for name in shared)
