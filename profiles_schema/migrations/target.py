"""Which database is meant: DATABASE_URL, or the embedded server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from profiles_schema.database import normalize_url
from profiles_schema.errors import UsageError
from profiles_schema.settings import DATABASE_URL, LOCAL

if TYPE_CHECKING:
    from sqlalchemy import URL


def resolve_url(*, local: bool = False, given: str | None = None, environ: Mapping[str, str] | None = None) -> URL:
    """The URL of the database to work on; the embedded server is started where it is meant.

    Args:
        local: The embedded server is meant.
        given: A URL that is used instead of DATABASE_URL.
        environ: Where DATABASE_URL is looked up; by default the environment.

    Raises:
        UsageError: both ``local`` and a URL are given.
        DatabaseUrlMissing: DATABASE_URL is not set, and ``local`` was not asked for.
        InvalidDatabaseUrl: it is not a PostgreSQL URL.
        EmbeddedServerUnavailable: the extra ``local`` is not installed.
    """
    if local and given is not None:
        raise UsageError("--local and --database-url name two databases. Give one of them.")
    text = ((os.environ if environ is None else environ).get(DATABASE_URL, "") if given is None else given).strip()
    if local or text == LOCAL:
        from profiles_schema.local import start

        text = start().url()
    return normalize_url(text)
