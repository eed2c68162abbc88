"""What a database error means for the caller of a service: a typed error that repeats no value."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from profiles_schema.errors import NotAllowed, ProfileNotFound, ServiceError, ServiceFailed
from profiles_schema.services.flows import is_transient, sqlstate


def diagnosis(error: BaseException, name: str) -> str | None:
    """A name in the server's diagnosis (``table_name``, ``column_name``, ``constraint_name``), with every driver."""
    original: Any = getattr(error, "orig", None) or error
    # psycopg2 and psycopg have it in `diag`; asyncpg's own error is the cause of what SQLAlchemy made of it.
    for place in (getattr(original, "diag", None), original.__cause__, original):
        if found := getattr(place, name, None):
            return str(found)
    return None


def failed_objects(error: BaseException) -> str | None:
    """What the error is about, by the names of table, column and constraint; never a value."""
    names = [diagnosis(error, f"{kind}_name") for kind in ("table", "column", "constraint")]
    return " ".join(filter(None, names)) or None


def refusal_to_create(error: BaseException) -> ServiceError | None:
    """The error for somebody who may not have this profile made; None for a failure."""
    match sqlstate(error):
        case "42501":
            return NotAllowed()
        case "P0002" | "23503":
            return ProfileNotFound("There is no such user, or the user is deleted.")
    return None


def is_from_database(error: BaseException) -> bool:
    """Whether the database said it, or did not answer; an error that comes from elsewhere is a bug, and stays as it is."""
    return sqlstate(error) is not None or is_transient(error) or isinstance(error, DBAPIError | NoConnectionFree)


def failure(error: BaseException) -> ServiceError:
    """The typed error for what the database said, without its words: they quote values."""
    state = sqlstate(error)
    if state == "42501":
        return NotAllowed()
    return ServiceFailed(
        f"The database {'failed' if state else 'did not answer'} (SQLSTATE {state or '08001'}). Repeat the request later.",
        sqlstate=state,
        objects=failed_objects(error),
    )
