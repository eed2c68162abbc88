"""ApiKeyService on every driver: keys come back for their user, provider and label only, and nothing shows them."""

import logging
import threading
import traceback
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from profiles_schema.encryption import KeyRing, bound_to
from profiles_schema.errors import (
    CiphertextMismatch,
    DamagedEnvelope,
    DecryptionFailed,
    EncryptionKeyChanged,
    InvalidApiKey,
    KeyRingMissing,
    NotAllowed,
    NotAnEnvelope,
    ProfileNotFound,
    TextNotEncryptable,
    UnknownEncryptionKey,
)
from profiles_schema.secret import Secret
from profiles_schema.services import ApiKeyService, AsyncApiKeyService, Check
from profiles_schema.services.acting import follow_actor, on_behalf_of
from support import Database
from support.services import Blocking, Factory

OLD, NEW, OTHER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
RING = KeyRing({"k1": OLD})
KEY = "sk-proj-geheimgeheimgeheim-WXYZ"


@pytest.fixture
def keys(services):
    """Makes API key services on one driver."""

    def make(ring=RING, factory=None, **options):
        factory = factory or services.factory()
        kind = AsyncApiKeyService if factory.is_async else ApiKeyService
        made = Blocking(kind(factory.sessions, ring, **options), services.runner)
        made.factory = factory
        return made

    return make


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org")


PLACES = [("openai", ""), ("anthropic", ""), ("unsplash", ""), ("openai", "work"), ("deepl", ""), ("deepl", "a/b ü")]


def test_what_is_set_is_got_listed_replaced_and_deleted(keys, database, ada):
    service = keys()
    for number, (provider, label) in enumerate(PLACES):
        assert service.get(ada, provider, label) is None
        info = service.set(ada, provider, f"{KEY}{number:04}", label)
        assert (info.provider, info.label, info.hint, info.is_active) == (provider, label, f"{number:04}", True)
        assert service.get(str(ada), provider, label).reveal() == f"{KEY}{number:04}"
    listed = service.list(ada)
    assert [(each.provider, each.label) for each in listed] == sorted(PLACES)
    assert {each.label: each.last_used_at is not None for each in listed if each.provider == "deepl"} == {
        "": True,
        "a/b ü": True,
    }
    assert all(each.updated_at for each in listed)
    again = service.set(ada, "deepl", Secret(f"{KEY}0004"))
    assert again.hint == "0004"
    assert service.set(ada, "openai", "short").hint is None
    assert service.get(ada, "openai").reveal() == "short"
    for provider, label in PLACES:
        assert service.delete(ada, provider, label) is True
        assert service.delete(ada, provider, label) is False
        assert service.get(ada, provider, label) is None
    assert service.list(ada) == []


def test_a_list_needs_no_key_of_the_ring(keys, ada):
    keys().set(ada, "openai", KEY)
    keys().set(ada, "deepl", KEY)
    assert [each.hint for each in keys(KeyRing({"k9": NEW})).list(ada)] == ["WXYZ", "WXYZ"]


def test_resolve_takes_the_users_key_before_any_other(keys, database, ada):
    service = keys()
    assert service.resolve(ada, "openai") is None
    assert service.resolve(ada, "openai", fallback="ours").reveal() == "ours"
    secret = Secret("ours")
    assert service.resolve(ada, "openai", fallback=secret) is secret
    service.set(ada, "openai", "of the label b", "b")
    assert service.resolve(ada, "openai", fallback="ours").reveal() == "of the label b"
    service.set(ada, "openai", "without a label")
    assert service.resolve(ada, "openai", fallback="ours").reveal() == "without a label"
    assert service.resolve(ada, "openai", "b").reveal() == "of the label b"
    assert service.get(ada, "openai", "c") is None
    database.run("""update public.user_api_keys set validation = '{"openai": {"disabled": true}}'""")
    assert service.get(ada, "openai") is None
    assert service.resolve(ada, "openai", fallback="ours").reveal() == "of the label b"
    database.run("update public.user_provider_keys set is_active = false")
    assert service.resolve(ada, "openai", fallback="ours").reveal() == "ours"
    assert [each.is_active for each in service.list(ada)] == [False, False]


def test_a_key_that_does_not_open_is_an_error_and_never_the_fallback(keys, ada):
    keys().set(ada, "openai", KEY)
    with pytest.raises(UnknownEncryptionKey, match='"k1"'):
        keys(KeyRing({"k2": NEW})).resolve(ada, "openai", fallback="ours")


