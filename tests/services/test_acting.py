"""acting_as, on_behalf_of, require_rls and the engines: whose rights a session has, at every moment."""

import asyncio
import re
import subprocess
import uuid

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, ResourceClosedError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from profiles_schema import UserProfile
from profiles_schema.errors import ActingRefused, InvalidDatabaseUrl, RowSecurityBypassed
from profiles_schema.services.acting import acting_as, current_actor, follow_actor, on_behalf_of
from profiles_schema.services.engines import async_engine, engine, require_rls
from support.pooler import ROADS, by_road, pooled, program

WHO = text(
    "select current_user::text, coalesce(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub', '')"
)
DRIVERS = ["psycopg2", "psycopg"]
ASYNC_DRIVERS = ["asyncpg", "psycopg"]


@pytest.fixture
def app(database):
    """The role that the application connects as, made as require_rls says."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    database.script(f"create role {role} login noinherit; grant anon, authenticated, service_role to {role}")
    yield role
    database.script(f"drop role {role}")


@pytest.fixture(params=ROADS)
def connect(request, database, app):
    """Makes an engine of the application on a driver, direct and through the poolers."""
    with by_road(database.server.url(database.name, app), request.param) as (url, options):
        yield lambda make, driver, **more: make(url.replace("://", f"+{driver}://", 1), **options | more)


@pytest.fixture(params=DRIVERS)
def sync_engine(request, connect):
    made = connect(engine, request.param)
    yield made
    made.dispose()


def who(session):
    return tuple(session.execute(WHO).one())


def mine(session):
    return set(session.scalars(select(UserProfile.user_id)))


def user(user_id):
    return ("authenticated", str(user_id))


NOBODY = ("anon", "")


def test_a_session_sees_the_own_row_through_commits_and_nothing_afterwards(sync_engine, ada, bob):
    with Session(sync_engine) as session:
        with acting_as(session, ada):
            assert (who(session), mine(session)) == (user(ada), {ada})
            session.commit()
            assert (who(session), mine(session)) == (user(ada), {ada})
            session.rollback()
            assert (who(session), mine(session)) == (user(ada), {ada})
        assert who(session) == NOBODY
        session.commit()
        assert who(session) == NOBODY
    assert bob is not ada


def test_it_holds_at_once_in_a_transaction_that_has_begun(sync_engine, ada):
    with Session(sync_engine) as session:
        assert who(session)[0] not in {"anon", "authenticated"}
        with acting_as(session, str(ada)):
            assert who(session) == user(ada)
        assert who(session) == NOBODY


def test_blocks_nest(sync_engine, ada, bob):
    with Session(sync_engine) as session, acting_as(session, ada):
        with acting_as(session, bob):
            assert mine(session) == {bob}
        assert mine(session) == {ada}
        with acting_as(session, None, role="service_role"):
            assert mine(session) == {ada, bob}
            session.commit()
        assert mine(session) == {ada}


def test_an_exception_ends_it(sync_engine, ada, bob):
    with Session(sync_engine) as session, acting_as(session, ada):
        with pytest.raises(ZeroDivisionError), acting_as(session, bob):
            raise ZeroDivisionError
        assert who(session) == user(ada)
        with pytest.raises(DBAPIError), acting_as(session, bob):
            session.execute(text("select 1 / 0"))
        session.rollback()
        assert who(session) == user(ada)


def terminate(database, session):
    """Break the session's connection, and use it."""
    database.run(f"select pg_terminate_backend({session.scalar(text('select pg_backend_pid()'))}, 5000)")
    session.execute(text("select 1"))


def test_a_connection_that_breaks_is_said_as_it_is_and_the_session_goes_on_for_the_same_user(
    sync_engine, database, ada, bob
):
    with Session(sync_engine) as session, acting_as(session, ada):
        with pytest.raises(DBAPIError), acting_as(session, bob):
            terminate(database, session)
        session.rollback()
        assert (who(session), mine(session)) == (user(ada), {ada})


@pytest.mark.parametrize("inside", [True, False])
def test_a_rollback_to_a_savepoint_does_not_bring_earlier_rights_back(sync_engine, ada, bob, inside):
    with Session(sync_engine) as session, acting_as(session, ada):
        session.execute(text("select 1"))
        savepoint = session.begin_nested()
        block = acting_as(session, bob)
        block.__enter__()
        if inside:
            savepoint.rollback()
            assert who(session) == user(bob)
            block.__exit__(None, None, None)
        else:
            block.__exit__(None, None, None)
            savepoint.rollback()
        assert who(session) == user(ada)


