"""profiles_schema.fastapi on a real server and database: whose rights a request has, from its first byte to after its last."""

import asyncio
import json
import logging
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Body, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import sessionmaker

from profiles_schema import (
    AsyncProfileService,
    ProfileService,
    acting_as,
    async_engine,
    engine,
    follow_actor,
    on_behalf_of,
    require_rls,
)
from profiles_schema.errors import ProfileNotFound, StaleProfile
from profiles_schema.fastapi import (
    CurrentUser,
    TokenVerifier,
    allow_anon,
    async_session_for,
    install,
    require_user,
    session_for,
)
from support import REPOSITORY, wait_until
from support.auth_server import AuthServer
from support.http import serve

WHO = text(
    "select current_user::text as role, coalesce(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub', '') as sub,"
    " (select coalesce(json_agg(user_id), '[]') from public.user_profiles) as visible"
)
ANON = text(
    "select current_user::text as role, coalesce(nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub', '') as sub"
)
BIO = text("update public.user_profiles set bio = :bio")


def who(session):
    return dict(session.execute(WHO).one()._mapping)


def write_and_commit(session):
    session.execute(BIO, {"bio": "first"})
    session.commit()
    session.execute(text("update public.user_profiles set display_name = 'second'"))
    return who(session)


def write_and_roll_back(session):
    session.execute(BIO, {"bio": "first"})
    session.rollback()
    return who(session)


def write_and_fail(session):
    session.execute(BIO, {"bio": "lost"})
    raise RuntimeError("the value hunter2")


def write_and_refuse(session):
    session.execute(BIO, {"bio": "lost"})
    raise HTTPException(409, "no")


def fail_at_commit(session):
    session.execute(text("insert into public.notes (refers) values (17)"))
    return "written"


def execute(statement):
    return lambda session: session.execute(text(statement)).scalar()


WORK = {
    "who": who,
    "commit": write_and_commit,
    "roll-back": write_and_roll_back,
    "fail": write_and_fail,
    "refuse": write_and_refuse,
    "late": fail_at_commit,
    "42501": execute("select count(*) from profiles_internal.settings"),
    "23514": execute("update public.user_profiles set profile_visibility = 'hunter2' returning 1"),
    "23505": execute("update public.user_profiles set username = 'taken_name' returning 1"),
    "22P02": execute("select 'hunter2'::int"),
    "22012": execute("select 1 / 0"),
    "42P01": execute("select * from hunter2"),
    "22003": lambda session: session.scalar(text("select cast(:hunter2 as int)"), {"hunter2": 2**40}),
}


class Application:
    """An application with synchronous or asynchronous sessions, on a pool of one connection."""

    def __init__(self, url, auth, driver, **pool):
        self.is_async = driver == "asyncpg"
        url = url.replace("postgresql://", f"postgresql+{driver}://", 1)
        options = {"pool_size": 1, "max_overflow": 0, **pool}
        verifier = TokenVerifier.of_supabase(auth.url)
        self.app = FastAPI(lifespan=self.dispose)
        install(self.app)
        self.signed_in, self.anyone = require_user(verifier), allow_anon(verifier)
        if self.is_async:
            self.engine = async_engine(url, **options)
            self.sessions: Any = async_sessionmaker(self.engine)
            self.session_for: Any = async_session_for
        else:
            self.engine = engine(url, **options)
            require_rls(self.engine)
            self.sessions = sessionmaker(self.engine)
            self.session_for = session_for
        for name, work in WORK.items():
            self.add(f"/{name}", work, self.session_for(self.sessions, self.signed_in))
        self.add("/anyone", lambda session: dict(session.execute(ANON).one()._mapping),
                 self.session_for(self.sessions, self.anyone))  # fmt: skip

    @asynccontextmanager
    async def dispose(self, _app):
        """Close the connections in the loop that they belong to."""
        yield
        if self.is_async:
            await self.engine.dispose()
        else:
            self.engine.dispose()

    def add(self, path, work, dependency, **options):
        if self.is_async:

            async def route(session: Any = dependency) -> Any:
                return await session.run_sync(work)
        else:

            def route(session: Any = dependency) -> Any:
                return work(session)

        self.app.add_api_route(path, route, methods=["POST"], **options)


