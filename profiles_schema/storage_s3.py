"""Objects of an S3-compatible storage, with boto3 (extra ``s3``): AWS, Supabase Storage, MinIO."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from profiles_schema.errors import StorageFailed
from profiles_schema.storage import Upload


class S3Storage:
    """Objects of a bucket.

    Args:
        bucket: Its name.
        prefix: Goes in front of every key, for a bucket that holds other things, too.
        client: A boto3 client; by default one is made from the options.
        options: Of ``boto3.client("s3", ...)``. With an ``endpoint_url``, addresses have the bucket in their path, as
            Supabase Storage and MinIO need it.
    """

    def __init__(self, bucket: str, *, prefix: str = "", client: Any = None, **options: Any) -> None:
        if client is None:
            import boto3
            from botocore.config import Config

            if "endpoint_url" in options:
                options.setdefault("config", Config(s3={"addressing_style": "path"}, signature_version="s3v4"))
            client = boto3.client("s3", **options)
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def upload(self, key: str) -> Upload:
        """Begin to write an object; it is kept in a temporary file until it is whole."""
        return _S3Upload(self, key)

    def open(self, key: str) -> BinaryIO:
        """Read an object. Raises FileNotFoundError."""
        with _typed():
            return cast("BinaryIO", self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"])

    def delete(self, key: str) -> bool:
        """Remove an object; returns whether there was one."""
        try:
            with _typed():
                self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except FileNotFoundError:
            return False
        with _typed():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)
        return True

    def link(self, key: str, seconds: int) -> str:
        """A signed address."""
        with _typed():
            values = {"Bucket": self._bucket, "Key": self._prefix + key}
            return str(self._client.generate_presigned_url("get_object", Params=values, ExpiresIn=seconds))

    def keys(self) -> Iterator[str]:
        """The keys of all exports."""
        return self._below("exports/")

    def delete_all(self, user_id: object) -> int:
        """Remove every object of a user; returns how many there were. Older versions are the bucket's to remove."""
        return sum(self.delete(key) for key in list(self._below(f"exports/{user_id}/")))

    def _below(self, start: str) -> Iterator[str]:
        with _typed():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}{start}"
            )
            for page in pages:
                for each in page.get("Contents", ()):
                    yield each["Key"].removeprefix(self._prefix)

    def put(self, key: str, file: BinaryIO) -> None:
        """Store a file, in parts where it is large; nobody sees it before all of it is there."""
        with _typed():
            # boto3 closes what it is given; an upload is closed by its owner.
            self._client.upload_fileobj(_Unclosed(file), self._bucket, self._prefix + key)


class _Unclosed:
    """A file that its reader cannot close."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell

    def close(self) -> None:
        """Leave it open."""


class _S3Upload:
    def __init__(self, storage: S3Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self.file: BinaryIO = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - discard closes it

    def publish(self) -> int:
        size = self.file.seek(0, 2)
        self.file.seek(0)
        self._storage.put(self._key, self.file)
        return size

    def discard(self) -> None:
        self.file.close()


@contextmanager
def _typed() -> Iterator[None]:
    """Errors of boto3 as ours, without their words: they hold addresses and keys."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in {"404", "NoSuchKey", "NotFound"}:
            raise FileNotFoundError("There is no such object.") from error
        raise StorageFailed(f"The storage of exports refused ({code}).") from error
    except (BotoCoreError, Boto3Error) as error:
        raise StorageFailed from error
