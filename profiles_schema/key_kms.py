"""A key ring whose keys AWS KMS has encrypted (extra ``kms``): what is in the configuration opens nothing by itself."""

from __future__ import annotations

import base64
import threading
from contextlib import suppress
from typing import Any

from profiles_schema.encryption import KeyRing, new_id
from profiles_schema.errors import InvalidKeyRing, KeyServiceFailed
from profiles_schema.settings import ENCRYPTION_KMS_KEYS

_CONTEXT = "profiles-schema"


class KmsKeys:
    """The ring in ``id:base64ciphertext,...``. KMS decrypts it when it is asked for first; then it is kept in memory.

    The id of a key is its encryption context: a ciphertext does not open under another id.

    Args:
        text: The entries; ``profiles-schema keys generate --kms KEY`` makes one.
        client: A boto3 client of KMS; by default one is made from the options.
        options: Of ``boto3.client("kms", ...)``.
    """

    def __init__(self, text: str, *, client: Any = None, **options: Any) -> None:
        self._client = client if client is not None else _client(**options)
        self._wrapped = _entries(text)
        self._lock = threading.Lock()
        self._ring: KeyRing | None = None

    def ring(self) -> KeyRing:
        """The ring.

        Raises:
            KeyServiceFailed: KMS did not answer, or refused; the next call asks again.
            InvalidKeyRing: what it decrypted is no key.
        """
        with self._lock:
            if self._ring is None:
                self._ring = KeyRing({key_id: self._unwrap(key_id, data) for key_id, data in self._wrapped.items()})
            return self._ring

    def _unwrap(self, key_id: str, data: bytes) -> bytes:
        problem = ""
        try:
            answer = self._client.decrypt(CiphertextBlob=data, EncryptionContext={_CONTEXT: key_id})
            return bytes(answer["Plaintext"])
        except Exception as error:  # noqa: BLE001 - botocore makes its classes of errors at run time
            problem = _reason(error)
        # Out here, so that nothing is chained that holds what was sent.
        raise KeyServiceFailed(f'KMS did not decrypt the key "{key_id}" ({problem}).')


def new_wrapped_entry(master_key: str, key_id: str | None = None, *, client: Any = None, **options: Any) -> str:
    """A new key as an entry ``id:base64ciphertext``, made and encrypted by KMS under a key of its own.

    Raises:
        InvalidKeyRing: the id cannot be one.
        KeyServiceFailed: KMS did not answer, or refused.
    """
    key_id = new_id(key_id)
    client = client if client is not None else _client(**options)
    problem = ""
    try:
        answer = client.generate_data_key_without_plaintext(
            KeyId=master_key, KeySpec="AES_256", EncryptionContext={_CONTEXT: key_id}
        )
        return f"{key_id}:{base64.b64encode(answer['CiphertextBlob']).decode('ascii')}"
    except Exception as error:  # noqa: BLE001 - botocore makes its classes of errors at run time
        problem = _reason(error)
    raise KeyServiceFailed(f"KMS made no key under {master_key} ({problem}).")


def _client(**options: Any) -> Any:
    try:
        import boto3
    except ImportError:
        raise KeyServiceFailed("Keys in KMS need boto3. Install it: pip install 'profiles-schema[kms]'") from None
    return boto3.client("kms", **options)


def _reason(error: Exception) -> str:
    code = getattr(error, "response", {}).get("Error", {}).get("Code")
    return str(code or type(error).__name__)


def _entries(text: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for place, entry in enumerate(text.split(","), 1):
        key_id, colon, encoded = (part.strip() for part in entry.partition(":"))
        data = b""
        with suppress(ValueError):
            data = base64.b64decode(encoded, validate=True)
        if not colon or not data:
            raise InvalidKeyRing(
                f"{ENCRYPTION_KMS_KEYS}: entry {place} is not ID:CIPHERTEXT. Make one: profiles-schema keys generate --kms KEY"
            )
        if key_id in found:
            raise InvalidKeyRing(f"{ENCRYPTION_KMS_KEYS}: entry {place} has the id of an earlier one. Remove one.")
        found[new_id(key_id)] = data
    return found