def test_each_way_not_to_open_has_its_own_error(keys, database, ada):
    service = keys()
    eve = database.sign_up("eve@example.org")
    service.set(ada, "deepl", KEY)
    service.set(ada, "openai", KEY)
    envelope = database.value("select envelope from public.user_provider_keys")
    # What the CHECKs refuse stands in tables that were restored, or altered by hand.
    database.script(
        "alter table public.user_provider_keys disable trigger all;"
        "alter table public.user_provider_keys drop constraint ck_user_provider_keys_envelope_is_encrypted"
    )

    def stored(value):
        database.run("update public.user_provider_keys set envelope = :value", value=value)
        with pytest.raises(DecryptionFailed) as refused:
            service.get(ada, "deepl")
        printed = "".join(traceback.format_exception(refused.value))
        assert KEY not in printed
        assert envelope[-20:] not in printed
        return type(refused.value)

    flipped = "A" if envelope[-2] != "A" else "B"
    openai = database.value("select openai_api_key from public.user_api_keys")
    assert stored(envelope[:-2] + flipped + envelope[-1]) is CiphertextMismatch
    assert stored(openai) is CiphertextMismatch  # that of another provider
    assert stored(RING.encrypt(KEY, user_id=eve, column=bound_to("deepl", ""))) is CiphertextMismatch
    assert stored(RING.encrypt(KEY, user_id=ada, column=bound_to("deepl", "other"))) is CiphertextMismatch
    assert stored(RING.encrypt(KEY, user_id=ada, column="openai_api_key")) is CiphertextMismatch
    assert stored(envelope[:20]) is DamagedEnvelope
    assert stored(envelope.replace("psk1.k1.", "psk1.k7.")) is UnknownEncryptionKey
    assert stored(KEY) is NotAnEnvelope
    database.run("update public.user_provider_keys set envelope = :value", value=envelope)
    assert service.get(ada, "deepl").reveal() == KEY
    for _ in range(2):
        with pytest.raises(EncryptionKeyChanged, match='"k1"'):
            keys(KeyRing({"k1": OTHER})).get(ada, "deepl")


def test_a_ring_whose_key_changed_under_its_id_is_noticed_before_anything_is_written(keys, database, ada):
    keys().set(ada, "deepl", KEY)
    before = database.run("select * from public.user_provider_keys"), database.run("select * from public.user_api_keys")
    changed = keys(KeyRing({"k1": OTHER}))
    for provider in ("deepl", "openai"):
        with pytest.raises(EncryptionKeyChanged) as refused:
            changed.set(ada, provider, KEY)
        assert KEY not in "".join(traceback.format_exception(refused.value))
    assert before == (
        database.run("select * from public.user_provider_keys"), database.run("select * from public.user_api_keys")
    )  # fmt: skip
    assert database.value("select check_value from profiles_internal.encryption_keys") == RING.check_values["k1"]
    # Once per key, not once per call.
    service = keys()
    service.set(ada, "openai", KEY)
    with service.factory.counted() as statements:
        service.set(ada, "openai", KEY)
        service.get(ada, "openai")
    assert not [each for each in statements if "check_encryption_key" in each]


def test_a_user_reaches_their_own_keys_alone(keys, services, database, ada):
    eve = database.sign_up("eve@example.org")
    factory = services.factory()
    follow_actor(factory.sessions)
    service = keys(factory=factory)
    with on_behalf_of(ada):
        for provider, label in PLACES:
            service.set(ada, provider, KEY, label)
            assert service.get(ada, provider, label).reveal() == KEY
        assert len(service.list(ada)) == len(PLACES)
    with on_behalf_of(eve):
        assert service.list(ada) == []
        for provider, label in PLACES:
            assert service.get(ada, provider, label) is None
            assert service.delete(ada, provider, label) is False
            with pytest.raises(NotAllowed):
                service.set(ada, provider, "mine", label)
        assert service.resolve(ada, "openai", fallback="ours").reveal() == "ours"
    with pytest.raises(NotAllowed):
        service.list(ada)  # anon
    with on_behalf_of(ada):
        assert service.delete(ada, "openai")
        with pytest.raises(NotAllowed):
            service.validate(ada, "anthropic")
    rows = database.run("select action, actor from public.user_profile_audit_logs where action like 'key%'")
    assert {row.actor for row in rows} == {ada}
    assert [row.action for row in rows].count("key_set") == len(PLACES)