def test_a_savepoint_that_began_as_the_login_does_not_bring_its_rights_back(sync_engine, ada):
    with Session(sync_engine) as session:
        session.execute(text("select 1"))
        savepoint = session.begin_nested()
        with acting_as(session, ada):
            savepoint.rollback()
            assert who(session) == user(ada)
        assert who(session) == NOBODY


def test_objects_do_not_pass_from_one_user_to_the_next(sync_engine, ada, bob):
    with Session(sync_engine) as session:
        with acting_as(session, None, role="service_role"):
            theirs = {each.user_id: each for each in session.scalars(select(UserProfile))}
        assert theirs[bob].username == "bob"  # readable still
        with acting_as(session, ada):
            assert session.get(UserProfile, str(bob)) is None
            assert session.get(UserProfile, str(ada)).username == "ada"
        with pytest.raises(DBAPIError, match="permission denied"):
            session.get(UserProfile, str(ada))


def test_objects_of_the_block_around_come_back_and_are_written_by_whom_they_belong_to(sync_engine, database, ada, bob):
    with Session(sync_engine) as session, acting_as(session, ada):
        profile = session.scalars(select(UserProfile)).one()
        profile.bio = "before"
        with acting_as(session, bob):
            other = session.scalars(select(UserProfile)).one()
            other.bio = "bob's"
            profile.display_name = "Ada"
        session.commit()
    assert (database.profile(ada).bio, database.profile(ada).display_name) == ("before", "Ada")
    assert database.profile(bob).bio == "bob's"
    actors = database.run("select distinct user_id, actor from public.user_profile_audit_logs where action = 'updated'")
    assert {(row.user_id, row.actor) for row in actors} == {(ada, ada), (bob, bob)}


def test_another_users_row_cannot_be_written(sync_engine, database, ada, bob):
    with Session(sync_engine) as session, acting_as(session, ada):
        done = session.execute(text("update public.user_profiles set bio = 'x' where user_id = :id"), {"id": bob})
        assert done.rowcount == 0
        session.commit()
    assert database.profile(bob).bio is None


def test_claims_and_context(sync_engine, database, ada):
    with Session(sync_engine) as session:
        context = {"request": "r-17", "staff": "eve"}
        with acting_as(session, ada, claims={"aal": "aal2", "sub": "forged", "role": "service_role"}, context=context):
            claims = session.scalar(text("select current_setting('request.jwt.claims')::json"))
            assert (claims["aal"], claims["sub"], claims["role"]) == ("aal2", str(ada), "authenticated")
            session.execute(text("update public.user_profiles set bio = 'new' where user_id = auth.uid()"))
            session.commit()
    row = database.run("select actor, metadata from public.user_profile_audit_logs where action = 'updated'")
    assert [tuple(each) for each in row] == [(ada, {"context": context})]


@pytest.mark.parametrize("value", ["not json", "[1", "x" * 3000, '"' + "y" * 2100 + '"'])
def test_a_context_that_cannot_be_kept_costs_no_change(database, ada, value):
    with database.engine.begin() as connection:
        connection.execute(text("select set_config('profiles_schema.context', :value, true)"), {"value": value})
        connection.execute(text("update public.user_profiles set bio = 'new'"))
    assert database.value("select metadata from public.user_profile_audit_logs where action = 'updated'") == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"user_id": "ada"}, "not given as a uuid"),
        ({"user_id": None}, "needs a user"),
        ({"user_id": None, "role": "none"}, "no role to act with"),
        ({"user_id": None, "role": ""}, "no role to act with"),
        ({"user_id": str(uuid.uuid4()), "context": {"text": "x" * 2001}}, "2,000 bytes"),
    ],
)
def test_what_makes_no_actor_is_refused(sync_engine, arguments, words):
    with Session(sync_engine) as session, pytest.raises(ActingRefused, match=words):
        acting_as(session, **arguments)


def test_a_role_that_may_not_be_set_is_named_with_the_remedy(sync_engine, database, app, ada):
    database.script(f"revoke authenticated from {app}")
    with Session(sync_engine) as session:
        session.execute(text("select 1"))
        with pytest.raises(ActingRefused) as refused, acting_as(session, ada):
            pass
        session.rollback()
        remedy = str(refused.value).partition("runs: ")[2]
        database.script(remedy)
        with acting_as(session, ada):
            assert who(session) == user(ada)
        with pytest.raises(ActingRefused, match="There is no role nosuch"), acting_as(session, ada, role="nosuch"):
            who(session)


def test_autocommit_is_refused(sync_engine, ada):
    with (
        pytest.raises(ActingRefused, match="AUTOCOMMIT"),
        Session(sync_engine.execution_options(isolation_level="AUTOCOMMIT")) as session,
        acting_as(session, ada),
    ):
        who(session)