@pytest.fixture(scope="module")
def auth():
    with AuthServer() as running:
        yield running


@pytest.fixture(scope="module")
def tables(shared):
    shared.script(
        "create table public.notes (id int generated always as identity primary key,"
        " refers int references public.notes deferrable initially deferred);"
        "grant insert on public.notes to authenticated"
    )
    shared.sign_up("taken_name@example.org")


@pytest.fixture(scope="module", params=["psycopg2", "asyncpg"])
def application(request, shared, tables, app_url, auth):
    return Application(app_url, auth, request.param)


@pytest.fixture(scope="module")
def client(application):
    with serve(application.app) as made:
        yield made


@pytest.fixture
def ada(shared):
    return shared.sign_up(f"ada_{uuid.uuid4().hex[:8]}@example.org")


@pytest.fixture
def bob(shared):
    return shared.sign_up(f"bob_{uuid.uuid4().hex[:8]}@example.org")


@pytest.fixture
def as_user(auth):
    return lambda user_id, **claims: {"Authorization": f"Bearer {auth.token(user_id, **claims)}"}


def user(user_id):
    return {"role": "authenticated", "sub": str(user_id), "visible": [str(user_id)]}


NOBODY = {"role": "anon", "sub": ""}


def test_a_request_acts_for_its_user_and_the_next_one_on_the_connection_for_its_own(client, as_user, ada, bob):
    assert client.post("/who", headers=as_user(ada)).json() == user(ada)
    assert client.post("/anyone").json() == NOBODY
    assert client.post("/who", headers=as_user(bob)).json() == user(bob)
    assert client.post("/anyone", headers=as_user(ada)).json() == {"role": "authenticated", "sub": str(ada)}
    assert client.post("/anyone").json() == NOBODY


def test_the_user_stays_through_a_commit_and_a_rollback(client, as_user, shared, ada, bob):
    assert client.post("/commit", headers=as_user(ada)).json() == user(ada)
    assert (shared.profile(ada).bio, shared.profile(ada).display_name) == ("first", "second")
    assert client.post("/roll-back", headers=as_user(bob)).json() == user(bob)
    assert shared.profile(bob).bio is None


@pytest.mark.parametrize(("path", "status"), [("/fail", 500), ("/refuse", 409), ("/late", 422)])
def test_what_fails_is_rolled_back_and_leaves_the_connection_to_nobody(client, as_user, shared, ada, path, status):
    answer = client.post(path, headers=as_user(ada))
    assert answer.status_code == status
    assert "hunter2" not in answer.text
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert shared.profile(ada).bio is None
    assert client.post("/anyone").json() == NOBODY


def test_nothing_of_a_user_stays_on_a_pooled_connection(application, client, as_user, ada):
    seen = text("select current_user::text, current_setting('request.jwt.claims', true), current_setting('role')")
    for path in ("/who", "/commit", "/roll-back", "/fail", "/late", "/42501"):
        client.post(path, headers=as_user(ada))

    async def look():
        async with application.engine.connect() as connection:
            return tuple((await connection.execute(seen)).one())

    if application.is_async:
        asyncio.run(application.engine.dispose())  # its connection belongs to the loop of the server
        return
    with application.engine.connect() as connection:
        login, claims, role = connection.execute(seen).one()
    assert (login[:4], claims, role) == ("app_", "", "none")


@pytest.mark.slow
def test_users_at_the_same_time_see_their_own_rows_only(shared, tables, app_url, auth, as_user):
    users = [shared.sign_up(f"at_once_{number}@example.org") for number in range(4)]
    for driver in ("psycopg2", "asyncpg"):
        with serve(Application(app_url, auth, driver, pool_size=3).app) as client, ThreadPoolExecutor(8) as pool:

            def call(number, client=client):
                who = users[number % 4]
                path = ("/who", "/commit", "/fail", "/who", "/roll-back")[number % 5]
                answer = client.post(path, headers=as_user(who))
                return answer.status_code == 500 if path == "/fail" else answer.json() == user(who)

            assert all(pool.map(call, range(120)))


