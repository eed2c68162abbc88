"""The ways in which applications hold sessions, threads, tasks and processes: whose rights there are, and what is shared."""

import threading
import uuid

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from profiles_schema import UserProfile
from profiles_schema.errors import ActingRefused
from profiles_schema.services.acting import acting_as, current_actor, follow_actor, on_behalf_of
from profiles_schema.services.engines import engine

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


def test_a_thread_that_shares_a_block_leaves_no_user_behind(ada):
    block = on_behalf_of(None, role="service_role")
    entered, left = threading.Barrier(2), threading.Barrier(2)
    seen = []

    def serve(is_first):
        entered.wait(10)
        with on_behalf_of(ada):
            if not is_first:
                left.wait(10)
            with block:
                seen.append(current_actor().role)
                if is_first:
                    left.wait(10)
                    left.wait(10)
            if not is_first:
                left.wait(10)
            seen.append(current_actor().user_id)
        seen.append(current_actor().role)

    threads = [threading.Thread(target=serve, args=(is_first,)) for is_first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(map(str, seen)) == sorted(map(str, ["service_role", ada, "anon"] * 2))


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
