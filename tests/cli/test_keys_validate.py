"""keys validate: providers are asked, refused keys are disabled, and nothing shows a key."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from profiles_schema.encryption import KeyRing, bound_to, new_entry
from profiles_schema.settings import ENCRYPTION_KEYS
from support import profiles_schema

SECRET = "sk-geheim-"


@pytest.fixture
def providers():
    """A server for all providers: it refuses keys that say so."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            key = (self.headers["authorization"] or self.headers["x-api-key"]).split()[-1]
            asked.append(key)
            self.send_response(401 if "refused" in key else 503 if "down" in key else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield asked, [f"--base-url={name}={url}" for name in ("openai", "anthropic", "unsplash")]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ring(monkeypatch):
    text = new_entry("k1")
    monkeypatch.setenv(ENCRYPTION_KEYS, text)
    return KeyRing.parse(text)


def store(database, ring, user, provider, what, label=""):
    key = SECRET + what
    if label or provider == "deepl":
        envelope = ring.encrypt(key, user_id=user, column=bound_to(provider, label))
        database.run(
            "insert into public.user_provider_keys (user_id, provider, label, envelope) values (:u, :p, :l, :e)",
            u=user, p=provider, l=label, e=envelope,
        )  # fmt: skip
    else:
        column = f"{provider}_api_key"
        database.run(
            f"insert into public.user_api_keys (user_id, {column}) values (:u, :e)"
            f" on conflict (user_id) do update set {column} = :e",
            u=user, e=ring.encrypt(key, user_id=user, column=column),
        )  # fmt: skip


def run(database, *arguments):
    done = profiles_schema(database.url, "keys", "validate", *arguments)
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_keys_are_validated_and_refused_ones_disabled_one_by_one(database, ring, providers):
    asked, addresses = providers
    ada, eve = database.sign_up("ada@example.org"), database.sign_up("eve@example.org")
    store(database, ring, ada, "openai", "fine")
    store(database, ring, ada, "anthropic", "refused")
    store(database, ring, ada, "unsplash", "down")
    store(database, ring, eve, "openai", "refused", "work")
    store(database, ring, eve, "openai", "fine2", "home")
    store(database, ring, eve, "deepl", "not asked")
    first = run(database, *addresses)
    assert first.returncode == 1
    assert first.stdout.splitlines() == [
        "2 keys valid, 2 refused by their provider", "1 key got no answer, and stay as they are"
    ]  # fmt: skip
    assert sorted(asked) == sorted(SECRET + each for each in ("fine", "refused", "down", "refused", "fine2"))
    run(database, *addresses)
    third = run(database, *addresses, "--json")
    assert json.loads(third.stdout) == {"valid": 2, "refused": 2, "disabled": 2, "no_answer": 1, "unreadable": 0}
    assert database.value("select validation -> 'anthropic' ->> 'disabled' from public.user_api_keys") == "true"
    assert dict(map(tuple, database.run("select label, is_active from public.user_provider_keys"))) == {
        "work": False, "home": True, "": True
    }  # fmt: skip
    # Disabled keys are not asked about any more, nor those that were checked lately.
    asked.clear()
    assert run(database, *addresses, "--older-than", "1").returncode == 0
    assert asked == [SECRET + "down"]
    asked.clear()
    assert run(database, *addresses, "--provider", "openai", "--user", str(eve)).returncode == 0
    assert asked == [SECRET + "fine2"]


def test_keys_that_do_not_open_are_counted_and_the_others_validated(database, ring, providers):
    asked, addresses = providers
    ada, eve = database.sign_up("ada@example.org"), database.sign_up("eve@example.org")
    store(database, ring, ada, "openai", "fine")
    store(database, KeyRing.parse(new_entry("k2")), eve, "openai", "fine")
    done = run(database, *addresses)
    assert done.returncode == 1
    assert "1 key did not open: profiles-schema keys status" in done.stdout
    assert asked == [SECRET + "fine"]


@pytest.mark.parametrize(
    "arguments",
    [["--provider", "deepl"], ["--base-url", "openai"], ["--base-url", "deepl=http://x"], ["--base-url", "openai=ftp://x"],
     ["--user", "ada"], ["--max-rate", "0"], ["--disable-after", "0"], ["--older-than", "-1"]],
)  # fmt: skip
def test_wrong_options_are_usage_errors(database, ring, arguments):
    assert run(database, *arguments).returncode == 2