@pytest.mark.parametrize(
    ("path", "status", "title"),
    [
        ("/42501", 403, "Not allowed"),
        ("/23514", 422, "Value refused"),
        ("/23505", 409, "Value refused"),
        ("/22P02", 422, "Value refused"),
        ("/22012", 422, "Value refused"),
        ("/22003", 422, "Value refused"),
        ("/42P01", 503, "Service failed"),
    ],
)
def test_a_database_error_is_a_problem_without_values(client, as_user, ada, path, status, title, caplog):
    answer = client.post(path, headers=as_user(ada))
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["title"]) == (status, status, title)
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.text + "".join(str(vars(record)) for record in caplog.records if record.name.startswith("profiles"))
    assert "hunter2" not in said
    assert "taken_name" not in said


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ([], "Bearer"),
        ([("Authorization", "Basic YWRhOmh1bnRlcjI=")], 'Bearer error="invalid_token"'),
        ([("Authorization", "Bearer")], 'Bearer error="invalid_token"'),
        ([("Authorization", "Bearer hunter2")], 'Bearer error="invalid_token"'),
    ],
)
def test_without_a_valid_token_there_is_no_answer(client, headers, challenge):
    answer = client.post("/who", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, challenge)
    assert answer.json()["type"] == "urn:profiles-schema:token-refused"
    assert "hunter2" not in answer.text
    if headers:  # a token that is no good does not make its bearer nobody
        assert client.post("/anyone", headers=headers).status_code == 401


def test_a_token_of_the_role_anon_signs_nobody_in(client, as_user, ada):
    anon = as_user(ada, role="anon")
    assert client.post("/who", headers=anon).status_code == 401
    assert client.post("/anyone", headers=anon).json() == {"role": "anon", "sub": str(ada)}


def test_of_two_tokens_none_counts(client, auth, ada, bob):
    both = [("Authorization", f"Bearer {auth.token(each)}") for each in (ada, bob)]
    assert client.post("/who", headers=both).status_code == 401


def test_a_request_leaves_one_record_and_its_id_in_the_audit_log(client, as_user, shared, ada, caplog):
    caplog.set_level(logging.INFO, "profiles_schema.fastapi")
    answer = client.post("/commit?secret=hunter2", headers=as_user(ada))
    request_id = answer.headers["x-request-id"]
    wait_until(lambda: [each for each in caplog.records if getattr(each, "request_id", None) == request_id])
    (record,) = [each for each in caplog.records if getattr(each, "request_id", None) == request_id]
    seen = {name: getattr(record, name) for name in ("event", "method", "route", "status", "user_id")}
    assert seen == {"event": "request", "method": "POST", "route": "/commit", "status": 200, "user_id": str(ada)}
    assert 0 < record.seconds < 30
    kept = "select distinct metadata -> 'context' ->> 'request' from public.user_profile_audit_logs where user_id = :id"
    assert shared.run(f"{kept} and action = 'updated'", id=ada) == [(request_id,)]
    client.post("/fail", headers=as_user(ada))
    client.post("/who", headers={"Authorization": "Bearer hunter2"})
    client.get("/nowhere/hunter2")
    records = [each for each in caplog.records if each.name == "profiles_schema.fastapi"]
    wait_until(lambda: len([each for each in caplog.records if each.name == "profiles_schema.fastapi"]) >= 4)
    records = [each for each in caplog.records if each.name == "profiles_schema.fastapi"]
    assert [(each.status, each.route, getattr(each, "error", None), each.levelname) for each in records[-3:]] == [
        (500, "/fail", "RuntimeError", "ERROR"),
        (401, "/who", "TokenRefused", "INFO"),
        (404, None, None, "INFO"),
    ]
    assert records[-2].reason == "malformed"
    assert "hunter2" not in "".join(str(vars(each)) for each in records)


