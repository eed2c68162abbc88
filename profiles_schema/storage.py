"""Where the files of exports are kept: a small protocol, and a directory that fulfils it."""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Protocol
from urllib.parse import urlencode

from profiles_schema.errors import StorageFailed

_UNFINISHED: Final = ".unfinished-"
_FILE_MODE: Final = 0o600
_COPY_BYTES: Final = 1 << 20


class Upload(Protocol):
    """An object that is being written. Nobody sees it before ``publish``, and then the whole of it."""

    file: BinaryIO

    def publish(self) -> int:
        """Make it the object under its key, in place of an older one; returns its size in bytes."""

    def discard(self) -> None:
        """Throw away what was written. After ``publish``, do nothing."""


class Storage(Protocol):
    """Objects by key: ``exports/USER/EXPORT``. A missing object is no error for ``delete``."""

    def upload(self, key: str) -> Upload:
        """Begin to write an object."""

    def open(self, key: str) -> BinaryIO:
        """Read an object. Raises FileNotFoundError."""

    def delete(self, key: str) -> bool:
        """Remove an object; returns whether there was one."""

    def link(self, key: str, seconds: int) -> str:
        """An address that reads the object for so long."""

    def keys(self) -> Iterator[str]:
        """The keys of all exports."""

    def delete_all(self, user_id: object) -> int:
        """Remove every object of a user, and what was never finished; returns how many objects there were."""


def export_key(user_id: object, export_id: object) -> str:
    """The key of an export: made of two ids, and of nothing that a user can write."""
    return f"exports/{user_id}/{export_id}"


class DirectoryStorage:
    """Objects as files of a directory.

    Args:
        path: The directory; it is made with the first object.
        base_url: What ``link`` puts in front of a key: where the application serves these files.
        secret: Signs links; the application checks them with ``verify``.
    """

    def __init__(self, path: str | Path, *, base_url: str | None = None, secret: bytes | None = None) -> None:
        self.path = Path(path)
        self._base_url = base_url
        self._secret = secret

    def upload(self, key: str) -> Upload:
        """Begin to write an object, in a hidden file next to its place."""
        place = self._place(key)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _FileUpload(place)

    def open(self, key: str) -> BinaryIO:
        """Read an object. Raises FileNotFoundError."""
        return self._place(key).open("rb")

    def delete(self, key: str) -> bool:
        """Remove an object; returns whether there was one."""
        try:
            self._place(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def link(self, key: str, seconds: int) -> str:
        """A signed address; it needs ``base_url`` and ``secret``."""
        if self._base_url is None or self._secret is None:
            raise StorageFailed("Links need base_url and secret. Give both to DirectoryStorage.")
        expires = int(time.time()) + seconds
        query = urlencode({"expires": expires, "signature": self._signature(key, expires)})
        return f"{self._base_url.rstrip('/')}/{key}?{query}"

    def verify(self, key: str, expires: int, signature: str) -> bool:
        """Whether ``link`` made this address, and its time is not over."""
        # As bytes: compare_digest takes no text beyond ASCII, and anyone can write a signature.
        given = signature.encode(errors="replace")
        return hmac.compare_digest(self._signature(key, expires).encode(), given) and time.time() < expires

    def keys(self) -> Iterator[str]:
        """The keys of all exports."""
        for place in sorted(self.path.glob("exports/*/*")):
            if not place.name.startswith(_UNFINISHED):
                yield place.relative_to(self.path).as_posix()

    def delete_all(self, user_id: object) -> int:
        """Remove every object of a user, and what a killed worker left; returns how many objects there were."""
        place = self._place(f"exports/{user_id}")
        removed = 0
        for each in place.glob("*"):
            try:
                each.unlink()
            except FileNotFoundError:
                continue
            removed += not each.name.startswith(_UNFINISHED)
        with suppress(FileNotFoundError, OSError):
            place.rmdir()
        return removed

    def remove_unfinished(self, older_than_seconds: float) -> int:
        """Remove what killed workers left behind; returns how many files that were."""
        removed = 0
        for place in self.path.glob(f"exports/*/{_UNFINISHED}*"):
            try:
                if place.stat().st_mtime < time.time() - older_than_seconds:
                    place.unlink()
                    removed += 1
            except FileNotFoundError:
                continue
        return removed

    def _place(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in {"", ".", ".."} or "\\" in part for part in parts):
            raise ValueError("The key of an object has no empty part, and none that is . or ..")
        return self.path.joinpath(*parts)

    def _signature(self, key: str, expires: int) -> str:
        if self._secret is None:
            raise StorageFailed("Links need a secret. Give one to DirectoryStorage.")
        return hmac.new(self._secret, f"{key}\n{expires}".encode(), hashlib.sha256).hexdigest()


class _FileUpload:
    def __init__(self, place: Path) -> None:
        self._place = place
        handle, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=place.parent)
        self._unfinished = Path(name)
        self.file: BinaryIO = os.fdopen(handle, "wb")
        self._published = False

    def publish(self) -> int:
        self.file.flush()
        # A power failure must not leave an empty file under the key of a completed export.
        os.fsync(self.file.fileno())
        size = self.file.tell()
        self.file.close()
        self._unfinished.chmod(_FILE_MODE)
        self._unfinished.replace(self._place)
        self._published = True
        directory = os.open(self._place.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return size

    def discard(self) -> None:
        if not self._published:
            self.file.close()
            self._unfinished.unlink(missing_ok=True)


def copy_object(source: Storage, target: Storage, key: str) -> bool:
    """Copy an object from one storage to another, whole or not at all; returns whether there was one."""
    try:
        read = source.open(key)
    except FileNotFoundError:
        return False
    upload = target.upload(key)
    try:
        with read:
            shutil.copyfileobj(read, upload.file, _COPY_BYTES)
        upload.publish()
    finally:
        upload.discard()
    return True
