"""Encryption of API keys at rest: AES-256-GCM, under a ring of keys.

An envelope is ``psk1.KEYID.DATA``; DATA is the base64url, unpadded, of nonce, ciphertext and tag. User id and column are
bound to it as associated data: an envelope that was copied to another row or column does not open. In
``user_provider_keys``, provider and label replace the column (``bound_to``).

No key and no plain text leaves this module other than as a result. What an underlying error holds may be either, so none
is chained: errors are raised outside the ``except`` that met them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Never
from uuid import UUID

from profiles_schema.errors import (
    CiphertextMismatch,
    DamagedEnvelope,
    InvalidKeyRing,
    KeyRingMissing,
    NotAnEnvelope,
    TextNotEncryptable,
    UnknownEncryptionKey,
)
from profiles_schema.settings import ENCRYPTION_KEYS, ENVELOPE, ENVELOPE_LIMIT, ENVELOPE_PREFIX

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_LONGEST_ID = 64
_CHECK_BYTES = 8
_ENVELOPE = re.compile(ENVELOPE.strip("^$"))
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Ids stand in every envelope. 32 bytes in base64url or hexadecimal in that place are a key in the wrong place.
_LOOKS_LIKE_A_KEY = re.compile(r"[A-Za-z0-9_-]{43}|[0-9A-Fa-f]{64}")
# An entry that is wrong may be written the wrong way round: what is longer than this is not repeated.
_LONGEST_SHOWN_ID = 20
_SHAPE = "Write it as ID:KEY, a comma between entries; profiles-schema keys generate makes one."

LONGEST_TEXT_BYTES = (ENVELOPE_LIMIT - len(f"{ENVELOPE_PREFIX}.") - _LONGEST_ID) * 3 // 4 - _NONCE_BYTES - _TAG_BYTES
"""What fits into an envelope under an id of any length, so that a later key can always take it over."""


class KeyRing:
    """The keys by id; the first encrypts, all decrypt. Shows ids only, and cannot be pickled."""

    __slots__ = ("_ciphers", "_keys")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Take the keys as bytes.

        Raises:
            InvalidKeyRing: there is none, or one has a bad id or length.
        """
        if not keys:
            raise KeyRingMissing
        for place, (key_id, key) in enumerate(keys.items(), 1):
            _check_id(key_id, _entry(place, key_id))
            _check_key(key, _entry(place, key_id))
        self._keys = dict(keys)
        self._ciphers: dict[str, AESGCM] = {}

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Read ``id:base64key,id:base64key``; blanks round an entry do not matter, nor does the kind of base64.

        Raises:
            InvalidKeyRing: an entry is wrong; the message names it by place and id, never the key.
        """
        if not text.strip():
            raise KeyRingMissing
        keys: dict[str, bytes] = {}
        for place, entry in enumerate(text.split(","), 1):
            key_id, colon, encoded = (part.strip() for part in entry.partition(":"))
            if not key_id and not colon:
                raise InvalidKeyRing(f"{ENCRYPTION_KEYS}: entry {place} is empty. Remove the comma too many.")
            if not colon:
                raise InvalidKeyRing(f"{ENCRYPTION_KEYS}: entry {place} has no colon. {_SHAPE}")
            named = _entry(place, key_id)
            _check_id(key_id, named)
            if key_id in keys:
                raise InvalidKeyRing(
                    f"{ENCRYPTION_KEYS}: {named} has the id of an earlier one. Remove one, or give a key that encrypted"
                    " nothing yet another id."
                )
            key = _decoded(encoded)
            if key is None:
                raise InvalidKeyRing(
                    f"{ENCRYPTION_KEYS}: the key of {named} is not base64. Correct it, or make a new entry:"
                    " profiles-schema keys generate"
                )
            _check_key(key, named)
            keys[key_id] = key
        return cls(keys)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> KeyRing:
        """Read the ring from PROFILES_ENCRYPTION_KEYS.

        Raises:
            KeyRingMissing: the variable is unset or empty.
            InvalidKeyRing: an entry is wrong.
        """
        return cls.parse((os.environ if environ is None else environ).get(ENCRYPTION_KEYS, ""))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, the one that encrypts first."""
        return tuple(self._keys)

    @property
    def check_values(self) -> dict[str, str]:
        """A fingerprint of each key by its id. It tells nothing about the key, and may be stored and shown."""
        return {
            key_id: hmac.new(key, b"profiles-schema: key check value", hashlib.sha256).digest()[:_CHECK_BYTES].hex()
            for key_id, key in self._keys.items()
        }

    def ring(self) -> KeyRing:
        """Itself: a ring is the simplest of key providers."""
        return self

    def encrypt(self, text: str, *, user_id: UUID, column: str) -> str:
        """The envelope of a text, for one user and column, under the first key.

        Raises:
            TextNotEncryptable: it is too long for an envelope, or not Unicode.
        """
        data = _bytes_of(text)
        if data is None or len(data) > LONGEST_TEXT_BYTES:
            raise TextNotEncryptable
        key_id = self.ids[0]
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher(key_id).encrypt(nonce, data, _bound(key_id, user_id, column))
        return f"{ENVELOPE_PREFIX}{key_id}.{_encoded(sealed)}"

    def decrypt(self, envelope: str, *, user_id: UUID, column: str) -> str:
        """The text in an envelope.

        Raises:
            NotAnEnvelope: this is no envelope of ours.
            DamagedEnvelope: it begins like an envelope, and is not a whole one.
            UnknownEncryptionKey: its key is not in the ring.
            CiphertextMismatch: it belongs to another user or column, was changed, or another key has this id now.
        """
        from cryptography.exceptions import InvalidTag

        key_id = key_id_of(envelope)
        sealed = _decoded(envelope.rpartition(".")[2])
        # Base64 with bits to spare has several spellings; one counts, so that no character can be changed unnoticed.
        if sealed is None or _encoded(sealed) != envelope.rpartition(".")[2]:
            raise DamagedEnvelope
        if key_id not in self._keys:
            raise UnknownEncryptionKey(
                f'The key "{key_id}" that encrypted this is not in {ENCRYPTION_KEYS}. Put it back, behind the first.'
            )
        text = None
        try:
            opened = self._cipher(key_id).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound(key_id, user_id, column)
            )
            text = opened.decode("utf-8")
        except (InvalidTag, UnicodeDecodeError):
            pass
        if text is None:
            raise CiphertextMismatch
        return text

    def _cipher(self, key_id: str) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if key_id not in self._ciphers:
            self._ciphers[key_id] = AESGCM(self._keys[key_id])
        return self._ciphers[key_id]

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"

    def __reduce__(self) -> Never:
        raise TypeError("A key ring is not pickled: the keys would be in the pickle.")