def test_the_application_of_the_page_runs(shared, app_url, auth, as_user, monkeypatch, ada, bob):
    monkeypatch.setenv("DATABASE_URL", app_url)
    monkeypatch.setenv("SUPABASE_URL", auth.url)
    page = (REPOSITORY / "docs" / "how-to" / "use-with-fastapi.md").read_text(encoding="utf-8")
    known = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        exec(block, known)
    with serve(known["app"]) as client:
        answer = client.get("/me", headers=as_user(ada)).json()
        assert answer == {"id": str(ada), "username": shared.profile(ada).username}
        assert client.get("/me").status_code == 401
        assert client.get(f"/names/{ada}", headers=as_user(ada)).json() == shared.profile(ada).username
        assert client.get(f"/names/{bob}", headers=as_user(ada)).status_code == 404
        assert client.get("/names/ada", headers=as_user(ada)).status_code == 422
        security = client.get("/openapi.json").json()["paths"]["/me"]["get"]["security"]
        assert security == [{"access_token": []}]


# What only asynchronous code, or an application's own route, can do wrong


@pytest.fixture
def asynchronous(shared, tables, app_url, auth):
    return Application(app_url, auth, "asyncpg")


def test_a_stream_cannot_go_on_with_the_session_of_its_request(asynchronous, as_user, ada):
    made = asynchronous
    session_of_user = made.session_for(made.sessions, made.signed_in)
    seen = []

    @made.app.get("/with-session")
    async def with_session(session: Any = session_of_user) -> StreamingResponse:
        async def rows():
            yield b"begin"
            try:
                seen.append((await session.execute(WHO)).one())
            except Exception as error:
                seen.append(type(error).__name__)
                raise

        return StreamingResponse(rows())

    @made.app.get("/with-its-own")
    async def with_its_own(user: Annotated[CurrentUser, made.signed_in]) -> StreamingResponse:
        async def rows():
            async with made.sessions() as session, acting_as(session, user.id, user.role, user.claims):
                row = (await session.execute(WHO)).one()
                yield json.dumps(dict(row._mapping)).encode()

        return StreamingResponse(rows())

    with serve(made.app) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/with-session", headers=as_user(ada))
        assert seen == ["InvalidRequestError"]
        assert client.get("/with-its-own", headers=as_user(ada)).json() == user(ada)
        assert client.post("/anyone").json() == NOBODY


def test_a_background_task_acts_for_nobody_unless_it_says_for_whom(asynchronous, as_user, ada):
    made = asynchronous
    following = async_sessionmaker(made.engine)
    follow_actor(following)
    seen = {}

    async def look(name):
        async with following() as session:
            seen[name] = dict((await session.execute(ANON)).one()._mapping)

    @on_behalf_of(lambda _name, user_id: user_id)
    async def look_for(name, _user_id):
        await look(name)

    @made.app.post("/task", dependencies=[made.session_for(made.sessions, made.signed_in)])
    async def task(user: Annotated[CurrentUser, made.signed_in], tasks: BackgroundTasks) -> None:
        await look("route")
        tasks.add_task(look, "task")
        tasks.add_task(look_for, "task of the user", user.id)

    with serve(made.app) as client:
        assert client.post("/task", headers=as_user(ada)).status_code == 200
        wait_until(lambda: len(seen) == 3)
    signed_in = {"role": "authenticated", "sub": str(ada)}
    assert seen == {"route": signed_in, "task": NOBODY, "task of the user": signed_in}