def test_a_block_of_the_wrong_kind_is_refused(sync_engine, ada):
    async def use_with():
        async with acting_as(Session(sync_engine), ada):
            pass

    with pytest.raises(ActingRefused, match="without async"):
        asyncio.run(use_with())
    with pytest.raises(ActingRefused, match="async with"), acting_as(AsyncSession(), ada):
        pass


def test_a_session_of_a_following_factory_is_nobody_until_told(sync_engine, ada, bob):
    factory = sessionmaker(sync_engine)
    follow_actor(factory)
    with factory() as session:
        assert who(session) == NOBODY
    with on_behalf_of(ada) as actor:
        assert current_actor() is actor
        with factory() as session:
            assert who(session) == user(ada)
            session.commit()
            assert mine(session) == {ada}
            with acting_as(session, bob):
                assert mine(session) == {bob}
            assert who(session) == user(ada)
    with factory() as session:
        assert who(session) == NOBODY
    with Session(sync_engine) as session:
        assert who(session)[0].startswith("app_")  # other sessions are left alone


def test_a_job_runs_for_the_user_that_its_arguments_name(sync_engine, ada):
    factory = sessionmaker(sync_engine)
    follow_actor(factory)

    @on_behalf_of(lambda job: job["user"])
    def run(job):
        with factory() as session:
            return who(session)

    @on_behalf_of(lambda job: job["user"])
    async def run_async(job):
        await asyncio.sleep(0)
        return run(job), current_actor().user_id

    assert run({"user": ada}) == user(ada)
    assert asyncio.run(run_async({"user": ada})) == (user(ada), ada)
    assert current_actor().user_id is None


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
def test_asynchronous_sessions(connect, ada, bob, driver):
    async def work():
        made = connect(async_engine, driver)
        factory = async_sessionmaker(made)
        following = async_sessionmaker(made)
        follow_actor(following)
        try:
            async with factory() as session:
                async with acting_as(session, ada):
                    assert set(await session.scalars(select(UserProfile.user_id))) == {ada}
                    await session.commit()
                    assert tuple((await session.execute(WHO)).one()) == user(ada)
                    async with acting_as(session, bob):
                        profile = (await session.scalars(select(UserProfile))).one()
                        profile.bio = "mine"
                        async with session.begin_nested() as savepoint:
                            await savepoint.rollback()
                        assert tuple((await session.execute(WHO)).one()) == user(bob)
                    assert profile.username == "bob"
                assert tuple((await session.execute(WHO)).one()) == NOBODY
                await session.commit()

            async def one(each):
                with on_behalf_of(each):
                    async with following() as session:
                        await asyncio.sleep(0.01)
                        return set(await session.scalars(select(UserProfile.user_id)))

            assert await asyncio.gather(*(one(each) for each in (ada, bob) * 5)) == [{ada}, {bob}] * 5
        finally:
            await made.dispose()

    asyncio.run(work())


# Engines


def test_a_role_that_row_level_security_binds_is_accepted(sync_engine):
    require_rls(sync_engine)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("alter role {app} superuser", "is a superuser"),
        ("alter role {app} bypassrls", "has BYPASSRLS"),
        ("alter role {app} inherit; revoke service_role from {app}; grant service_role to {app}", "service_role"),
        ("alter table public.user_progress owner to {app}", "the owner of user_progress"),
    ],
)
def test_a_role_with_rights_of_its_own_is_refused(sync_engine, database, app, change, words):
    database.script(change.format(app=app))
    try:
        with pytest.raises(RowSecurityBypassed, match=words) as refused:
            require_rls(sync_engine)
    finally:
        database.script("alter table public.user_progress owner to current_user")
    assert "create role app login noinherit" in str(refused.value)


@pytest.mark.slow
def test_behind_a_pooler_in_transaction_mode_nobody_gets_the_claims_of_another_client(database, app, ada):
    with pooled(database.server.url(database.name, app), "transaction", pool_size=1) as url:
        one, other = (engine(url, pooler="transaction") for _ in range(2))
        with Session(one) as session, acting_as(session, ada):
            assert who(session) == user(ada)
            session.commit()
            with Session(other) as theirs:
                assert who(theirs) == (app, "")
        # What would happen without: settings of the session stay with the server's connection.
        with Session(one) as session:
            session.execute(
                text("select set_config('request.jwt.claims', :claims, false)"), {"claims": f'{{"sub": "{ada}"}}'}
            )
            session.execute(text("set role authenticated"))
            session.commit()
        with Session(other) as theirs:
            assert who(theirs) == user(ada)
        one.dispose(), other.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("pooler", ["transaction", "none"])