@pytest.mark.parametrize("may_serve", [True, False])
def test_the_first_key_of_an_id_is_recorded_where_the_login_may_become_service_role(
    keys, services, database, ada, may_serve
):
    role = f"app_{uuid.uuid4().hex[:12]}"
    roles = "anon, authenticated, service_role" if may_serve else "anon, authenticated"
    database.script(f"create role {role} login noinherit; grant {roles} to {role}")
    login = Database(database.server, database.name, role)
    factory = Factory(login.url, services.driver, role)
    services.factories.append(factory)
    follow_actor(factory.sessions)
    service = keys(factory=factory)
    with on_behalf_of(ada):
        service.set(ada, "deepl", KEY)
        assert service.get(ada, "deepl").reveal() == KEY
    assert database.value("select count(*) from profiles_internal.encryption_keys") == int(may_serve)
    # The roles of a server are shared by all databases.
    database.script(f"revoke {roles} from {role}; alter role {role} nologin")


NO_KEYS = [
        ("Open AI", KEY, "", "provider"), ("", KEY, "", "provider"), ("a/b", KEY, "", "provider"),
        ("deepl", KEY, "x" * 65, "label"), ("deepl", KEY, "a\nb", "label"), ("deepl\n", KEY, "", "provider"),
        ("deepl", "", "", "key"), ("deepl", f" {KEY}", "", "key"), ("deepl", f"{KEY}\n", "", "key"),
]  # fmt: skip


def test_what_cannot_be_a_key_is_named_and_not_repeated(keys, ada):
    for provider, key, label, field in NO_KEYS:
        with pytest.raises(InvalidApiKey) as refused:
            keys().set(ada, provider, key, label)
        assert set(refused.value.fields) == {field}, (provider, label)
        assert "geheim" not in f"{refused.value} {refused.value.problem()}"


def test_a_key_of_nobody_and_one_that_is_too_long(keys, ada):
    for provider in ("openai", "deepl"):
        with pytest.raises(ProfileNotFound):
            keys().set(uuid.uuid4(), provider, KEY)
        with pytest.raises(TextNotEncryptable):
            keys().set(ada, provider, "x" * 3_000)


def test_a_service_takes_the_ring_of_the_environment(services, monkeypatch):
    factory = services.factory()
    kind = AsyncApiKeyService if factory.is_async else ApiKeyService
    monkeypatch.delenv("PROFILES_ENCRYPTION_KEYS", raising=False)
    with pytest.raises(KeyRingMissing):
        kind(factory.sessions)


# Validation

ONE_OF_EACH = pytest.mark.parametrize("services", ["psycopg2", "asyncpg"], indirect=True)
"""A synchronous driver and an asynchronous one: what differs is who asks the provider."""


class Provider:
    """An HTTP server that answers with one status, and remembers what it was asked."""

    def __init__(self):
        self.status = 200
        self.body = b""
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, dict(self.headers)))
                self.send_response(outer.status)
                if outer.status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def provider():
    made = Provider()
    yield made
    made.close()


@pytest.fixture
def validating(keys, provider):
    return keys(base_urls=dict.fromkeys(("openai", "anthropic", "unsplash"), provider.url))


def state(service, ada, provider, label=""):
    return next(each for each in service.list(ada) if (each.provider, each.label) == (provider, label))


@ONE_OF_EACH
def test_a_provider_is_asked_as_it_wants_to_be(validating, provider, database, ada):
    for name, path, header, value, label in (
        ("openai", "/v1/models", "authorization", f"Bearer {KEY}", ""),
        ("openai", "/v1/models", "authorization", f"Bearer {KEY}", "work"),
        ("anthropic", "/v1/models", "x-api-key", KEY, ""),
        ("unsplash", "/photos?per_page=1", "authorization", f"Client-ID {KEY}", "work"),
    ):
        validating.set(ada, name, KEY, label)
        assert validating.validate(ada, name, label) == Check(True)
        asked, headers = provider.asked[-1]
        assert asked == path
        assert {key.lower(): each for key, each in headers.items()}[header] == value
        found = state(validating, ada, name, label)
        assert (found.validation["valid"], found.validation["refusals"], found.is_active) == (True, 0, True)
    assert database.value("select last_validated_at from public.user_api_keys") is not None


