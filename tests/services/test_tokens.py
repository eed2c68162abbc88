"""TokenVerifier: which access tokens prove a user, which do not, and how often the auth server is asked for its keys."""

import asyncio
import base64
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from profiles_schema.errors import TokenKeysUnavailable, TokenRefused, UsageError
from profiles_schema.fastapi import TokenVerifier
from support import wait_until
from support.auth_server import SECRET, AuthServer, SigningKey

ADA = uuid.UUID("3a13309b-1f04-42c4-b11e-55d56b30ac36")


@pytest.fixture(scope="module")
def rs256():
    return SigningKey("key-rsa", "RS256")


@pytest.fixture
def auth():
    with AuthServer() as running:
        yield running


@pytest.fixture(params=["verify", "verify_async"])
def verify(request):
    """Verifies by either of the two methods."""

    def call(verifier, token):
        if request.param == "verify":
            return verifier.verify(token)
        return asyncio.run(verifier.verify_async(token))

    return call


def refusal(verifier, token):
    with pytest.raises(TokenRefused) as refused:
        verifier.verify(token)
    if len(token) > 20:
        assert token not in str(refused.value)
    return refused.value.reason


def segment(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def by_hand(header, claims, signature=b""):
    signed = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    return f"{segment(header)}.{segment(claims)}.{signed}"


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
def test_a_token_of_the_auth_server_proves_its_user(auth, verify, algorithm, rs256):
    key = rs256 if algorithm == "RS256" else SigningKey("key-2", algorithm)
    auth.keys.append(key.jwk)
    claims = auth.claims(ADA, app_metadata={"team": "red"}, aal="aal2")
    user = verify(TokenVerifier.of_supabase(auth.url), key.sign(claims))
    assert (user.id, user.role, user.expires_at.timestamp()) == (ADA, "authenticated", claims["exp"])
    assert user.claims["app_metadata"] == {"team": "red"}
    assert "red" not in repr(user)


def test_a_token_of_the_older_kind_is_verified_by_the_secret(auth, verify):
    older = jwt.encode(auth.claims(ADA), SECRET, "HS256")
    assert verify(TokenVerifier(auth.issuer, secret=SECRET), older).id == ADA
    both = TokenVerifier.of_supabase(auth.url, secret=SECRET)
    assert (verify(both, older).id, auth.fetches) == (ADA, 0)
    assert verify(both, auth.token(ADA)).id == ADA


def test_an_anonymous_role_stays_one(auth):
    assert TokenVerifier.of_supabase(auth.url).verify(auth.token(role="anon")).role == "anon"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": int(time.time()) - 60}, "expired"),
        ({"exp": None}, "claim missing"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": True}, "expired"),
        ({"exp": [9999999999]}, "malformed"),
        ({"exp": float("inf")}, "malformed"),
        ({"exp": 10**30}, "malformed"),
        ({"nbf": int(time.time()) + 600}, "not yet valid"),
        ({"iat": int(time.time()) + 600}, "not yet valid"),
        ({"aud": "anon"}, "audience"),
        ({"aud": ["other", "more"]}, "audience"),
        ({"aud": {"authenticated": 1}}, "audience"),
        ({"aud": None}, "claim missing"),
        ({"iss": "https://evil.example/auth/v1"}, "issuer"),
        ({"iss": None}, "claim missing"),
        ({"sub": None}, "claim missing"),
        ({"sub": "ada"}, "subject"),
        ({"sub": ""}, "subject"),
        ({"sub": 17}, "subject"),
        ({"sub": [str(ADA)]}, "subject"),
        ({"sub": {"id": str(ADA)}}, "subject"),
        ({"sub": ADA.hex}, "subject"),
        ({"sub": f"{{{ADA}}}"}, "subject"),
        ({"sub": f"urn:uuid:{ADA}"}, "subject"),
        ({"sub": f"{ADA}' or true --"}, "subject"),
        ({"role": None}, "role"),
        ({"role": "service_role"}, "role"),
        ({"role": "postgres"}, "role"),
        ({"role": "none"}, "role"),
        ({"role": "AUTHENTICATED"}, "role"),
        ({"role": ["authenticated"]}, "role"),
    ],
)
def test_a_signed_token_with_other_claims_is_refused(auth, changes, reason):
    assert refusal(TokenVerifier.of_supabase(auth.url), auth.token(**changes)) == reason