def test_an_engine_prepares_nothing_that_a_pooler_in_transaction_mode_would_lose(database, app, driver, pooler):
    async def use(url):
        made = async_engine(url, pooler=pooler)
        others = async_engine(url, pooler="transaction")
        pid = text("select pg_backend_pid()")
        statement = text("select cast(:n as int)")
        try:
            async with made.connect() as connection:
                for number in range(10):  # psycopg prepares what it has seen five times
                    await connection.execute(statement, {"n": number})
                    home = await connection.scalar(pid)
                    await connection.commit()
                # Two clients take both connections to the server; the other one than before is given back.
                async with others.connect() as one, others.connect() as other:
                    taken = {await each.scalar(pid): each for each in (one, other)}
                    assert len(taken) == 2
                    await next(each for backend, each in taken.items() if backend != home).rollback()
                    assert await connection.scalar(statement, {"n": 17}) == 17
                    assert await connection.scalar(pid) != home
        finally:
            await made.dispose()
            await others.dispose()

    with pooled(database.server.url(database.name, app), "transaction", pool_size=2) as pooler_url:
        url = pooler_url.replace("://", f"+{driver}://")
        if pooler == "transaction":
            asyncio.run(use(url))
        elif not follows_prepared_statements():
            with pytest.raises(DBAPIError, match=r"prepared statement .* does not exist"):
                asyncio.run(use(url))


@pytest.mark.parametrize("driver", [*DRIVERS, "asyncpg"])
def test_an_engine_gives_every_transaction_a_role(database, app, driver):
    url = database.server.url(database.name, app).replace("://", f"+{driver}://", 1)

    async def roles():
        made = async_engine(url, role="service_role")
        try:
            async with made.connect() as connection:
                seen = [(await connection.execute(text("select current_user::text"))).scalar()]
                await connection.commit()
                streamed = await connection.stream_scalars(text("select current_user::text"))
                seen.append(await streamed.one())
                await connection.commit()
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                with pytest.raises(ActingRefused, match="AUTOCOMMIT"):
                    await connection.scalar(text("select current_user::text"))
                return seen
        finally:
            await made.dispose()

    if driver == "asyncpg":
        assert asyncio.run(roles()) == ["service_role"] * 2
        return
    made = engine(url, role="service_role")
    with made.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        seen = [connection.scalar(text("select current_user::text"))]
        connection.commit()
        assert [*seen, connection.scalar(text("select current_user::text"))] == ["service_role"] * 2
        assert connection.scalar(text("show transaction_isolation")) == "serializable"
    with (
        made.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(ActingRefused, match="AUTOCOMMIT"),  # the login may have more rights than the role
    ):
        connection.scalar(text("select current_user::text"))
    for options in ({"stream_results": True}, {"yield_per": 10}):
        with made.connect().execution_options(**options) as connection:
            assert connection.scalar(text("select current_user::text")) == "service_role"
    with made.connect() as connection, pytest.raises(ActingRefused, match="two-phase"):
        connection.begin_twophase()
    with Session(made, twophase=True) as session, pytest.raises(ActingRefused, match="two-phase"):
        session.scalar(text("select current_user::text"))
    made.dispose()
    for role in ("none", "DEFAULT", ""):
        with pytest.raises(ValueError, match="service_role"):
            engine(url, role=role)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_connection_that_could_not_take_its_role_takes_no_statement(database, driver):
    url = database.url.replace("://", f"+{driver}://", 1)
    statement = text("select 1")
    for role, options in (("nosuch", {}), ("service_role", {"isolation_level": "AUTOCOMMIT"})):
        made = engine(url, role=role)
        with made.connect().execution_options(**options) as connection:
            with pytest.raises((DBAPIError, ActingRefused)):
                connection.scalar(statement)
            with pytest.raises(ResourceClosedError):
                connection.scalar(statement)
        made.dispose()


def follows_prepared_statements():
    """Whether this PgBouncer finds a client's prepared statement again on another connection (since 1.21)."""
    version = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.search(r"(\d+)\.(\d+)", version).groups())) >= (1, 21)


def test_the_pooler_is_recognised_and_the_driver_kept():
    assert engine("postgres://u:p@h/d").url.drivername == "postgresql+psycopg2"
    through = engine("postgresql+psycopg://u:p@h/d?pgbouncer=true")
    assert through.dialect.create_connect_args(through.url)[1].get("prepare_threshold", 5) == 5
    with pytest.raises(InvalidDatabaseUrl, match="asyncpg"):
        engine("postgresql+asyncpg://u:p@h/d")
    with pytest.raises(InvalidDatabaseUrl, match="psycopg2"):
        async_engine("postgresql+psycopg2://u:p@h/d")
