"""The public keys that an auth server signs access tokens with: its JWKS, kept in memory."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
import urllib.request
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import jwt

from profiles_schema.errors import TokenKeysUnavailable, UsageError

LOGGER: Final = logging.getLogger("profiles_schema.fastapi")

_ALGORITHMS: Final[dict[tuple[Any, Any], str]] = {
    ("EC", "P-256"): "ES256",
    ("RSA", None): "RS256",
    ("OKP", "Ed25519"): "EdDSA",
}
"""A key verifies one algorithm, by its own type, whatever a token says."""
_FEWEST_RSA_BITS: Final = 2048
_MOST_BYTES: Final = 1 << 20
_OUTAGE_SECONDS: Final = 3600
"""If the auth server does not answer, known keys are used for so much longer."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, and the only algorithm that it verifies."""

    key: Any
    algorithm: str


class KeySet:
    """The keys of one JWKS, by their ids.

    One fetch runs at a time. After it, failed or not, there is none for ``cooldown_seconds``.
    """

    def __init__(self, url: str, cache_seconds: float, cooldown_seconds: float, timeout_seconds: float) -> None:
        if urlsplit(url).scheme not in {"http", "https"}:
            raise UsageError("The address of a JWKS begins with https:// or http://.")
        self._url = url
        self._cache_seconds = cache_seconds
        self._cooldown_seconds = cooldown_seconds
        self._timeout_seconds = timeout_seconds
        self._keys: dict[str, VerificationKey] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._running: Future[None] | None = None
        self._lock = threading.Lock()
        # A redirect would let another server choose the keys.
        self._opener = urllib.request.build_opener(_NoRedirects)

    def pending_fetch(self, key_id: str) -> Future[None] | None:
        """The fetch that ``get`` has to wait for; None if it can answer now.

        It starts a fetch if the key is unknown or old. For an old key there is no need to wait.
        """
        is_known = key_id in self._keys and self._age() < self._cache_seconds + _OUTAGE_SECONDS
        if is_known and self._age() < self._cache_seconds:
            return None
        with self._lock:
            if self._running is None:
                if self._tried_at is not None and time.monotonic() < self._tried_at + self._cooldown_seconds:
                    return None
                self._running = Future()
                threading.Thread(target=self._fetch, args=(self._running,), name="jwks", daemon=True).start()
            return None if is_known else self._running

    def get(self, key_id: str) -> VerificationKey | None:
        """The key of this id; None without one.

        Raises:
            TokenKeysUnavailable: no keys could be fetched, or not for too long.
        """
        if self._age() >= self._cache_seconds + _OUTAGE_SECONDS:
            raise TokenKeysUnavailable
        return self._keys.get(key_id)

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else time.monotonic() - self._fetched_at

    def _fetch(self, running: Future[None]) -> None:
        try:
            request = urllib.request.Request(self._url, headers={"Accept": "application/json"})  # noqa: S310 - see __init__
            with self._opener.open(request, timeout=self._timeout_seconds) as answer:
                found = _read(answer.read(_MOST_BYTES))
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            LOGGER.error(  # noqa: TRY400 - the traceback says nothing more
                "the keys of access tokens cannot be fetched: %s",
                type(error).__name__,
                extra={"event": "keys_unavailable"},
            )
        else:
            self._keys, self._fetched_at = found, time.monotonic()
        finally:
            with self._lock:
                self._tried_at, self._running = time.monotonic(), None
            running.set_result(None)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _read(text: bytes) -> dict[str, VerificationKey]:
    """The keys of a JWKS that verify signatures. Secret and private keys have no place in one, and are left out."""
    document = json.loads(text)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("not a JWKS")  # noqa: TRY004 - it is caught as such
    keys: dict[str, VerificationKey] = {}
    for each in filter(_is_public, listed):
        try:
            algorithm = _ALGORITHMS.get((each["kty"], each.get("crv")))
            if algorithm is None or each.get("alg", algorithm) != algorithm or each.get("use", "sig") != "sig":
                continue
            key: Any = jwt.PyJWK(each, algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if algorithm != "RS256" or key.key_size >= _FEWEST_RSA_BITS:
            keys.setdefault(each["kid"], VerificationKey(key, algorithm))
    return keys


def _is_public(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("kid"), str) and "d" not in entry
