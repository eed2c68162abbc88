"""Access tokens of Supabase: who has signed in, proved by a signature."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import jwt
from jwt.exceptions import InvalidSubjectError

from profiles_schema.errors import TokenRefused, UsageError
from profiles_schema.fastapi.keys import KeySet

_LONGEST_TOKEN: Final = 16_384
_SHORTEST_SECRET_BYTES: Final = 32
_ROLES: Final = ("authenticated", "anon")
_REASONS: Final[tuple[tuple[type[jwt.PyJWTError], str], ...]] = (
    (jwt.ExpiredSignatureError, "expired"),
    (jwt.ImmatureSignatureError, "not yet valid"),
    (jwt.InvalidAudienceError, "audience"),
    (jwt.InvalidIssuerError, "issuer"),
    (jwt.MissingRequiredClaimError, "claim missing"),
    (InvalidSubjectError, "subject"),
    (jwt.InvalidSignatureError, "signature"),
    (jwt.InvalidAlgorithmError, "algorithm"),
)


@dataclass(frozen=True, slots=True)
class CurrentUser:
    """Who sends the request.

    Attributes:
        id: The user, as ``auth.uid()`` returns it.
        role: authenticated or anon; no token makes it service_role.
        claims: All claims of the token, for ``auth.jwt()``.
        expires_at: When the token ends. What lasts longer than a request (a websocket) has to look.
    """

    id: uuid.UUID
    role: str
    claims: Mapping[str, Any] = field(repr=False)
    expires_at: datetime


class TokenVerifier:
    """Verifies access tokens: by the auth server's public keys (JWKS), by its older shared secret (HS256), or by either.

    A token of HS256 is verified by the secret alone, and every other one by the public key that it names, with the one
    algorithm of that key. A token must have ``exp``, ``sub`` (a uuid), ``iss``, ``aud`` and a ``role`` that users have.

    Args:
        issuer: What ``iss`` has to be.
        jwks_url: Where the public keys are.
        secret: The shared secret, at least 32 bytes.
        audience: What ``aud`` has to be, or to contain.
        leeway_seconds: How much the clocks of the two servers may differ.
        cache_seconds: After this time the keys are fetched again, while requests go on with those that are known.
        cooldown_seconds: The pause after a fetch, so that tokens with made-up key ids cause no flood of them. A new key of
            the auth server is known after at most this time.
        timeout_seconds: How long a fetch may wait for the auth server.

    Raises:
        UsageError: there is neither an address of keys nor a secret, or the secret is too short.
    """

    def __init__(
        self,
        issuer: str,
        *,
        jwks_url: str | None = None,
        secret: str | None = None,
        audience: str = "authenticated",
        leeway_seconds: float = 10,
        cache_seconds: float = 600,
        cooldown_seconds: float = 30,
        timeout_seconds: float = 5,
    ) -> None:
        if jwks_url is None and secret is None:
            raise UsageError("Tokens are verified by public keys or by a secret. Give jwks_url or secret.")
        if not issuer or not audience:
            raise UsageError("Tokens of any issuer or audience would be accepted. Give both.")
        if secret is not None and len(secret.encode()) < _SHORTEST_SECRET_BYTES:
            raise UsageError(f"The secret is shorter than {_SHORTEST_SECRET_BYTES} bytes, so it could be guessed.")
        self._issuer = issuer
        self._audience = audience
        self._secret = secret
        self._leeway_seconds = leeway_seconds
        self._keys = None if jwks_url is None else KeySet(jwks_url, cache_seconds, cooldown_seconds, timeout_seconds)

    @classmethod
    def of_supabase(cls, url: str, **options: Any) -> TokenVerifier:
        """The verifier of a Supabase project, by its address. With ``secret``, tokens of its older kind pass, too."""
        auth = f"{url.rstrip('/')}/auth/v1"
        return cls(auth, **{"jwks_url": f"{auth}/.well-known/jwks.json", **options})

    def verify(self, token: str) -> CurrentUser:
        """Whose token this is. Waits for the auth server's keys, if this one is not known yet.

        Raises:
            TokenRefused: it proves nothing; ``reason`` says why, for the log.
            TokenKeysUnavailable: the keys cannot be fetched.
        """
        header = _header(token)
        if (running := self._pending_fetch(header)) is not None:
            running.result()
        return self._user_of(token, header)

    async def verify_async(self, token: str) -> CurrentUser:
        """As ``verify``, without blocking the event loop."""
        header = _header(token)
        if (running := self._pending_fetch(header)) is not None:
            # Other requests wait for the same fetch, so a cancelled request must not cancel it.
            await asyncio.shield(asyncio.wrap_future(running))
        return self._user_of(token, header)

    def _pending_fetch(self, header: Mapping[str, Any]) -> Future[None] | None:
        if self._keys is None or header["alg"] == "HS256" or not isinstance(header.get("kid"), str):
            return None
        return self._keys.pending_fetch(header["kid"])

    def _user_of(self, token: str, header: Mapping[str, Any]) -> CurrentUser:
        key, algorithm = self._key(header)
        try:
            claims = jwt.decode(
                token, key, algorithms=[algorithm], audience=self._audience, issuer=self._issuer, leeway=self._leeway_seconds,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )  # fmt: skip
            expires_at = datetime.fromtimestamp(int(claims["exp"]), UTC)
        except jwt.PyJWTError as error:
            raise TokenRefused(
                reason=next((r for kind, r in _REASONS if isinstance(error, kind)), "malformed")
            ) from None
        except Exception:  # noqa: BLE001 - any failure means that nothing is verified
            raise TokenRefused(reason="malformed") from None
        if claims.get("role") not in _ROLES:
            raise TokenRefused(reason="role")
        return CurrentUser(_user_id(claims["sub"]), claims["role"], claims, expires_at)

    def _key(self, header: Mapping[str, Any]) -> tuple[Any, str]:
        if header["alg"] == "HS256":
            if self._secret is None:
                raise TokenRefused(reason="algorithm")
            return self._secret, "HS256"
        if self._keys is None:
            raise TokenRefused(reason="algorithm")
        if not isinstance(header.get("kid"), str):
            raise TokenRefused(reason="unknown key")
        found = self._keys.get(header["kid"])
        if found is None:
            raise TokenRefused(reason="unknown key")
        return found.key, found.algorithm


def _header(token: str) -> Mapping[str, Any]:
    """The header. No signature is verified yet, so it may only choose one of our keys."""
    if len(token) > _LONGEST_TOKEN:
        raise TokenRefused(reason="malformed")
    try:
        header = jwt.get_unverified_header(token)
    except Exception:  # noqa: BLE001 - any failure means that it is no token
        raise TokenRefused(reason="malformed") from None
    if "crit" in header or not isinstance(header.get("alg"), str):
        raise TokenRefused(reason="malformed")
    return header


def _user_id(subject: Any) -> uuid.UUID:
    try:
        user_id = uuid.UUID(subject)
    except (ValueError, AttributeError, TypeError):
        raise TokenRefused(reason="subject") from None
    # uuid.UUID reads braces, prefixes and digits without hyphens as well.
    if str(user_id) != subject.lower():
        raise TokenRefused(reason="subject")
    return user_id
