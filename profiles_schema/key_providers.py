"""Where the key ring comes from: the environment, a file that is read again when it changes, or what an application writes.

AWS KMS is in ``profiles_schema.key_kms``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from profiles_schema.encryption import KeyRing
from profiles_schema.errors import InvalidKeyRing, KeyRingMissing
from profiles_schema.settings import ENCRYPTION_KEYS, ENCRYPTION_KEYS_FILE, ENCRYPTION_KMS_KEYS

_LOGGER = logging.getLogger("profiles_schema.keys")


class KeyProvider(Protocol):
    """Gives the ring of the moment. It is asked for every key that is read or written, by several threads."""

    def ring(self) -> KeyRing:
        """The ring.

        Raises:
            InvalidKeyRing: there is none.
        """
        ...


class EnvironmentKeys:
    """The ring of PROFILES_ENCRYPTION_KEYS, read once."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._ring = KeyRing.from_environment(environ)

    def ring(self) -> KeyRing:
        """The ring."""
        return self._ring


class FileKeys:
    """The ring in a file, an entry ``id:base64key`` a line or between commas. It is read again when the file changes.

    A file that cannot be read any more, or that is wrong, changes nothing: the last good ring goes on, and the log says so.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the file.

        Raises:
            InvalidKeyRing: it cannot be read, or holds no ring.
        """
        self._path = Path(path)
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._ring = self._read()

    def ring(self) -> KeyRing:
        """The ring that is in the file now."""
        seen = self._signature()
        if seen != self._seen:
            with self._lock:
                if seen != self._seen:
                    try:
                        self._ring = self._read()
                    except InvalidKeyRing as error:
                        _LOGGER.warning("The key ring is as it was before the change of %s: %s", self._path, error)
                    self._seen = seen
        return self._ring

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> KeyRing:
        text = None
        with suppress(OSError, UnicodeDecodeError):
            text = self._path.read_text(encoding="utf-8")
        # Out here, so that nothing is chained that may hold a part of the file.
        if text is None:
            raise InvalidKeyRing(f"The key ring in {self._path} cannot be read. Correct {ENCRYPTION_KEYS_FILE}.")
        return KeyRing.parse(",".join(line.strip().rstrip(",") for line in text.splitlines() if line.strip()))


def keys_from_environment(environ: Mapping[str, str] | None = None) -> KeyProvider:
    """The provider that the environment names: PROFILES_ENCRYPTION_KEYS, _KEYS_FILE or _KMS_KEYS.

    Raises:
        KeyRingMissing: none of them is set.
        InvalidKeyRing: more than one is set, or what it names is wrong.
    """
    environ = os.environ if environ is None else environ
    given = [
        name for name in (ENCRYPTION_KEYS, ENCRYPTION_KEYS_FILE, ENCRYPTION_KMS_KEYS) if environ.get(name, "").strip()
    ]
    if not given:
        raise KeyRingMissing
    if len(given) > 1:
        raise InvalidKeyRing(f"{' and '.join(given)} are set. The ring has one source: unset the others.")
    if given == [ENCRYPTION_KEYS_FILE]:
        return FileKeys(environ[ENCRYPTION_KEYS_FILE].strip())
    if given == [ENCRYPTION_KMS_KEYS]:
        from profiles_schema.key_kms import KmsKeys

        return KmsKeys(environ[ENCRYPTION_KMS_KEYS])
    return EnvironmentKeys(environ)