def forged_tokens(auth, stranger, rs256):
    """Tokens that anybody can make, by what is tried."""
    claims = auth.claims(ADA)
    public = auth.key.private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    good = auth.key.sign(claims)
    head, body, signature = good.split(".")
    hs256 = {"alg": "HS256", "typ": "JWT", "kid": auth.key.id}

    def mac(key, header=hs256):
        signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        unsigned = f"{segment(header)}.{segment(claims)}"
        return by_hand(header, claims, signer.sign(unsigned.encode(), key))

    yield "no signature, none", by_hand({"alg": "none", "kid": auth.key.id}, claims)
    yield "no signature, nOnE", by_hand({"alg": "nOnE", "kid": auth.key.id}, claims)
    yield "no signature, the right algorithm", by_hand({"alg": "ES256", "kid": auth.key.id}, claims)
    yield "signature cut off", f"{head}.{body}."
    yield "signature of zeros", by_hand({"alg": "ES256", "kid": auth.key.id}, claims, bytes(64))
    yield "another body", f"{head}.{segment({**claims, 'sub': str(uuid.uuid4())})}.{signature}"
    yield "HS256 with the public key as PEM", mac(pem)
    yield "HS256 with the public key as JWK", mac(json.dumps(auth.key.jwk).encode())
    yield "HS256 with an empty secret", mac(b"")
    yield "HS256 without a key id", mac(pem, {"alg": "HS256"})
    yield "HS384 with the secret", jwt.encode(claims, SECRET * 2, "HS384", {"kid": auth.key.id})
    yield "another key under the id", stranger.sign(claims, kid=auth.key.id)
    yield "another key under no id", jwt.encode(claims, stranger.private, "ES256")
    yield (
        "a key of another kind under the id",
        jwt.encode(claims, rsa.generate_private_key(65537, 2048), "RS256", {"kid": auth.key.id}),
    )
    yield "another algorithm of the key", jwt.encode(claims, rs256.private, "RS512", {"kid": rs256.id})
    yield "another padding of the key", jwt.encode(claims, rs256.private, "PS256", {"kid": rs256.id})
    yield "another curve", jwt.encode(claims, ec.generate_private_key(ec.SECP384R1()), "ES384", {"kid": auth.key.id})
    yield "its own key in the header", stranger.sign(claims, kid=auth.key.id, jwk=stranger.jwk)
    yield "a key elsewhere", stranger.sign(claims, jku=f"{auth.url}/evil", x5u=f"{auth.url}/evil", kid="evil")
    for kid in ("../../../../dev/null", "key-1' union select 'x", f"{auth.url}/evil", "\x00", "x" * 5000, "__class__"):
        yield f"key id {kid[:20]!r}", stranger.sign(claims, kid=kid)
    for kid in (17, None, ["key-1"], {"key-1": 1}):
        yield f"key id {kid!r}", by_hand({"alg": "ES256", "kid": kid}, claims, bytes(64))
    yield "what must be understood", auth.key.sign(claims, crit=["b64"], b64=True)
    yield (
        "a detached body",
        by_hand({"alg": "ES256", "kid": auth.key.id, "b64": False, "crit": ["b64"]}, claims, bytes(64)),
    )
    yield "algorithm of another type", by_hand({"alg": ["ES256"], "kid": auth.key.id}, claims, bytes(64))
    yield "no algorithm", by_hand({"kid": auth.key.id}, claims, bytes(64))
    for text in (
        "",
        ".",
        "..",
        "a.b.c",
        "null.null.null",
        good.replace(".", ""),
        good + "." + good,
        good * 60,
        "\ud800.a.b",
    ):
        yield f"text {text[:10]!r}", text
    nested = base64.urlsafe_b64encode(b"[" * 5000).decode()
    yield "a header of brackets", f"{nested}.{nested}.{nested}"
    yield "claims that are a list", by_hand({"alg": "ES256", "kid": auth.key.id}, [claims], bytes(64))


def test_no_forged_token_is_accepted(auth, rs256):
    auth.keys.append(rs256.jwk)
    stranger = SigningKey("evil")
    verifiers = {
        "keys": TokenVerifier.of_supabase(auth.url),
        "keys and secret": TokenVerifier.of_supabase(auth.url, secret=SECRET),
        "secret": TokenVerifier(auth.issuer, secret=SECRET),
    }
    tried = list(forged_tokens(auth, stranger, rs256))
    assert len(tried) > 35
    for name, verifier in verifiers.items():
        for what, token in tried:
            assert refusal(verifier, token), (name, what)
    # Two verifiers fetched the keys, once each: ids that were made up caused no further fetch, and nothing else was read.
    assert auth.fetches == 2


@pytest.mark.parametrize("answers", [True, False])
def test_made_up_key_ids_cause_one_fetch(auth, verify, answers):
    if not answers:
        auth.answer = (500, {}, b"")
    verifier = TokenVerifier.of_supabase(auth.url, cooldown_seconds=0.5)
    stranger = SigningKey("evil")
    for number in range(20):
        with pytest.raises(TokenRefused if answers else TokenKeysUnavailable):
            verify(verifier, stranger.sign(auth.claims(), kid=f"made up {number}"))
    assert auth.fetches == 1
    time.sleep(0.5)
    for number in range(20):
        with pytest.raises(TokenRefused if answers else TokenKeysUnavailable):
            verify(verifier, stranger.sign(auth.claims(), kid=f"more {number}"))
    assert auth.fetches == 2


