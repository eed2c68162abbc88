"""Which database is meant: DATABASE_URL, or the embedded server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from profiles_schema.database import normalize_url
from profiles_schema.settings import DATABASE_URL, LOCAL

if TYPE_CHECKING:
    from sqlalchemy import URL


def resolve_url(*, local: bool = False, environ: Mapping[str, str] | None = None) -> URL:
    """The URL of the database to work on; the embedded server is started where it is meant.

    Raises:
        DatabaseUrlMissing: DATABASE_URL is not set, and ``local`` was not asked for.
        InvalidDatabaseUrl: it is not a PostgreSQL URL.
        EmbeddedServerUnavailable: the extra ``local`` is not installed.
    """
    text = (os.environ if environ is None else environ).get(DATABASE_URL, "").strip()
    if local or text == LOCAL:
        from profiles_schema.local import start

        text = start().url()
    return normalize_url(text)
