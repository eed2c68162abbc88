"""Ask a provider whether it takes an API key: OpenAI, Anthropic and Unsplash, by httpx (extra ``validate``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from profiles_schema.errors import ProfilesSchemaError
from profiles_schema.secret import Secret

SECONDS: Final = 10.0
# 403 is no refusal: it comes for a permission that the key lacks, a country or a limit, and the key may be good.
_REFUSED: Final = 401
_INVALID_KEY: Final = "invalid_api_key"


@dataclass(frozen=True, slots=True)
class Check:
    """What a provider says of a key.

    Attributes:
        valid: Whether it takes the key; None where the answer says nothing about that.
        reason: Why not, in words that do not repeat the key.
    """

    valid: bool | None
    reason: str | None = None


Validator = Callable[[Secret], Check | Awaitable[Check]]
"""Asks a provider about a key; asynchronous for AsyncApiKeyService."""


@dataclass(frozen=True, slots=True)
class Request:
    """The request that a provider refuses without a valid key, and that costs nothing."""

    base_url: str
    path: str
    header: str
    form: str = "{}"
    others: Mapping[str, str] | None = None

    def headers(self, secret: Secret) -> dict[str, str]:
        """The headers, with the key."""
        return {self.header: self.form.format(secret.reveal()), **(self.others or {})}


PROVIDERS: Final[Mapping[str, Request]] = {
    "anthropic": Request(
        "https://api.anthropic.com", "/v1/models", "x-api-key", others={"anthropic-version": "2023-06-01"}
    ),
    "openai": Request("https://api.openai.com", "/v1/models", "authorization", "Bearer {}"),
    "unsplash": Request("https://api.unsplash.com", "/photos?per_page=1", "authorization", "Client-ID {}"),
}
"""The providers whose keys can be validated without a function of the application."""


def built_in_validators(base_urls: Mapping[str, str], *, asynchronous: bool = False) -> dict[str, Validator]:
    """A validator for each of PROVIDERS, at other addresses where they are given."""
    make = _asynchronous if asynchronous else _synchronous
    return {
        name: make(request, base_urls.get(name, request.base_url).rstrip("/") + request.path)
        for name, request in PROVIDERS.items()
    }


def _synchronous(request: Request, url: str) -> Validator:
    def ask(secret: Secret) -> Check:
        httpx = _httpx()
        try:
            with httpx.Client(timeout=SECONDS) as client:
                return _judged(client.get(url, headers=request.headers(secret)))
        except Exception as error:  # noqa: BLE001 - the text of any of them may hold the header
            return _failed(error)

    return ask


def _asynchronous(request: Request, url: str) -> Validator:
    async def ask(secret: Secret) -> Check:
        httpx = _httpx()
        try:
            async with httpx.AsyncClient(timeout=SECONDS) as client:
                return _judged(await client.get(url, headers=request.headers(secret)))
        except Exception as error:  # noqa: BLE001 - the text of any of them may hold the header
            return _failed(error)

    return ask


def _failed(error: Exception) -> Check:
    return Check(None, type(error).__name__)


def _judged(response: Any) -> Check:
    status: int = response.status_code
    # Redirects are not followed: the key would go where they lead.
    if 200 <= status < 300:  # noqa: PLR2004
        return Check(True)
    code = _error_code(response)
    if status == _REFUSED and code in {None, _INVALID_KEY}:
        return Check(False, f"HTTP {status}")
    return Check(None, f"HTTP {status}")


def _error_code(response: Any) -> str | None:
    """What OpenAI says in `error.code`: its 401 is also for a good key from another network or organization."""
    try:
        code = response.json()["error"]["code"]
    except Exception:  # noqa: BLE001 - it may be anything
        return None
    return code if isinstance(code, str) else None


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise ProfilesSchemaError(
            "Validating keys needs httpx. Install it: pip install 'profiles-schema[validate]'"
        ) from None
    return httpx