def new_entry(key_id: str | None = None) -> str:
    """A new key as an entry of the ring, ``id:base64key``; the default id is made of the day and four random digits.

    Raises:
        InvalidKeyRing: the id cannot be one.
    """
    return f"{new_id(key_id)}:{_encoded(secrets.token_bytes(KEY_BYTES))}"


def new_id(key_id: str | None = None) -> str:
    """An id for a key: the one that is given, or one made of the day and four random digits.

    Raises:
        InvalidKeyRing: it cannot be one.
    """
    if key_id is None:
        key_id = f"k{datetime.now(tz=UTC):%Y%m%d}-{secrets.token_hex(2)}"
    _check_id(key_id, "the new entry")
    return key_id


def bound_to(provider: str, label: str) -> str:
    """What replaces the column for a key of user_provider_keys."""
    # Unambiguous: neither the name of a provider nor that of a column of user_api_keys holds a slash.
    return f"user_provider_keys/{provider}/{label}"


def is_envelope(text: str) -> bool:
    """Whether the CHECKs of the tables admit this text."""
    return len(text) <= ENVELOPE_LIMIT and _ENVELOPE.fullmatch(text) is not None


def key_id_of(envelope: str) -> str:
    """The id of the key that an envelope was made with.

    Raises:
        NotAnEnvelope: this is none.
        DamagedEnvelope: it begins like one.
    """
    if not is_envelope(envelope):
        raise DamagedEnvelope if envelope.startswith(ENVELOPE_PREFIX) else NotAnEnvelope
    return envelope.split(".")[1]


def _bound(key_id: str, user_id: UUID, column: str) -> bytes:
    # Unambiguous: neither id holds a dot, and the column stands last.
    return f"{ENVELOPE_PREFIX}{key_id}.{user_id}.{column}".encode()


def _entry(place: int, key_id: str) -> str:
    return f'entry {place} ("{key_id}")' if 0 < len(key_id) <= _LONGEST_SHOWN_ID else f"entry {place}"


def _check_id(key_id: str, entry: str) -> None:
    if not _ID.fullmatch(key_id):
        raise InvalidKeyRing(
            f"{ENCRYPTION_KEYS}: the id of {entry} must be 1 to {_LONGEST_ID} of A-Z, a-z, 0-9, _ and -. {_SHAPE}"
        )
    if _LOOKS_LIKE_A_KEY.fullmatch(key_id):
        raise InvalidKeyRing(
            f"{ENCRYPTION_KEYS}: the id of {entry} looks like a key. Ids are no secret: they stand in every"
            f" envelope. {_SHAPE}"
        )


def _check_key(key: bytes, entry: str) -> None:
    if len(key) != KEY_BYTES:
        raise InvalidKeyRing(
            f"{ENCRYPTION_KEYS}: the key of {entry} has {len(key)} bytes and must have {KEY_BYTES}. Correct it, or make"
            " a new entry: profiles-schema keys generate"
        )


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decoded(text: str) -> bytes | None:
    """The bytes of base64 of either alphabet, padded or not; None for anything else."""
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except ValueError:
        return None


def _bytes_of(text: str) -> bytes | None:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return None
