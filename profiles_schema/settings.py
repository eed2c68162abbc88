"""Names and limits that more than one module needs, and the switches read from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

DATABASE_URL = "DATABASE_URL"
"""The environment variable that names the database; its value ``local`` is the embedded PostgreSQL."""

LOCAL = "local"

OLDEST_SERVER = 15
NEWEST_SERVER = 18
"""The supported major versions of PostgreSQL, both included."""

INTERNAL_SCHEMA = "profiles_internal"
VERSION_TABLE = "alembic_version"

RELOAD_API = "notify pgrst, 'reload schema'"
"""What PostgREST, and so Supabase's API, waits for to look at the catalog again; without it, it serves what it knew before."""

APPLICATION_NAME = "profiles-schema"
CONNECT_TIMEOUT_SECONDS = 10

LOCK_TIMEOUT_MS = 100
"""How long a statement of a revision waits for a lock: the longest stall that live traffic sees behind it."""

DEADLINE_SECONDS = 600.0
"""How long a revision goes on trying to get its locks."""

LOCK_WAIT_SECONDS = 3600.0
"""How long a migrator waits for another one to finish."""

EXPORT_STORAGE = "PROFILES_EXPORT_STORAGE"
"""The environment variable that says where the files of exports are: a directory."""

ENCRYPTION_KEYS = "PROFILES_ENCRYPTION_KEYS"
"""The environment variable with the key ring: ``id:base64key,...``; the first encrypts, all decrypt."""

RECORDED_BY_MISTAKE = (
    "If the recorded one is the mistake: docs/how-to/rotate-encryption-keys.md, A key that changed under its id."
)
"""What to do if a wrong key was the first that was used under its id."""

ENCRYPTION_KEYS_FILE = "PROFILES_ENCRYPTION_KEYS_FILE"
"""The environment variable with the path of a file that holds the key ring; it is read again when it changes."""

ENCRYPTION_KMS_KEYS = "PROFILES_ENCRYPTION_KMS_KEYS"
"""The environment variable with a key ring whose keys AWS KMS has encrypted: ``id:base64ciphertext,...``."""

ENVELOPE_PREFIX = "psk1."
ENVELOPE = "^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$"
"""What an encrypted API key looks like: psk1.<id of the encryption key>.<base64url, unpadded, of nonce (12 bytes) +
ciphertext + tag (16 bytes)>; 28 bytes at least are 38 characters at least."""
ENVELOPE_LIMIT = 4_096


def debug(environ: Mapping[str, str] | None = None) -> bool:
    """Whether PROFILES_DEBUG asks for tracebacks beside the one-line errors."""
    return (os.environ if environ is None else environ).get("PROFILES_DEBUG", "") not in {"", "0"}
