"""The storage of exports, as an option names it: a directory, or s3://BUCKET/PREFIX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from profiles_schema.storage import Storage


def open_storage(place: str) -> Storage:
    """The storage that a text names."""
    from profiles_schema.storage import DirectoryStorage

    if not place.startswith("s3://"):
        return DirectoryStorage(place)
    if not place.removeprefix("s3://").partition("/")[0]:
        raise click.UsageError("s3:// needs a bucket. Write it as s3://BUCKET/PREFIX.")
    try:
        from profiles_schema.storage_s3 import S3Storage

        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return S3Storage(bucket, prefix=prefix, **({"endpoint_url": endpoint} if endpoint else {}))
    except ModuleNotFoundError as error:
        raise click.UsageError('s3:// needs boto3. Install it with: pip install "profiles-schema[s3]"') from error


def is_same_place(one: str, other: str) -> bool:
    """Whether two texts name one storage."""
    if one.startswith("s3://") or other.startswith("s3://"):
        return one.rstrip("/") == other.rstrip("/")
    return Path(one).resolve() == Path(other).resolve()
