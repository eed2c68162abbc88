"""ApiKeyService and AsyncApiKeyService: the keys of users at other providers, encrypted, from setting to validation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy.orm import Session, sessionmaker

from profiles_schema.encryption import KeyRing, key_id_of
from profiles_schema.errors import ActingRefused, EncryptionKeyChanged, InvalidApiKey, ServiceError
from profiles_schema.key_providers import KeyProvider, keys_from_environment
from profiles_schema.schema.models.user_provider_keys import LABEL, PROVIDER
from profiles_schema.secret import Secret, hint_of
from profiles_schema.services import api_key_queries as queries
from profiles_schema.services.api_key_queries import ApiKeyInfo, Place, StoredKey
from profiles_schema.services.flows import AsyncDriver, Call, Db, Flow, SyncDriver, is_rolled_back, is_transient, retry
from profiles_schema.services.key_validators import Check, Validator, built_in_validators
from profiles_schema.services.profile_flows import UserId, as_uuid
from profiles_schema.services.refusals import failure, is_from_database, refusal_to_create
from profiles_schema.settings import RECORDED_BY_MISTAKE

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

T = TypeVar("T")

REFUSALS: Final = 3
"""So many definite refusals of its provider, one after the other, disable a key."""


class ApiKeyFlows:
    """What an API key service does; a driver runs it."""

    def __init__(self, keys: KeyProvider | None, validators: Mapping[str, Validator], disable_after: int) -> None:
        self._keys = keys if keys is not None else keys_from_environment()
        self.validators = dict(validators)
        self._disable_after = disable_after
        self._checked: set[tuple[str, str]] = set()
        """Keys of the ring, by id and check value, that the database knows as such."""

    def set(self, user_id: UserId, provider: str, key: str | Secret, label: str) -> Flow[ApiKeyInfo]:
        place = _place(user_id, provider, label)
        plain = key.reveal() if isinstance(key, Secret) else key
        if not plain or plain != plain.strip():
            raise InvalidApiKey(fields={"key": ["is not empty, and has no blanks at its ends"]})
        ring = self._keys.ring()
        yield from self._check_ring(ring, ring.ids[0])
        envelope = ring.encrypt(plain, user_id=place.user_id, column=place.binding)
        hint = hint_of(plain)
        return (yield from _once(lambda session: queries.store(session, place, envelope, hint)))

    def get(self, user_id: UserId, provider: str, label: str) -> Flow[Secret | None]:
        place = _place(user_id, provider, label)
        return (yield from self._use(place, lambda key: key.place == place))

    def resolve(self, user_id: UserId, provider: str, label: str, fallback: str | Secret | None) -> Flow[Secret | None]:
        found = yield from self._use(_place(user_id, provider, label), lambda _: True)
        if found is not None:
            return found
        return Secret(fallback) if isinstance(fallback, str) else fallback

    def delete(self, user_id: UserId, provider: str, label: str) -> Flow[bool]:
        place = _place(user_id, provider, label)
        return (yield from _once(lambda session: queries.delete(session, place)))

    def list(self, user_id: UserId) -> Flow[list[ApiKeyInfo]]:
        user = as_uuid(user_id)
        return (yield from _again(lambda session: queries.read_all(session, user)))

    def validate(self, user_id: UserId, provider: str, label: str) -> Flow[Check | None]:
        place = _place(user_id, provider, label)
        validator = self.validators.get(provider)
        if validator is None:
            known = ", ".join(sorted(self.validators))
            raise InvalidApiKey(fields={"provider": [f"has a validator; there are those of {known}"]})
        stored = yield from _again(lambda session: queries.read(session, place))
        if stored is None:
            return None
        secret = yield from self._open(stored)
        check: Check = yield Call(lambda: validator(secret))
        validation = _judged(stored.validation, check)
        refusals = validation.get("refusals", 0)
        disable = check.valid is False and refusals >= self._disable_after
        if disable and place.column:
            validation["disabled"] = True
        yield from _once(
            lambda session: queries.judge(
                session, stored, validation, definite=check.valid is not None, disable=disable
            )
        )
        return check

    def _use(self, place: Place, fits: Callable[[StoredKey], bool]) -> Flow[Secret | None]:
        """The first active key that fits, and a note that it is used."""

        def find(session: Session) -> StoredKey | None:
            return next(filter(fits, filter(lambda key: key.is_active, queries.read_provider(session, place))), None)

        stored = yield from _again(find)
        if stored is None:
            return None
        secret = yield from self._open(stored)
        yield from _again(lambda session: queries.record_use(session, stored.place))
        return secret

    def _open(self, stored: StoredKey) -> Flow[Secret]:
        ring = self._keys.ring()
        key_id = key_id_of(stored.envelope)
        if key_id in ring.ids:
            yield from self._check_ring(ring, key_id)
        return Secret(ring.decrypt(stored.envelope, user_id=stored.place.user_id, column=stored.place.binding))

    def _check_ring(self, ring: KeyRing, key_id: str) -> Flow[None]:
        """Refuse a key that is another one than was first used under its id; asks the database once per key."""
        known = (key_id, ring.check_values[key_id])
        if known in self._checked:
            return
        answer = yield from _again(lambda session: queries.check_key(session, *known))
        if answer == "new":
            # A user's role may not record it. Where the login may become service_role, that does.
            try:
                answer = yield Db(lambda session: queries.record_key(session, *known))
            except Exception as error:
                if not isinstance(error, ActingRefused) and not is_from_database(error):
                    raise
        if answer == "other":
            raise EncryptionKeyChanged(
                f'The key "{key_id}" of the ring is another one than was first used under this id. Nothing was read or'
                f" written. Put the former one back, and give the new one an id of its own. {RECORDED_BY_MISTAKE}"
            )
        if answer == "same":
            self._checked.add(known)


def _place(user_id: UserId, provider: str, label: str) -> Place:
    fields = {}
    if not re.fullmatch(PROVIDER.strip("^$"), provider):
        fields["provider"] = ["is a name of 1 to 63 of a-z, 0-9, _, . and -, and begins with a letter or a digit"]
    if not re.fullmatch(LABEL.removeprefix("^").removesuffix("$"), label):
        fields["label"] = ["has at most 64 characters, none of them a control character"]
    if fields:
        raise InvalidApiKey(fields=fields)
    return Place(as_uuid(user_id), provider, label)


def _judged(before: Mapping[str, Any], check: Check) -> dict[str, Any]:
    """The validation to keep. What is not definite says only that it was tried: what was known holds."""
    now = datetime.now(tz=UTC).isoformat(timespec="seconds")
    if check.valid is None:
        return {**before, "tried_at": now, "reason": check.reason}
    refusals = 0 if check.valid else before.get("refusals", 0) + 1
    judged = {"valid": check.valid, "checked_at": now, "reason": check.reason, "refusals": refusals}
    return judged | ({"disabled": True} if before.get("disabled") else {})


def _once(work: Callable[[Session], T]) -> Flow[T]:
    """Work that must not be done twice: again only where it is proved that nothing was committed."""
    return (yield from _guarded(work, is_rolled_back))


def _again(work: Callable[[Session], T]) -> Flow[T]:
    """Work that may be done twice."""
    return (yield from _guarded(work, is_transient))


def _guarded(work: Callable[[Session], T], may_retry: Callable[[BaseException], bool]) -> Flow[T]:
    try:
        result: T = yield from retry(Db(work), may_retry)
    except Exception as error:
        if isinstance(error, ServiceError) or not is_from_database(error):
            raise
        raise refusal_to_create(error) or failure(error) from error
    return result


class ApiKeyService:
    """API keys, by synchronous sessions: of service_role, or acting for a user, who then reaches their own keys alone.

    The keys of ``openai``, ``anthropic`` and ``unsplash`` without a label are those of ``user_api_keys``; all others are in
    ``user_provider_keys``.

    Args:
        session_factory: Sessions of the primary.
        keys: The key ring, or what gives it; by default what the environment names (``keys_from_environment``).
        validators: Functions that ask a provider whether it takes a key, by the name of the provider; they win over those
            built in (openai, anthropic and unsplash, with extra ``validate``).
        base_urls: Other addresses for the validators built in, by the name of the provider.
        disable_after: So many definite refusals of its provider, one after the other, disable a key.

    Raises:
        InvalidKeyRing: the environment names no ring, or a wrong one.
    """

    def __init__(
        self,
        session_factory: sessionmaker[Session],
        keys: KeyProvider | None = None,
        *,
        validators: Mapping[str, Validator] | None = None,
        base_urls: Mapping[str, str] | None = None,
        disable_after: int = REFUSALS,
    ) -> None:
        known = {**built_in_validators(base_urls or {}), **(validators or {})}
        self._flows = ApiKeyFlows(keys, known, disable_after)
        self._run = SyncDriver(session_factory, None).run

    def set(self, user_id: UserId, provider: str, key: str | Secret, label: str = "") -> ApiKeyInfo:
        """Store a key, or replace the one there is: what was known of that one (validation, disabled) goes with it.

        Raises:
            InvalidApiKey: names what is wrong with provider, label or key.
            TextNotEncryptable: the key is too long.
            EncryptionKeyChanged: the ring has another key under the id that encrypts than before. Nothing was written.
            ProfileNotFound: there is no such user.
            NotAllowed: the role may not do this for this user.
            ServiceFailed: the database failed.
        """
        return self._run(self._flows.set(user_id, provider, key, label))

    def get(self, user_id: UserId, provider: str, label: str = "") -> Secret | None:
        """A key to use; None where there is none, or it is disabled.

        Raises:
            UnknownEncryptionKey: the key that encrypted it is not in the ring.
            EncryptionKeyChanged: the ring has another key under that id than before.
            DamagedEnvelope: it is truncated, was changed, or belongs to another user or provider (CiphertextMismatch).
            NotAnEnvelope: what is stored is not our ciphertext.
            InvalidApiKey, NotAllowed, ServiceFailed: as ``set``.
        """
        return self._run(self._flows.get(user_id, provider, label))

    def resolve(
        self, user_id: UserId, provider: str, label: str = "", *, fallback: str | Secret | None = None
    ) -> Secret | None:
        """The key to use for a user: that of the label, else another active one of the provider, else the fallback.

        A key that cannot be decrypted is an error, and never replaced by the fallback, which the application pays.

        Raises:
            As ``get``.
        """
        return self._run(self._flows.resolve(user_id, provider, label, fallback))

    def delete(self, user_id: UserId, provider: str, label: str = "") -> bool:
        """Delete a key; returns whether there was one. Raises InvalidApiKey, NotAllowed, ServiceFailed."""
        return self._run(self._flows.delete(user_id, provider, label))

    def list(self, user_id: UserId) -> list[ApiKeyInfo]:
        """The keys of a user, with their hints; needs no key ring. Raises NotAllowed, ServiceFailed."""
        return self._run(self._flows.list(user_id))

    def validate(self, user_id: UserId, provider: str, label: str = "") -> Check | None:
        """Ask the provider whether it takes a key, and keep the answer; None where there is no key. For service_role.

        After ``disable_after`` definite refusals in a row (HTTP 401) the key is disabled, and no other. An answer that
        says nothing about the key (no connection, 403, 5xx, 429) changes nothing but ``tried_at`` and ``reason``.

        Raises:
            As ``get``; InvalidApiKey too where the provider has no validator.
        """
        return self._run(self._flows.validate(user_id, provider, label))


class AsyncApiKeyService:
    """API keys, by asynchronous sessions: arguments, methods and errors are those of ApiKeyService.

    Validators may be asynchronous.
    """

    def __init__(
        self,
        session_factory: async_sessionmaker[AsyncSession],
        keys: KeyProvider | None = None,
        *,
        validators: Mapping[str, Validator] | None = None,
        base_urls: Mapping[str, str] | None = None,
        disable_after: int = REFUSALS,
    ) -> None:
        known = {**built_in_validators(base_urls or {}, asynchronous=True), **(validators or {})}
        self._flows = ApiKeyFlows(keys, known, disable_after)
        self._run = AsyncDriver(session_factory, None).run

    async def set(self, user_id: UserId, provider: str, key: str | Secret, label: str = "") -> ApiKeyInfo:
        """As ApiKeyService.set."""
        return await self._run(self._flows.set(user_id, provider, key, label))

    async def get(self, user_id: UserId, provider: str, label: str = "") -> Secret | None:
        """As ApiKeyService.get."""
        return await self._run(self._flows.get(user_id, provider, label))

    async def resolve(
        self, user_id: UserId, provider: str, label: str = "", *, fallback: str | Secret | None = None
    ) -> Secret | None:
        """As ApiKeyService.resolve."""
        return await self._run(self._flows.resolve(user_id, provider, label, fallback))

    async def delete(self, user_id: UserId, provider: str, label: str = "") -> bool:
        """As ApiKeyService.delete."""
        return await self._run(self._flows.delete(user_id, provider, label))

    async def list(self, user_id: UserId) -> list[ApiKeyInfo]:
        """As ApiKeyService.list."""
        return await self._run(self._flows.list(user_id))

    async def validate(self, user_id: UserId, provider: str, label: str = "") -> Check | None:
        """As ApiKeyService.validate."""
        return await self._run(self._flows.validate(user_id, provider, label))