def test_a_service_of_a_following_factory_serves_the_user_of_the_request_alone(asynchronous, as_user, shared, ada, bob):
    made = asynchronous
    following = async_sessionmaker(made.engine)
    follow_actor(following)
    profiles = AsyncProfileService(following)
    User = Annotated[CurrentUser, made.signed_in]  # noqa: N806

    @made.app.get("/profiles/{user_id}")
    async def read(user_id: uuid.UUID, _: User) -> str:
        found = await profiles.get(user_id)
        if found is None:
            raise ProfileNotFound
        return found.username

    @made.app.patch("/profiles/{user_id}")
    async def change(user_id: uuid.UUID, _: User, changes: Annotated[dict[str, Any], Body()]) -> str:
        return (await profiles.patch(user_id, changes)).username

    with serve(made.app) as client:
        assert client.get(f"/profiles/{ada}", headers=as_user(ada)).json() == shared.profile(ada).username
        answer = client.get(f"/profiles/{bob}", headers=as_user(ada))
        assert (answer.status_code, answer.json()["title"]) == (404, "Profile not found")
        assert client.patch(f"/profiles/{bob}", headers=as_user(ada), json={"bio": "x"}).status_code == 404
        assert client.patch(f"/profiles/{ada}", headers=as_user(ada), json={"bio": "x"}).status_code == 200
        answer = client.patch(f"/profiles/{ada}", headers=as_user(ada), json={"role": "admin", "bio": 17})
        assert (answer.status_code, {each["pointer"] for each in answer.json()["errors"]}) == (422, {"#/role", "#/bio"})
        answer = client.patch(
            f"/profiles/{ada}", headers={**as_user(ada), "Content-Type": "application/json"}, content=b'{"\\ud800": 1}'
        )
        assert answer.status_code == 422
    assert (shared.profile(ada).bio, shared.profile(bob).bio) == ("x", None)


def test_a_synchronous_route_hands_its_user_to_a_service_in_its_thread(tables, app_url, auth, as_user, ada, bob):
    made = Application(app_url, auth, "psycopg2")
    follow_actor(made.sessions)
    profiles = ProfileService(made.sessions)

    @made.app.get("/profiles/{user_id}")
    def read(user_id: uuid.UUID, user: Annotated[CurrentUser | None, made.anyone]) -> bool:
        return profiles.get(user_id) is not None

    with serve(made.app) as client:
        assert client.get(f"/profiles/{ada}", headers=as_user(ada)).json() is True
        assert client.get(f"/profiles/{bob}", headers=as_user(ada)).json() is False
        assert client.get(f"/profiles/{ada}").status_code == 403


def test_an_exception_in_another_dependency_rolls_back(asynchronous, as_user, shared, ada):
    made = asynchronous
    session_of_user = made.session_for(made.sessions, made.signed_in)

    async def write(session: Any = session_of_user) -> None:
        await session.execute(BIO, {"bio": "lost"})

    async def refuse() -> None:
        raise StaleProfile

    async def refuse_at_the_end():
        yield
        raise StaleProfile

    @made.app.post("/before", dependencies=[Depends(write), Depends(refuse)])
    async def before() -> None: ...

    @made.app.post("/after", dependencies=[Depends(write), Depends(refuse_at_the_end, scope="function")])
    async def after() -> None: ...

    with serve(made.app) as client:
        for path in ("/before", "/after"):
            answer = client.post(path, headers=as_user(ada))
            assert (answer.status_code, answer.json()["title"]) == (409, "Stale profile")
            assert shared.profile(ada).bio is None
        assert client.post("/anyone").json() == NOBODY


def test_a_client_that_goes_away_leaves_nothing(asynchronous, as_user, shared, ada):
    made = asynchronous

    session_of_user = made.session_for(made.sessions, made.signed_in)

    @made.app.post("/slow")
    async def slow(session: Any = session_of_user) -> None:
        await session.execute(BIO, {"bio": "slow"})
        await session.execute(text("select pg_sleep(0.5)"))

    with serve(made.app) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/slow", headers=as_user(ada), timeout=0.2)
        # The only connection comes back, and is nobody's.
        assert client.post("/anyone").json() == NOBODY
    assert shared.profile(ada).bio in {"slow", None}