@ONE_OF_EACH
@pytest.mark.parametrize(
    ("name", "label", "body"),
    [("openai", "", b'{"error": {"code": "invalid_api_key"}}'), ("openai", "work", b"[not json")],
)
def test_three_refusals_in_a_row_disable_that_key_alone(validating, provider, database, ada, name, label, body):
    others = [("anthropic", ""), ("deepl", ""), ("openai", "other")]
    for each in [(name, label), *others]:
        validating.set(ada, each[0], KEY, each[1])
    provider.status, provider.body = 401, body
    for refusals in (1, 2):
        assert validating.validate(ada, name, label) == Check(False, "HTTP 401")
        assert state(validating, ada, name, label).validation["refusals"] == refusals
    provider.status = 200
    validating.validate(ada, name, label)
    provider.status = 401
    for _ in range(2):
        validating.validate(ada, name, label)
        assert state(validating, ada, name, label).is_active
    validating.validate(ada, name, label)
    assert not state(validating, ada, name, label).is_active
    assert validating.get(ada, name, label) is None
    assert all(state(validating, ada, *each).is_active for each in others)
    assert validating.get(ada, "anthropic").reveal() == KEY
    actions = [
        (row.action, row.metadata["provider"])
        for row in database.run("select * from public.user_profile_audit_logs where action = 'key_disabled'")
    ]
    assert actions == [("key_disabled", name)]
    # A new key begins anew.
    validating.set(ada, name, "another key of the same user", label)
    found = state(validating, ada, name, label)
    assert (found.is_active, dict(found.validation)) == (True, {})


@ONE_OF_EACH
@pytest.mark.parametrize("name", ["anthropic", "openai", "unsplash"])
@pytest.mark.parametrize(
    ("status", "body"),
    [(403, b""), (401, b'{"error": {"code": "ip_not_authorized"}}'), (403, b'{"error": {"code": "x"}}')],
)
def test_a_key_that_lacks_a_permission_is_not_refused(validating, provider, ada, name, status, body):
    validating.set(ada, name, KEY)
    provider.status, provider.body = status, body
    for _ in range(4):
        assert validating.validate(ada, name) == Check(None, f"HTTP {status}")
    found = state(validating, ada, name)
    assert found.is_active
    assert found.validation["reason"] == f"HTTP {status}"
    assert not found.validation.get("refusals")


@pytest.mark.slow
@ONE_OF_EACH
def test_what_is_no_answer_about_the_key_changes_nothing(validating, provider, ada):
    validating.set(ada, "openai", KEY)
    validating.validate(ada, "openai")
    before = state(validating, ada, "openai").validation
    for provider.status in (500, 503, 429, 404, 302):
        for _ in range(4):
            assert validating.validate(ada, "openai") == Check(None, f"HTTP {provider.status}")
        found = state(validating, ada, "openai")
        assert found.is_active
        assert {name: found.validation[name] for name in ("valid", "checked_at", "refusals")} == {
            name: before[name] for name in ("valid", "checked_at", "refusals")
        }
        assert found.validation["reason"] == f"HTTP {provider.status}"
    assert len(provider.asked) == 21  # no redirect was followed


@ONE_OF_EACH
def test_a_provider_that_cannot_be_reached_disables_nothing_and_the_log_holds_no_key(keys, ada, caplog):
    caplog.set_level(logging.DEBUG)
    service = keys(base_urls={"openai": "http://127.0.0.1:1"})
    # The second is no text that fits into a header.
    for key in (KEY, f"{KEY}\u2028ü"):
        service.set(ada, "openai", key)
        for _ in range(4):
            check = service.validate(ada, "openai")
            assert check.valid is None
        assert state(service, ada, "openai").is_active
    assert "geheim" not in caplog.text
    assert "geheim" not in str(state(service, ada, "openai").validation)


@ONE_OF_EACH
def test_a_validator_of_the_application(keys, ada):
    seen = []
    answers = iter([Check(False, "no credit"), Check(True)])

    def ask(secret):
        seen.append(secret.reveal())
        return next(answers)

    service = keys(validators={"deepl": ask}, disable_after=1)
    assert service.validate(ada, "deepl") is None
    with pytest.raises(InvalidApiKey, match="anthropic, deepl, openai, unsplash"):
        service.validate(ada, "other")
    service.set(ada, "deepl", KEY)
    assert service.validate(ada, "deepl") == Check(False, "no credit")
    assert not state(service, ada, "deepl").is_active
    assert service.validate(ada, "deepl") == Check(True)
    assert not state(service, ada, "deepl").is_active  # only a person, or a new key, enables it
    assert seen == [KEY, KEY]


@ONE_OF_EACH
def test_the_answer_about_a_key_that_was_replaced_meanwhile_is_dropped(keys, database, ada):
    service = keys(validators={"deepl": lambda _: replaced() or Check(False)}, disable_after=1)

    def replaced():
        database.run(
            "update public.user_provider_keys set envelope = :new",
            new=RING.encrypt("the new one", user_id=ada, column=bound_to("deepl", "")),
        )

    service.set(ada, "deepl", KEY)
    service.validate(ada, "deepl")
    found = state(service, ada, "deepl")
    assert (found.is_active, dict(found.validation)) == (True, {})
    assert service.get(ada, "deepl").reveal() == "the new one"
