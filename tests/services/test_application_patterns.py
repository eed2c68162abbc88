"""The ways in which applications hold sessions, threads, tasks and processes: whose rights there are, and what is shared."""

import asyncio
import os
import signal
import threading
import uuid
from datetime import timedelta, timezone

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from profiles_schema import UserProfile
from profiles_schema.errors import ActingRefused, InvalidProfile, ProfileNotFound, ReadOnlyProfile, ServiceFailed
from profiles_schema.services import queries
from profiles_schema.services.acting import acting_as, current_actor, follow_actor, on_behalf_of
from profiles_schema.services.engines import async_engine, engine, require_rls
from profiles_schema.services.profiles import AsyncProfileService, ProfileService
from support.pooler import pooler
from support.services import DRIVERS, Services

WHO = text(
    "select current_user::text, coalesce(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub', '')"
)
NOBODY = ("anon", "")


@pytest.fixture(params=["psycopg2", "psycopg"])
def app(request, app_url):
    """An engine of the application's role."""
    made = engine(app_url.replace("postgresql://", f"postgresql+{request.param}://", 1))
    yield made
    made.dispose()


def sign_up(shared):
    return shared.sign_up(f"u{uuid.uuid4().hex[:12]}@example.org")


@pytest.fixture
def ada(shared):
    return sign_up(shared)


@pytest.fixture
def bob(shared):
    return sign_up(shared)


def who(session):
    return tuple(session.execute(WHO).one())


def user(user_id):
    return ("authenticated", str(user_id))


def own(session):
    return session.scalars(select(UserProfile)).one()


