"""The example application as a process of its own, with an HTTP client, on a real database; and two users who attack each other."""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from contextlib import contextmanager
from itertools import cycle, product
from pathlib import Path
from urllib.parse import quote

import httpx
import jwt
import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.orm import sessionmaker

from profiles_schema.services.export_worker import ExportWorker
from profiles_schema.services.exports import ExportService
from profiles_schema.storage import DirectoryStorage
from support import REPOSITORY, wait_until
from support.auth_server import SECRET, AuthServer

EXAMPLE = REPOSITORY / "examples" / "fastapi_app"
HOSTILE = json.loads((EXAMPLE / "hostile_inputs.json").read_text(encoding="utf-8"))
METHODS = {"get", "put", "post", "patch", "delete"}
MARK = "bobssecret"


@contextmanager
def run_example(url, issuer, exports, **environment):
    """uvicorn with the example in it, and a client."""
    # Not --fd: a socket that is handed over keeps Nagle's algorithm, which costs 40 ms a request.
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "uvicorn",
        "app:app",
        "--app-dir",
        str(EXAMPLE),
        "--no-access-log",
        "--port",
        "0",
    ]
    settings = {
        "DATABASE_URL": url.replace("postgresql://", "postgresql+asyncpg://", 1), "TOKEN_ISSUER": issuer,
        "EXPORTS_DIRECTORY": str(exports), "PROFILES_ENCRYPTION_KEYS": f"test:{base64.b64encode(bytes(range(32))).decode()}",
        **environment,
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("w") as output:
        running = subprocess.Popen(command, env=os.environ | settings, stdout=output, stderr=output, cwd=exports)

        def said():
            return Path(output.name).read_text(encoding="utf-8")

        def address():
            assert running.poll() is None, said()
            return re.search(r"running on (http://[\d.:]+)", said())

        try:
            wait_until(address)
            with httpx.Client(base_url=address()[1], timeout=30) as client:
                yield client
        finally:
            running.terminate()
            running.wait(timeout=30)
        assert "Traceback" not in said(), said()
        assert MARK not in said()


@pytest.fixture(scope="module")
def auth():
    with AuthServer() as running:
        yield running


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def client(app_url, auth, exports):
    keys = f"{auth.issuer}/.well-known/jwks.json"
    with run_example(
        app_url, auth.issuer, exports, JWKS_URL=keys, TOKEN_SECRET=SECRET, SIGN_UP="yes", POOL_SIZE="2"
    ) as made:
        yield made


class Person:
    """A user, as the application knows them: a token, and requests with it."""

    def __init__(self, client, name, signed_up):
        self.client = client
        self.email = f"{name}@example.org"
        self.id = signed_up["id"]
        self.headers = {"Authorization": f"Bearer {signed_up['access_token']}"}

    def request(self, method, path, **options):
        headers = {**options.pop("headers", {}), **self.headers}
        return self.client.request(method, path, headers=headers, **options)

    def get(self, path):
        answer = self.request("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def person(client):
    def sign_up(name):
        name = f"{name}_{uuid.uuid4().hex[:8]}"
        answer = client.post("/users", json={"email": f"{name}@example.org", "name": name.title()})
        assert answer.status_code == 201, answer.text
        return Person(client, name, answer.json())

    return sign_up


@pytest.fixture
def work(shared, exports):
    """Writes the exports that are due, as `profiles-schema exports work` does."""
    engine = create_engine(shared.url.replace("postgresql://", "postgresql+psycopg2://", 1), poolclass=NullPool)
    sessions = sessionmaker(engine)
    return lambda: ExportWorker(ExportService(sessions, DirectoryStorage(exports)), sessions).work(once=True)


@pytest.mark.slow
def test_a_new_user_has_a_profile_and_changes_it(client, person):
    ada = person("ada")
    profile = ada.get("/me/profile")
    assert (profile["email"], profile["user_id"]) == (ada.email, ada.id)
    answer = ada.request("PUT", "/me/profile", json={"bio": "Engineer", "preferences": {"theme": "dark", "font": 12}})
    assert (answer.status_code, answer.json()["bio"]) == (200, "Engineer")
    read = answer.headers["etag"]
    answer = ada.request("PATCH", "/me/profile", json={"preferences": {"font": None}}, headers={"If-Match": read})
    assert (answer.status_code, answer.json()["preferences"]) == (200, {"theme": "dark"})
    answer = ada.request("PATCH", "/me/profile", json={"bio": "late"}, headers={"If-Match": read})
    assert (answer.status_code, answer.json()["title"]) == (409, "Stale profile")
    answer = ada.request("PUT", "/me/profile", json={"role": "admin", "bio": 17, "email": "x"})
    assert answer.status_code == 422
    assert {each["pointer"] for each in answer.json()["errors"]} == {"#/role", "#/bio", "#/email"}
    again = client.post("/users", json={"email": ada.email})
    assert again.status_code in {201, 409}


def test_everyone_sees_public_profiles_and_no_private_one(client, person):
    ada, bob = person("ada"), person("bob")
    bob.request("PUT", "/me/profile", json={"profile_visibility": "private"})
    names = [each.get("/me/profile")["username"] for each in (ada, bob)]
    answer = client.get(f"/profiles/{names[0]}")
    assert (answer.status_code, answer.json()["username"]) == (200, names[0])
    assert "email" not in answer.json()
    answer = client.get(f"/profiles/{names[1]}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    answer = client.get("/profiles", params={"ids": [ada.id, bob.id]})
    assert [each["username"] for each in answer.json().values()] == [names[0]]


def test_progress_is_read_and_its_words_are_written(person):
    ada = person("ada")
    assert ada.get("/me/progress")["mastered_words_count"] == 0
    words = {"mastered_words_count": 3, "learning_words_count": 2, "new_words_count": 1}
    answer = ada.request("PUT", "/me/progress", json=words)
    assert answer.status_code == 200
    assert ada.get("/me/progress").items() >= words.items()
    answer = ada.request("PUT", "/me/progress", json={**words, "total_points": 1000})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/total_points")


def test_an_export_is_requested_written_and_downloaded(person, work):
    ada, bob = person("ada"), person("bob")
    answer = ada.request("POST", "/me/exports")
    export = answer.json()["id"]
    assert answer.status_code == 202
    assert ada.request("POST", "/me/exports").json()["id"] == export  # one at a time
    assert ada.request("GET", f"/me/exports/{export}/file").status_code == 409
    work()
    assert [(each["id"], each["status"]) for each in ada.get("/me/exports")] == [(export, "completed")]
    answer = ada.request("GET", f"/me/exports/{export}/file")
    assert ada.email in answer.text
    assert answer.headers["content-disposition"] == f'attachment; filename="{export}.json"'
    for path in (f"/me/exports/{export}", f"/me/exports/{export}/file"):
        assert bob.request("GET", path).status_code == 404
    assert bob.get("/me/exports") == []


def test_a_key_goes_in_and_only_its_end_comes_out(shared, person):
    ada, bob = person("ada"), person("bob")
    plain = f"sk-{MARK}-0123456789-wxyz"
    for provider in ("openai", "deepl"):
        answer = ada.request("PUT", f"/me/keys/{provider}", json={"key": plain})
        assert (answer.status_code, answer.json()["hint"]) == (200, "wxyz")
    assert [(each["provider"], each["hint"]) for each in ada.get("/me/keys")] == [("deepl", "wxyz"), ("openai", "wxyz")]
    assert MARK not in json.dumps(state_of(shared, ada), default=str)
    assert bob.get("/me/keys") == []
    for provider in ("openai", "deepl"):
        assert bob.request("DELETE", f"/me/keys/{provider}").status_code == 404
        assert ada.request("DELETE", f"/me/keys/{provider}").status_code == 204
    assert ada.get("/me/keys") == []
    for wrong in ({"key": " "}, {"key": f"{plain} "}, {"key": plain * 30}, {"key": 17}, {}):
        answer = ada.request("PUT", "/me/keys/openai", json=wrong)
        assert answer.status_code == 422
        assert MARK not in answer.text
    assert ada.request("PUT", "/me/keys/No%20provider", json={"key": plain}).status_code == 422


def test_a_deleted_account_is_shut_at_once(client, person):
    ada, bob = person("ada"), person("bob")
    names = {each.id: each.get("/me/profile")["username"] for each in (ada, bob)}
    answer = ada.request("POST", "/me/deletion", json={"username": names[bob.id]})
    assert (answer.status_code, ada.get("/me/profile")["username"]) == (422, names[ada.id])
    assert ada.request("POST", "/me/deletion", json={"username": names[ada.id]}).status_code == 204
    assert client.get(f"/profiles/{names[ada.id]}").status_code == 404
    for method, path, _ in operations(client):
        if path.startswith("/me/") and "{" not in path:
            words = {"mastered_words_count": 1, "learning_words_count": 1, "new_words_count": 1}
            body = words if path == "/me/progress" else {"username": "x"} if path == "/me/deletion" else {"bio": "x"}
            answer = ada.request(method, path, json=body)
            nothing_to_see = method == "GET" and answer.status_code == 200 and answer.json() == []
            assert answer.status_code in {403, 404} or nothing_to_see, (method, path, answer.text)
    assert bob.get("/me/profile")["username"] == names[bob.id]


@pytest.mark.slow
def test_it_does_not_start_with_a_role_that_row_level_security_does_not_bind(shared, auth, exports):
    with pytest.raises(AssertionError, match="RowSecurityBypassed: Row level security does not bind the role postgres"):  # noqa: SIM117
        with run_example(shared.url, auth.issuer, exports, TOKEN_SECRET=SECRET):
            pytest.fail("it started")


def test_it_says_that_the_database_is_gone(shared, client, app_url):
    login = re.search(r"app_\w+", app_url)[0]
    shared.script(f"alter role {login} nologin")
    try:
        shared.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = :login", login=login)
        answer = client.get("/healthz")
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert login not in answer.text
    finally:
        shared.script(f"alter role {login} login")
    assert client.get("/healthz").json() == {"status": "ok"}


# Attacks


def operations(client):
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in METHODS & methods.keys():
            yield method.upper(), path, methods[method]


def protected_routes(client):
    return [
        (method, path) for method, path, operation in operations(client) if "security" in operation and "/me" in path
    ]


def test_no_route_of_a_user_answers_without_a_token_that_proves_one(client, auth, person):
    bob = person("bob")
    good = auth.claims(bob.id)
    tokens = {
        "none": jwt.encode(good, None, "none"),
        "made-up secret": jwt.encode(good, "x" * 40, "HS256"),
        "service_role": auth.token(bob.id, role="service_role"),
        "service_role by the secret": jwt.encode({**good, "role": "service_role"}, SECRET, "HS256"),
        "expired": auth.token(bob.id, exp=good["iat"] - 60),
        "another issuer": auth.token(bob.id, iss="https://evil.example/auth/v1"),
        "another audience": auth.token(bob.id, aud="anon"),
        "no subject": auth.key.sign(auth.claims(bob.id) | {"sub": ""}),
        "text": "hunter2",
    }
    routes = protected_routes(client)
    assert len(routes) >= 8
    for (method, path), (name, token) in product(routes, {**tokens, "no token": None}.items()):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = client.request(method, re.sub(r"{\w+}", bob.id, path), headers=headers, json={})
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json"), (
            method,
            path,
            name,
        )
        assert bob.email not in answer.text


def state_of(shared, person):
    """Every row of a user, in every table."""
    tables = shared.run(
        "select distinct table_name from information_schema.columns where table_schema = 'public' and column_name = 'user_id'"
        " and table_name in (select tablename from pg_tables where schemaname = 'public')"
    )
    return {
        table: shared.run(
            f"select row_to_json(t)::text from public.{table} as t where user_id = :id order by 1", id=person.id
        )
        for (table,) in tables
    }


@pytest.fixture
def victim(person, work):
    """Bob, who is private and has something everywhere."""
    bob = person("bob")
    secrets = {
        "profile_visibility": "private",
        "bio": f"{MARK} bio",
        "preferences": {"of": MARK},
        "first_name": MARK.title(),
    }
    assert bob.request("PUT", "/me/profile", json=secrets).status_code == 200
    bob.username = bob.get("/me/profile")["username"]
    words = {"mastered_words_count": 1, "learning_words_count": 1, "new_words_count": 1}
    assert bob.request("PUT", "/me/progress", json=words).status_code == 200
    assert bob.request("PUT", "/me/keys/deepl", json={"key": f"{MARK}-0123456789-wxyz"}).status_code == 200
    bob.export = bob.request("POST", "/me/exports").json()["id"]
    work()
    assert bob.request("GET", f"/me/exports/{bob.export}/file").status_code == 200
    return bob


def hostile_inputs(group, bob):
    """The inputs of a group, with Bob's ids filled in."""
    names = {
        "BOB_UPPERCASE": bob.id.upper(), "BOB_WITHOUT_HYPHENS": bob.id.replace("-", ""), "BOB_IN_BRACES": f"{{{bob.id}}}",
        "BOB_EXPORT": bob.export, "BOB_USERNAME": bob.username, "BOB": bob.id,
    }  # fmt: skip
    for each in HOSTILE[group]:
        text = json.dumps(each)
        for name, value in names.items():
            text = text.replace(name, value)
        yield json.loads(text)


def attacks(client, bob):
    """Every route with every hostile input in every place: method, path, and what else the request has."""
    texts = [*hostile_inputs("texts", bob), *hostile_inputs("ids", bob)]
    printable = [each.encode("utf-8", "surrogatepass") for each in texts]
    values = [*hostile_inputs("values", bob), *texts]
    for method, path, operation in operations(client):
        names = re.findall(r"{(\w+)}", path)
        filled = re.sub(r"{\w+}", bob.export, path)
        for name, each in product(names, printable):
            yield method, re.sub(rf"{{{name}}}", quote(each, safe="").replace("\\", "\\\\"), path), {}
        query = [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]
        for name, each in [*product(query, printable), *product(["user_id", "role"], hostile_inputs("ids", bob))]:
            yield method, f"{filled}?{name}={quote(each, safe='')}", {}
        for name, value in hostile_inputs("headers", bob):
            yield method, filled, {"headers": {name: value}, "content": b"{}"}
        if "requestBody" not in operation:
            continue
        written = [each.encode("utf-8", "surrogatepass") for each in hostile_inputs("bodies", bob)]
        # Every value in two fields, and every field that is not the user's to write.
        known = cycle(
            ["bio", "username", "preferences", "key_metrics", "timezone", "email", "mastered_words_count", "key"]
        )
        fields = [*zip(known, values + values), *product(hostile_inputs("fields", bob), [bob.id])]  # noqa: B905
        for body in [*written, *(json.dumps(dict([each])).encode() for each in fields)]:
            yield method, filled, {"content": body, "headers": {"Content-Type": "application/json"}}


def try_attacks(shared, person, bob, chosen):
    # Ada takes hostile usernames, with which she could delete her own account in the middle.
    ada, eve = person("ada"), person("eve")
    before = state_of(shared, bob)
    secrets = (MARK, bob.email)
    answers = Counter()
    for method, path, options in chosen:
        answer = (eve if path.startswith("/me/deletion") else ada).request(method, path, **options)
        answers[answer.status_code] += 1
        what = (method, path, options, answer.status_code, answer.text[:300])
        assert answer.status_code < 500, what
        assert not any(secret in answer.text for secret in secrets), what
        assert "X-Injected" not in answer.headers, what
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json", what
            assert not re.search(r"psycopg|asyncpg|sqlalchemy|Traceback|DETAIL|SELECT ", answer.text), what
    assert state_of(shared, bob) == before
    assert [each.get("/me/profile")["user_id"] for each in (ada, eve)] == [ada.id, eve.id]
    assert not answers[401]
    return answers


def test_one_user_reaches_nothing_of_another(shared, client, person, victim):
    chosen = [each for number, each in enumerate(attacks(client, victim)) if number % 11 == 0]
    answers = try_attacks(shared, person, victim, chosen)
    assert answers.total() > 100
    assert answers.keys() >= {200, 404, 422}


@pytest.mark.slow
def test_one_user_reaches_nothing_of_another_with_any_hostile_input(shared, client, person, victim):
    answers = try_attacks(shared, person, victim, attacks(client, victim))
    print(answers)
    assert answers.total() > 1500


@pytest.mark.slow
def test_the_api_does_what_its_openapi_document_says(client, person, tmp_path):
    ada = person("ada")
    # allow_header_conformance: Starlette's 405 names the methods of the first route with this path only.
    # positive_data_acceptance: the database knows rules that a schema cannot say.
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{client.base_url}/openapi.json", "--max-examples", "5", "--seed", "17",
        "--header", f"Authorization: {ada.headers['Authorization']}", "--no-color", "--warnings", "off",
        "--exclude-checks", "positive_data_acceptance,allow_header_conformance",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    selected, tested = re.search(r"Selected: (\d+)/\d+\s+Tested: (\d+)", done.stdout).groups()
    assert selected == tested == str(len(list(operations(client))))