def test_what_is_wrong_with_a_request_is_said_without_its_values(asynchronous):
    @asynchronous.app.post("/items/{number}")
    async def items(number: int, limit: int, body: Annotated[dict[str, int], Body()]) -> None: ...

    with serve(asynchronous.app) as client:
        answer = client.post("/items/hunter2?limit=hunter2", json={"a/b": "hunter2"})
        assert answer.status_code == 422
        assert "hunter2" not in answer.text
        assert [(each.get("pointer"), each.get("in"), each.get("name")) for each in answer.json()["errors"]] == [
            (None, "path", "number"),
            (None, "query", "limit"),
            ("#/a~1b", None, None),
        ]
        for body in (b"{", b"[" * 5000, b"\xff", b'{"\\ud800": "x"}', b""):
            answer = client.post("/items/1?limit=1", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code in {400, 422}, body[:10]
            assert answer.headers["content-type"] == "application/problem+json"
        answer = client.delete("/items/1")
        assert (answer.status_code, answer.json()["title"], answer.headers["allow"]) == (
            405,
            "Method Not Allowed",
            "POST",
        )


def test_a_record_names_the_whole_route_and_an_odd_status_is_answered(asynchronous, caplog):
    inner, outer = APIRouter(prefix="/{group}"), APIRouter(prefix="/outer")

    @inner.get("/{status}")
    async def answer(status: int) -> None:
        raise HTTPException(status, "as asked")

    outer.include_router(inner)
    asynchronous.app.include_router(outer)
    caplog.set_level(logging.INFO, "profiles_schema.fastapi")
    with serve(asynchronous.app) as client:
        for status in (204, 304, 404, 418, 499, 599):
            answer = client.get(f"/outer/hunter2/{status}")
            assert (answer.status_code, bool(answer.content)) == (status, status not in {204, 304})
    routes = {record.route for record in caplog.records if record.name == "profiles_schema.fastapi"}
    assert routes == {"/outer/{group}/{status}"}


def test_a_server_that_is_not_there_is_a_503(tables, auth, as_user, ada, app_url):
    gone = Application("postgresql://app@127.0.0.1:9/nowhere", auth, "asyncpg")
    with serve(gone.app) as client:
        answer = client.post("/who", headers=as_user(ada))
        assert (answer.status_code, answer.json()["title"], answer.headers["retry-after"]) == (
            503,
            "Service failed",
            "5",
        )
    full = Application(app_url, auth, "asyncpg", pool_timeout=0.2)
    session_of_user = full.session_for(full.sessions, full.signed_in)

    @full.app.post("/slow")
    async def slow(session: Any = session_of_user) -> None:
        await session.execute(text("select pg_sleep(1)"))

    with serve(full.app) as client, ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: client.post("/slow", headers=as_user(ada)).status_code, range(4))
        assert sorted(answers) == [200, 503, 503, 503]


def connect(app, path, headers):
    """What an application sends to a websocket that connects and waits, as ASGI messages."""

    async def run():
        sent = []
        messages = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]

        async def receive():
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        scope = {
            "type": "websocket", "asgi": {"version": "3.0"}, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()], "subprotocols": [],
            "scheme": "ws", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "", "state": {},
        }  # fmt: skip
        await app(scope, receive, send)
        return sent

    return asyncio.run(run())


def test_a_websocket_has_a_user_or_is_closed(asynchronous, as_user, ada):
    made = asynchronous

    session_of_user = made.session_for(made.sessions, made.signed_in)

    @made.app.websocket("/socket")
    async def talk(socket: WebSocket, session: Any = session_of_user) -> None:
        await socket.accept()
        await socket.send_text((await session.execute(WHO)).one().sub)
        await session.commit()
        await socket.send_text((await session.execute(WHO)).one().sub)
        await session.commit()
        await made.engine.dispose()  # its connection belongs to the loop of this test

    sent = connect(made.app, "/socket", as_user(ada))
    assert [each.get("text") for each in sent[1:3]] == [str(ada)] * 2
    for headers in ({}, {"Authorization": "Bearer hunter2"}, as_user(ada, role="service_role")):
        sent = connect(made.app, "/socket", headers)
        assert [(each["type"], each["code"]) for each in sent] == [("websocket.close", 1008)]