def in_a_child(work):
    """What work returns in a process that is forked here; None if it takes longer than 10 seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(10)
        try:
            os.write(writing, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    return None if status else said


# Sessions


@pytest.mark.parametrize("mode", ["conditional_savepoint", "create_savepoint", "control_fully"])
def test_a_session_on_a_connection_leaves_nobody_behind_in_its_transaction(app, ada, mode):
    with app.connect() as connection, connection.begin():
        with Session(connection, join_transaction_mode=mode) as session, acting_as(session, ada):
            assert who(session) == user(ada)
            session.commit()
        if mode != "control_fully":
            assert who(connection) == NOBODY


@pytest.mark.parametrize("inside", [True, False])
def test_a_refusal_of_autocommit_cannot_be_ignored(app, ada, inside):
    made = app if inside else app.execution_options(isolation_level="AUTOCOMMIT")
    with Session(made) as session, acting_as(session, ada):
        with pytest.raises(ActingRefused, match="AUTOCOMMIT"):
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"} if inside else None)
        with pytest.raises(PendingRollbackError):
            who(session)
        session.rollback()
        if inside:
            assert who(session) == user(ada)


@pytest.mark.parametrize("options", [{"stream_results": True}, {"yield_per": 1}, {"postgresql_readonly": True}])
def test_options_of_a_connection_change_nothing_about_the_user(app, ada, bob, options):
    with Session(app) as session, acting_as(session, ada):
        session.connection(execution_options=options)
        assert who(session) == user(ada)
        with acting_as(session, bob):
            assert who(session) == user(bob)
        assert who(session) == user(ada)
    with Session(app.execution_options(**options)) as session, acting_as(session, ada):
        assert own(session).user_id == ada


@pytest.mark.parametrize("autobegin", [True, False])
def test_a_block_leaves_no_transaction_begun(app, ada, bob, autobegin):
    with Session(app, autobegin=autobegin) as session, acting_as(session, ada):
        with session.begin():
            profile = own(session)
        with acting_as(session, bob), session.begin():
            assert own(session).user_id == bob
        with session.begin():
            assert who(session) == user(ada)
            assert profile in session


@pytest.mark.parametrize("expire", [True, False])
def test_what_a_rollback_in_an_inner_block_undid_is_not_shown(app, shared, ada, bob, expire):
    with Session(app, expire_on_commit=expire) as session, acting_as(session, ada):
        profile = own(session)
        profile.bio = "undone"
        with acting_as(session, bob):
            session.rollback()
        assert profile.bio is None
        savepoint = session.begin_nested()
        profile.bio = "undone"
        with acting_as(session, bob):
            savepoint.rollback()
        assert profile.bio is None
        profile.bio = "undone"
        session.commit()
    assert shared.profile(ada).bio == "undone"


def test_objects_stay_loaded_where_the_session_does_not_expire_them(app, ada, bob):
    with Session(app, expire_on_commit=False) as session, acting_as(session, ada):
        profile = own(session)
        with acting_as(session, bob):
            session.commit()
        session.commit()
        assert not session.in_transaction()
        assert profile.username
        assert not session.in_transaction()


def test_a_block_ends_well_in_a_transaction_that_has_failed(app, ada, bob):
    with Session(app) as session, acting_as(session, ada):
        with acting_as(session, bob), pytest.raises(DBAPIError):
            session.execute(text("select 1 / 0"))
        session.rollback()
        assert who(session) == user(ada)


def test_a_connection_that_is_cut_raises_its_own_error(app, shared, ada):
    def work(session):
        with acting_as(session, ada):
            process = session.scalar(text("select pg_backend_pid()"))
            shared.run("select pg_terminate_backend(:id, 5000)", id=process)
            who(session)

    with Session(app) as session:
        with pytest.raises(DBAPIError) as raised:
            work(session)
        assert raised.value.connection_invalidated
        session.rollback()
        assert who(session) == NOBODY


def test_a_role_that_may_not_be_left_does_not_hide_an_error(app, shared, app_url, ada):
    def work(session):
        with acting_as(session, ada):
            assert who(session) == user(ada)
            raise ZeroDivisionError

    role = app.url.username
    shared.script(f"revoke anon from {role}")
    try:
        with Session(app) as session:
            with pytest.raises(ZeroDivisionError):
                work(session)
            with pytest.raises(DBAPIError, match="aborted"):
                who(session)
    finally:
        shared.script(f"grant anon to {role}")


def test_rows_that_are_streamed_belong_to_the_block_that_asked_for_them(app, ada, bob):
    with Session(app) as session, acting_as(session, ada):
        with acting_as(session, None, role="service_role"):
            rows = session.execute(select(UserProfile.user_id), execution_options={"yield_per": 1})
            next(rows)
        assert who(session) == user(ada)
        rows.close()
        assert own(session).user_id == ada


def test_raw_transactions_of_the_engine_have_no_rights(app, ada):
    with Session(app) as session, acting_as(session, ada):
        assert own(session).user_id == ada
        with app.begin() as connection, pytest.raises(DBAPIError, match="permission denied"):
            connection.execute(text("select count(*) from public.user_profiles"))
        assert who(session) == user(ada)


def test_what_was_changed_before_a_block_is_committed_in_it(app, shared, ada, bob):
    with Session(app) as session, acting_as(session, ada):
        own(session).bio = "before"
        with acting_as(session, bob):
            session.commit()
        session.rollback()
    assert shared.profile(ada).bio == "before"


def test_objects_are_read_again_after_a_commit_in_an_inner_block(app, shared, ada, bob):
    with Session(app) as session, acting_as(session, ada):
        profile = own(session)
        with acting_as(session, bob):
            session.commit()
            shared.run("update public.user_profiles set bio = 'newer' where user_id = :id", id=ada)
        assert profile.bio == "newer"


def test_a_block_that_could_not_begin_leaves_the_user_around_it(app, ada):
    with Session(app) as session, acting_as(session, ada):
        with session.begin():
            for refused in (acting_as(session, ada, role="nosuch"), acting_as(session, ada, role="postgres")):
                with pytest.raises(ActingRefused), session.begin_nested(), refused:
                    pass
            assert who(session) == user(ada)
        assert who(session) == user(ada)


def test_only_the_arguments_say_who_the_user_is(app, ada, bob):
    with Session(app) as session:
        # The name that the setting had in older versions of PostgREST.
        session.execute(text("select set_config('request.jwt.claim.sub', :id, false)"), {"id": str(bob)})
        with acting_as(session, None, role="service_role", claims={"sub": str(bob)}):
            assert session.scalar(text("select auth.uid()")) is None
        with acting_as(session, ada):
            assert session.scalar(text("select auth.uid()")) == ada
        session.rollback()
        session.execute(text("reset all"))
    for role in ("default", "NONE"):
        with pytest.raises(ActingRefused, match="no role to act with"):
            on_behalf_of(ada, role=role).__enter__()


@pytest.mark.parametrize("what", ["claims", "context"])
def test_what_the_audit_log_could_not_keep_is_refused(app, ada, what):
    for value in (float("nan"), "\0", "\ud800", {(1, 2): 3}, 10**5000):
        with pytest.raises(ActingRefused, match="cannot store"):
            acting_as(Session(app), ada, **{what: {"x": value}})
    for value in ("\\u0000", "\\", "é", uuid.uuid4(), {1: None}):
        with Session(app) as session, acting_as(session, ada, **{what: {"x": value}}):
            assert session.scalar(text("select auth.uid()")) == ada


# Poolers


@pytest.fixture(scope="module")
def pooled(app_url):
    """The URL of a PgBouncer in transaction mode, by the number of its connections to the server."""
    with pooler(app_url) as start:
        yield {
            size: start("transaction", pool_size=size).replace("postgres://", "") + "?pgbouncer=true" for size in (1, 2)
        }


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_users_that_share_a_connection_share_no_rights(pooled, ada, bob, driver):
    one, two = engine(f"postgresql+{driver}://{pooled[1]}"), engine(f"postgresql+{driver}://{pooled[1]}")
    with one.connect() as connection:  # the pooler does share
        connection.execute(text("select set_config('pooler.shares', 'yes', false)"))
        connection.commit()
        with two.connect() as other:
            assert other.scalar(text("select current_setting('pooler.shares', true)")) == "yes"
    with Session(one) as first, Session(two) as second, acting_as(first, ada), acting_as(second, bob):
        for _ in range(8):  # psycopg prepares what it executes for the sixth time
            for session, mine in ((first, ada), (second, bob)):
                assert who(session) == user(mine)
                assert own(session).user_id == mine
                session.commit()
            with one.connect() as connection:
                assert tuple(connection.execute(WHO).one()) == (one.url.username, "")
                connection.commit()  # after a rollback, psycopg counts anew
    one.dispose()
    two.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_tasks_that_share_connections_share_no_rights(pooled, ada, bob, driver):
    async def request(factory, mine):
        with on_behalf_of(mine):
            async with factory() as session:
                for _ in range(8):
                    assert tuple((await session.execute(WHO)).one()) == user(mine)
                    assert (await session.scalars(select(UserProfile.user_id))).all() == [mine]
                    await session.commit()

    async def serve():
        made = async_engine(f"postgresql+{driver}://{pooled[2]}")
        factory = async_sessionmaker(made)
        follow_actor(factory)
        async with asyncio.TaskGroup() as tasks:
            for number in range(6):
                tasks.create_task(request(factory, (ada, bob)[number % 2]))
        for moment in range(40):
            cancelled = asyncio.create_task(request(factory, ada))
            for _ in range(moment):
                await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
        await request(factory, bob)
        assert made.pool.checkedout() == 0
        await made.dispose()

    asyncio.run(serve())


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_a_login_with_the_role_of_the_service_serves_through_a_pooler(shared, ada, driver):
    role = f"service_{uuid.uuid4().hex[:12]}"
    shared.script(
        f"create role {role} login noinherit; grant service_role to {role}; alter role {role} set role = service_role"
    )

    async def serve(url):
        made = async_engine(url)
        service = AsyncProfileService(async_sessionmaker(made))
        written = await service.update(ada, {"bio": "x"})
        await made.dispose()
        return written

    with pooler(shared.server.url(shared.name, role)) as start:
        url = start("transaction", pool_size=1).replace("postgres://", f"postgresql+{driver}://") + "?pgbouncer=true"
        if driver == "asyncpg":
            assert asyncio.run(serve(url)).bio == "x"
        else:
            made = engine(url)
            assert ProfileService(sessionmaker(made)).update(ada, {"bio": "x"}).bio == "x"
            made.dispose()
    shared.script(f"drop role {role}")


# Threads and requests


def test_scoped_sessions(app, ada):
    registry = scoped_session(sessionmaker(app))
    with acting_as(registry, ada):
        assert who(registry) == user(ada)
    assert who(registry) == NOBODY
    registry.remove()
    follow_actor(registry)
    assert who(registry) == NOBODY
    registry.remove()
    with on_behalf_of(ada):
        assert who(registry) == user(ada)
    registry.remove()


def test_a_factory_that_follows_already_is_left_as_it_is(app, ada):
    factory = sessionmaker(app)
    follow_actor(factory)
    follow_actor(factory)
    statements = []
    event.listen(app, "before_cursor_execute", lambda _c, _cursor, statement, *_: statements.append(statement))
    with on_behalf_of(ada), factory() as session:
        assert who(session) == user(ada)
    assert len(statements) == 2


def test_threads_that_share_a_block_leave_no_user_behind():
    block = on_behalf_of(None, role="service_role")
    both_inside, first_left = threading.Barrier(2), threading.Event()
    roles = []

    def serve(is_first):
        try:
            with block:
                both_inside.wait(10)
                if not is_first:
                    first_left.wait(10)
                roles.append(current_actor().role)
        finally:
            roles.append(current_actor().role)
            first_left.set()

    threads = [threading.Thread(target=serve, args=(is_first,)) for is_first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert roles == ["service_role", "anon"] * 2

    with block:
        with block:
            pass
        assert current_actor().role == "service_role"


def test_the_end_of_a_block_ends_a_generator_that_was_not_closed(ada, bob):
    def rows():
        with on_behalf_of(bob):
            yield current_actor().user_id

    with on_behalf_of(ada):
        generator = rows()
        assert next(generator) == bob
    assert current_actor().user_id is None
    with pytest.raises(ActingRefused, match="another thread or task"):
        generator.close()


def test_a_generator_is_refused_by_the_decorator(ada):
    def rows():
        yield current_actor()

    async def rows_async():
        yield current_actor()

    for function in (rows, rows_async):
        with pytest.raises(ActingRefused, match="generator"):
            on_behalf_of(ada)(function)


# Services


@pytest.fixture(params=DRIVERS)
def services(request, shared):
    """Makes profile services in the shared database, on each driver."""
    made = Services(shared, request.param)
    yield made
    made.close()


@pytest.fixture
def blocking(shared):
    """The same, synchronous."""
    made = Services(shared, "psycopg2")
    yield made
    made.close()


@pytest.fixture
def without_profile(shared):
    shared.run("alter table auth.users disable trigger profiles_on_auth_user_created")
    user_id = sign_up(shared)
    shared.run("alter table auth.users enable trigger profiles_on_auth_user_created")
    return user_id


def test_a_replica_whose_sessions_follow_the_user_shares_nothing(services, ada, bob):
    primary, replica = services.factory(), services.factory()
    follow_actor(replica.sessions)
    service = services.service(primary, read_from=replica)
    with on_behalf_of(ada):
        assert service.get(ada).user_id == ada
    with on_behalf_of(bob):
        assert service.get(ada) is None
        assert service.get_many([ada, bob]).keys() == {bob}


def test_a_profile_that_others_hold_joins_no_session(blocking, shared, ada):
    profile = blocking.service().get(ada)
    with Session(shared.engine) as session:
        for join in (session.add, session.delete):
            with pytest.raises(ReadOnlyProfile, match="read-only"):
                join(profile)
        assert session.merge(profile) is not profile
        session.commit()
    assert profile.username


@pytest.mark.parametrize("call", ["get", "get_or_create"])
def test_who_is_told_of_a_new_profile_can_read_it(services, without_profile, call):
    service = services.service()
    assert service.get(without_profile) is None
    seen = []
    if service.factory.is_async:

        async def welcome():
            async def read(event):
                seen.append(await getattr(service.service, call)(event.user_id))

            tasks = []
            service.subscribe(lambda event: tasks.append(asyncio.ensure_future(read(event))))
            await service.service.get_or_create(without_profile)
            await asyncio.wait_for(asyncio.gather(*tasks), 10)

        services.runner.run(welcome())
    else:
        service.subscribe(lambda event: seen.append(getattr(service, call)(event.user_id)))
        thread = threading.Thread(target=service.get_or_create, args=(without_profile,), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert [profile.user_id for profile in seen] == [without_profile]


def test_a_subscriber_to_a_failure_may_ask_for_the_profile_that_could_not_be_made(database):
    services = Services(database, "psycopg2")
    service = services.service()
    nobody = uuid.uuid4()
    asked = []

    def ask_once_more(event):
        if not asked:
            asked.append(event.kind)
            with pytest.raises(ProfileNotFound):
                service.get_or_create(nobody)

    service.subscribe(ask_once_more)
    with pytest.raises(ProfileNotFound):
        service.get_or_create(nobody)
    assert asked == ["refused"]
    services.close()


def test_who_is_told_of_a_new_profile_can_change_it(blocking, without_profile):
    service = blocking.service().service
    service.subscribe(lambda event: event.kind == "created" and service.update(event.user_id, {"bio": "Welcome"}))
    assert service.get_or_create(without_profile).bio is None
    assert service.get(without_profile).bio == "Welcome"


def test_profiles_that_are_made_together_are_not_missing_any_more(services, without_profile):
    service = services.service()
    assert service.get(without_profile) is None
    made = service.create_many([without_profile])
    assert service.get(without_profile).username == made[without_profile].profile.username


def test_a_failed_load_of_many_keeps_nobody_waiting(services, ada, monkeypatch):
    service = services.service()
    with monkeypatch.context() as failing:
        failing.setattr(queries, "read_many", lambda *_args, **_rest: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            service.get_many([ada])
    assert service.service._cache._flights == {}
    assert service.get(ada).user_id == ada


def test_only_who_makes_a_profile_says_that_it_is_new(services, shared, without_profile):
    service = services.service()
    seen = []
    service.subscribe(seen.append)
    assert service.get(without_profile) is None
    shared.run(
        "select profiles_internal.create_profiles(profiles_internal.living_users(array[:id]))", id=without_profile
    )
    assert service.get_or_create(without_profile).user_id == without_profile
    assert seen == []


def test_history_pages_through_changes_of_one_moment(services, shared, ada):
    shared.script("".join(f"update public.user_profiles set bio = '{n}' where user_id = '{ada}';" for n in range(5)))
    service = services.service()
    entries = service.history(ada)
    assert len({entry.at for entry in entries}) == 1
    seen = service.history(ada, limit=2)
    while page := service.history(ada, before=seen[-1], limit=2):
        seen += page
    assert seen == entries
    assert len(seen) == 5


def test_a_service_leaves_the_session_of_a_request_alone(blocking, ada):
    registry = scoped_session(blocking.factory().sessions)
    session = registry()
    session.execute(text("select 1"))
    service = ProfileService(registry, read_session_factory=registry)
    assert service.get(ada).bio is None
    assert service.update(ada, {"bio": "x"}).bio == "x"
    assert registry() is session
    assert session.in_transaction()
    registry.remove()


def test_a_read_from_before_a_profile_was_made_is_not_kept(blocking, without_profile, monkeypatch):
    service = blocking.service(negative_ttl_seconds=60).service
    read, ensure = queries.read, queries.ensure
    reading, may_return = threading.Event(), threading.Event()
    readers = []

    def read_slowly(session, user_id):
        found = read(session, user_id)
        reading.set()
        assert may_return.wait(10)
        return found

    def ensure_later(session, user_id):
        service._cache.store.clear()  # that there is none was remembered for moments only
        monkeypatch.setattr(queries, "read", read_slowly)
        readers.append(threading.Thread(target=service.get, args=(user_id,)))
        readers[0].start()
        assert reading.wait(10)
        return ensure(session, user_id)

    monkeypatch.setattr(queries, "ensure", ensure_later)
    assert service.get_or_create(without_profile).user_id == without_profile
    may_return.set()
    readers[0].join(10)
    assert service.get(without_profile).user_id == without_profile


class ServerGone(Exception):
    """What a driver raises whose server went away."""

    sqlstate = pgcode = "57P01"


@pytest.mark.parametrize("call", ["update", "patch"])
@pytest.mark.parametrize("how", ["cancelled", "cut off"])
def test_a_write_whose_answer_was_lost_after_its_commit_is_seen(services, ada, call, how):
    service = services.service()
    assert service.get(ada).bio is None

    def cancel(_session):
        if how == "cancelled":
            raise asyncio.CancelledError
        raise OperationalError("commit", {}, ServerGone())

    event.listen(Session, "after_commit", cancel)
    try:
        with pytest.raises((asyncio.CancelledError, ServiceFailed)):
            getattr(service, call)(ada, {"bio": "new"})
    finally:
        event.remove(Session, "after_commit", cancel)
    assert service.get(ada).bio == "new"


def test_no_free_connection_is_a_typed_error(services, ada):
    factory = services.factory(pool_size=1, max_overflow=0, pool_timeout=0.1)
    service = services.service(factory)

    def occupied():
        for call in (
            lambda: service.get(ada),
            lambda: service.update(ada, {"bio": "x"}),
            lambda: service.search("ada"),
        ):
            with pytest.raises(ServiceFailed):
                call()

    if not factory.is_async:
        with factory.engine.connect():
            occupied()
    else:
        connection = services.runner.run(factory.engine.connect().start())
        occupied()
        services.runner.run(connection.close())
    assert service.get(ada).bio is None


def test_many_are_read_before_others_are_written(services, shared, ada, bob, monkeypatch):
    service = services.service()
    monkeypatch.setattr(queries, "read_many", lambda *_args, **_rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        service.update_many({ada: {"bio": "x"}, bob: {}})
    assert shared.profile(ada).bio is None


def test_a_mistake_of_the_caller_is_a_value_error(services, ada):
    service = services.service()
    seen = service.get(ada).updated_at
    for call in ("update", "patch"):
        with pytest.raises(ValueError, match="time zone"):
            getattr(service, call)(ada, {"bio": "x"}, if_updated_at=seen.replace(tzinfo=None))
    assert service.update(ada, {"bio": "y"}, if_updated_at=seen.astimezone(timezone(timedelta(hours=-11)))).bio == "y"
    with pytest.raises(ValueError, match="twice"):
        service.update_many({ada: {"bio": "x"}, str(ada): {"phone": "1"}})
    for asked in (
        {"prefix": "a\0"},
        {"prefix": "\ud800"},
        {"after": "\0"},
        {"containing": {"preferences": {"a": "\0"}}},
        {"containing": {"preferences": {"a": float("nan")}}},
    ):
        with pytest.raises(ValueError, match="JSON"):
            service.search(**asked)
    assert service.search(containing={"preferences": {"a": (1,)}}).profiles == []


def test_rules_of_an_adopted_table_are_refusals(services, database):
    ada, bob = database.sign_up("ada@example.org"), database.sign_up("bob@example.org")
    database.script(
        "create table public.languages (code text primary key); insert into public.languages values ('en'), ('de');"
        "grant select on public.languages to service_role;"
        "alter table public.user_profiles add constraint knows_language foreign key (language) references public.languages,"
        " alter company_name type varchar(10), add constraint one_phone unique (phone)"
    )
    made = Services(database, services.driver)
    service = made.service()
    with pytest.raises(InvalidProfile) as raised:
        service.update(ada, {"language": "fr", "bio": "x"})
    assert raised.value.fields == {"language": ("breaks the rule knows_language",)}
    with pytest.raises(InvalidProfile, match="longer than its column"):
        service.patch(ada, {"company_name": "A very long name"})
    service.update(bob, {"phone": "1"})
    with pytest.raises(InvalidProfile) as raised:
        service.update(ada, {"phone": "1", "username": "ada_l"})
    assert raised.value.fields == {"phone": ("breaks the rule one_phone",)}
    outcomes = service.update_many({ada: {"company_name": "A very long name"}, bob: {"language": "de"}})
    assert isinstance(outcomes[ada].error, InvalidProfile)
    assert outcomes[bob].profile.language == "de"
    made.close()


def test_pointers_to_fields_are_uri_fragments():
    problem = InvalidProfile(fields={"a b%/~é": ["x"]}).problem()
    assert problem["errors"][0]["pointer"] == "#/a%20b%25~1~0%C3%A9"


# Processes


def test_a_process_that_is_forked_has_connections_of_its_own(app):
    def process():
        with app.connect() as connection:
            return connection.scalar(text("select pg_backend_pid()"))

    require_rls(app)
    before = process()
    assert in_a_child(process) not in {str(before), None, ""}
    assert process() == before


# Python 3.12 warns of every fork beside threads, which is what is tried here.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_that_is_forked_waits_for_no_thread_of_its_parent(shared, ada, monkeypatch):
    made = engine(shared.url)
    service = ProfileService(sessionmaker(made))
    read = queries.read
    reading, may_return = threading.Event(), threading.Event()

    def read_slowly(session, user_id):
        reading.set()
        assert may_return.wait(30)
        return read(session, user_id)

    monkeypatch.setattr(queries, "read", read_slowly)
    thread = threading.Thread(target=service.get, args=(ada,))
    thread.start()
    assert reading.wait(10)
    monkeypatch.setattr(queries, "read", read)

    def work():
        return service.get(ada).user_id, service.update(ada, {"bio": "x"}).bio

    with service._cache._lock, service._events._lock:
        said = in_a_child(work)
    may_return.set()
    thread.join(10)
    made.dispose()
    assert said == str((ada, "x"))


def test_what_an_engine_says_of_its_values_and_its_pooler(shared, app_url):
    made = engine(app_url)
    with made.connect() as connection, pytest.raises(DBAPIError) as raised:
        connection.execute(text("select cast(:secret as integer)"), {"secret": "hunter2"})
    assert "hunter2" not in str(raised.value).partition("[SQL")[2]
    with made.connect() as connection:
        process = connection.scalar(text("select pg_backend_pid()"))
    shared.run("select pg_terminate_backend(:id, 5000)", id=process)
    with made.connect() as connection:  # replaced before it is used
        assert connection.scalar(text("select pg_backend_pid()")) != process
    made.dispose()
    for url, expected in (
        ("h:6543/d", True),
        ("h:5432/d", False),
        ("h:5432/d?pgbouncer=true", True),
        ("h/d?pgbouncer=false", False),
    ):
        seen = connecting(engine(f"postgresql+psycopg://u:p@{url}"))
        assert ("prepare_threshold" in seen) == expected


def connecting(made):
    """The arguments that an engine gives its driver."""
    seen = {}

    def note(_dialect, _record, _arguments, options):
        seen.update(options)
        raise ConnectionRefusedError

    event.listen(made, "do_connect", note)
    with pytest.raises(ConnectionRefusedError):
        made.connect()
    return seen


def test_the_url_has_the_last_word_about_the_connection():
    for driver in ("psycopg2", "psycopg"):
        for said, expected in (("", 10), ("?connect_timeout=77", "77")):
            assert connecting(engine(f"postgresql+{driver}://u:p@h/d{said}"))["connect_timeout"] == expected
    asynchronous = async_engine("postgresql://u:p@h/d?sslmode=require&connect_timeout=77&application_name=web")
    seen = connecting(asynchronous.sync_engine)
    assert (seen["ssl"], seen["timeout"], seen["server_settings"]) == ("require", 77, {"application_name": "web"})