def test_requests_that_come_together_wait_for_one_fetch(auth):
    auth.delay_seconds = 0.3
    tokens = [auth.token(ADA) for _ in range(30)]

    async def together(verifier):
        waiting = [asyncio.create_task(verifier.verify_async(token)) for token in tokens]
        await asyncio.sleep(0.1)
        waiting[0].cancel()  # a client that goes away takes nobody with it
        return await asyncio.gather(*waiting, return_exceptions=True)

    users = asyncio.run(together(TokenVerifier.of_supabase(auth.url)))
    assert isinstance(users[0], asyncio.CancelledError)
    assert [user.id for user in users[1:]] == [ADA] * 29
    assert auth.fetches == 1
    with ThreadPoolExecutor(30) as pool:
        assert {user.id for user in pool.map(TokenVerifier.of_supabase(auth.url).verify, tokens)} == {ADA}
    assert auth.fetches == 2


def test_a_new_key_is_known_after_the_cooldown_and_a_removed_one_gone_after_its_time(auth):
    verifier = TokenVerifier.of_supabase(auth.url, cooldown_seconds=0.3, cache_seconds=1)
    verifier.verify(auth.token())
    old, new = auth.key, SigningKey("key-2")
    auth.keys[:] = [new.jwk]
    assert refusal(verifier, new.sign(auth.claims())) == "unknown key"
    time.sleep(0.3)
    assert verifier.verify(new.sign(auth.claims(ADA))).id == ADA
    assert refusal(verifier, old.sign(auth.claims())) == "unknown key"
    auth.keys[:] = []
    time.sleep(1)
    verifier.verify(new.sign(auth.claims()))  # old keys are good enough while new ones are fetched
    wait_until(lambda: auth.fetches == 3)
    wait_until(lambda: not verifier._keys._keys)
    assert refusal(verifier, new.sign(auth.claims())) == "unknown key"


def test_known_keys_outlast_an_outage_but_not_for_ever(auth, verify, monkeypatch):
    verifier = TokenVerifier.of_supabase(auth.url, cooldown_seconds=0, cache_seconds=0.2)
    token = auth.token(ADA)
    verify(verifier, token)
    auth.answer = (503, {}, b"")
    time.sleep(0.2)
    assert verify(verifier, token).id == ADA
    monkeypatch.setattr("profiles_schema.fastapi.keys._OUTAGE_SECONDS", 0)
    with pytest.raises(TokenKeysUnavailable):
        verify(verifier, token)
    auth.answer = None
    assert verify(verifier, token).id == ADA


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b""),
        (200, {}, b"[" * 100_000),
        (200, {}, b"[]"),
        (200, {}, b'{"keys": 17}'),
        (
            200,
            {},
            b'{"keys": [17, null, {}, {"kid": "key-1", "kty": []}, {"kid": "key-1", "kty": "EC", "crv": "P-256", "x": "!", "y": 17}]}',
        ),
        (200, {}, b"\xff\xfe\xff"),
        (302, {"Location": "/keys"}, b""),
        (404, {}, b"not here"),
    ],
    ids=lambda answer: f"{answer[0]} {answer[2][:8]!r}",
)
def test_whatever_the_address_of_the_keys_answers_proves_nobody(auth, answer):
    auth.answer = answer
    with pytest.raises((TokenRefused, TokenKeysUnavailable)):
        TokenVerifier.of_supabase(auth.url).verify(auth.token())
    assert auth.fetches == 1  # no redirect was followed


def test_an_auth_server_that_cannot_be_reached_refuses_nobody_for_good(verify):
    with AuthServer() as gone:
        token = gone.token()
    with pytest.raises(TokenKeysUnavailable) as unavailable:
        verify(TokenVerifier.of_supabase(gone.url), token)
    assert unavailable.value.status == 503


def test_only_public_keys_for_signatures_are_used(auth, rs256):
    private = RSAAlgorithm.to_jwk(rs256.private, as_dict=True) | {"kid": "private", "alg": "RS256"}
    short = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True) | {"kid": "short"}
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode(), "kid": "secret", "alg": "HS256"}
    confused = {**auth.key.jwk, "kid": "confused", "alg": "HS256"}
    encrypts = {**rs256.jwk, "kid": "encrypts", "use": "enc"}
    auth.keys[:] = [auth.key.jwk, private, short, secret, confused, encrypts]
    verifier = TokenVerifier.of_supabase(auth.url)
    verifier.verify(auth.token())
    assert set(verifier._keys._keys) == {"key-1"}
    assert refusal(verifier, jwt.encode(auth.claims(), SECRET, "HS256", {"kid": "secret"})) == "algorithm"


@pytest.mark.parametrize(
    "options",
    [{}, {"secret": "short"}, {"secret": ""}, {"jwks_url": "file:///etc/passwd"}, {"secret": SECRET, "audience": ""}],
)
def test_settings_that_would_verify_nothing_are_refused(options):
    with pytest.raises(UsageError):
        TokenVerifier("https://project.supabase.co/auth/v1", **options)
