"""How services change profiles, as plain functions of a ``Session``. Each says how many statements it takes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, select, text, update
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from profiles_schema.errors import (
    InvalidProfile,
    NotAllowed,
    ProfileNotFound,
    ServiceError,
    StaleProfile,
    UsernameTaken,
)
from profiles_schema.schema.models import UserProfile
from profiles_schema.services.changes import (
    DOCUMENTS,
    EDITABLE,
    Broken,
    Changes,
    broken_rules,
    in_words,
    merge_patch,
    rules,
)
from profiles_schema.services.flows import is_transient, sqlstate
from profiles_schema.services.refusals import diagnosis, failure
from profiles_schema.services.snapshots import snapshot

Failures = dict[uuid.UUID, ServiceError]
Written = dict[uuid.UUID, UserProfile]

_THEIRS: Final = UserProfile.user_id == bindparam("user_id")
_LOCK: Final = select(UserProfile).where(_THEIRS).with_for_update(key_share=True)
_LOCK_MANY: Final = text(
    "select p.user_id, p.is_active from public.user_profiles as p where p.user_id = any (cast(:user_ids as uuid[]))"
    " order by p.user_id for no key update"
).columns(user_id=UUID(as_uuid=True))
_STATE: Final = select(UserProfile.is_active).where(_THEIRS)
_NAMES: Final = text(
    """
    select
      w.user_id,
      p.user_id is not null as is_held,
      p.user_id is not distinct from w.user_id as is_own,
      case when p.user_id is null then public.gen_available_username(w.username || '@') <> w.username end as is_reserved
    from jsonb_to_recordset(cast(:wanted as jsonb)) as w (user_id uuid, username text)
    left join public.user_profiles as p on lower(p.username) = lower(w.username)
    """
).columns(user_id=UUID(as_uuid=True))
_ZONES: Final = text("select z.name from pg_catalog.pg_timezone_names as z where z.name = any (cast(:names as text[]))")
_COLUMNS: Final = text(
    "select a.attname from pg_catalog.pg_constraint as k join pg_catalog.pg_attribute as a"
    " on a.attrelid = k.conrelid and a.attnum = any (k.conkey)"
    " where k.conrelid = to_regclass('public.user_profiles') and k.conname = :name"
)
_ORIGIN: Final = text("select set_config('profiles_internal.origin', :origin, true)")
_FOLLOW: Final = text("select profiles_internal.ensure_profile(:user_id, null, true)").bindparams(
    bindparam("user_id", type_=UUID(as_uuid=True))
)

_TAKEN: Final = "is taken"
_UNKNOWN_ZONE: Final = "is a name of pg_timezone_names"


def replace(
    session: Session, user_id: uuid.UUID, changes: Changes, if_updated_at: datetime | None = None
) -> UserProfile:
    """Write these columns of a profile: one statement, and one more for a name."""
    _refuse(refused_names(session, {user_id: changes} if "username" in changes else {}))
    statement = update(UserProfile).where(UserProfile.user_id == user_id, UserProfile.is_active).values(**changes)
    if if_updated_at is not None:
        statement = statement.where(UserProfile.updated_at == if_updated_at)
    written = session.scalars(
        statement.returning(UserProfile),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one_or_none()
    if written is None:
        raise _absence(session, user_id)
    return snapshot(session, written)


def patch(
    session: Session,
    user_id: uuid.UUID,
    changes: Changes,
    if_updated_at: datetime | None = None,
    origin: str | None = None,
) -> UserProfile:
    """Write these columns, and merge documents into those that are stored: two statements, and one more for a name."""
    if origin:
        session.execute(_ORIGIN, {"origin": origin})
    stored = session.scalars(_LOCK, {"user_id": user_id}).one_or_none()
    if stored is None or not stored.is_active:
        raise _absence(session, user_id) if stored is None else _inactive()
    if if_updated_at is not None and stored.updated_at != if_updated_at:
        raise StaleProfile
    merged = {
        name: merge_patch(getattr(stored, name), value) if name in DOCUMENTS else value
        for name, value in changes.items()
    }
    if broken := broken_rules(merged):
        raise InvalidProfile(fields=broken)
    return replace(session, user_id, merged)


def replace_many(session: Session, changes: Mapping[uuid.UUID, Changes]) -> tuple[Written, Failures]:
    """Write columns of many profiles, all or none: two statements, and one more for names."""
    fitting, failures = _lock(session, changes)
    return _replace_all(session, fitting), failures


def replace_each(session: Session, changes: Mapping[uuid.UUID, Changes]) -> tuple[Written, Failures]:
    """The same, where the table has refused one of them: each within a savepoint."""
    fitting, failures = _lock(session, changes)
    written: Written = {}
    for user_id, mine in fitting.items():
        try:
            with session.begin_nested():
                written[user_id] = replace(session, user_id, mine)
        except ServiceError as refused:
            failures[user_id] = refused
        except DBAPIError as error:
            if is_transient(error):
                raise
            refusal = refusal_to_change(error, mine) or failure(error)
            constraint = diagnosis(error, "constraint_name")
            failures[user_id] = completed(session, user_id, mine, refusal, constraint)
    return written, failures


def _lock(session: Session, changes: Mapping[uuid.UUID, Changes]) -> tuple[dict[uuid.UUID, Changes], Failures]:
    """Those that can be tried, locked in the order of their ids, and why the others cannot."""
    users = {"user_ids": [str(each) for each in changes]}
    active = {row.user_id: row.is_active for row in session.execute(_LOCK_MANY, users)}
    failures: Failures = {user_id: ProfileNotFound() for user_id in changes if user_id not in active}
    failures |= {user_id: _inactive() for user_id, is_active in active.items() if not is_active}
    failures |= refused_names(session, {each: mine for each, mine in changes.items() if each not in failures})
    return {user_id: mine for user_id, mine in changes.items() if user_id not in failures}, failures


def _replace_all(session: Session, changes: Mapping[uuid.UUID, Changes]) -> Written:
    if not changes:
        return {}
    columns = [name for name in EDITABLE if any(name in mine for mine in changes.values())]
    sets = ", ".join(
        f"{name} = case when c.changes ? '{name}'"
        f" then c.changes {'->' if name in DOCUMENTS else '->>'} '{name}' else p.{name} end"
        for name in columns
    )
    statement = text(
        f"update public.user_profiles as p set {sets}"
        " from jsonb_to_recordset(cast(:rows as jsonb)) as c (user_id uuid, changes jsonb)"
        " where p.user_id = c.user_id returning p.*"
    )
    rows = json.dumps([{"user_id": str(user_id), "changes": dict(mine)} for user_id, mine in changes.items()])
    written = session.scalars(
        select(UserProfile).from_statement(statement), {"rows": rows}, execution_options={"populate_existing": True}
    ).all()
    return {profile.user_id: snapshot(session, profile) for profile in written}


def follow(session: Session, user_id: uuid.UUID) -> tuple[UserProfile | None, UserProfile | None]:
    """The profile before and after it was brought up to date with its user: three statements."""
    before = session.scalars(select(UserProfile).where(_THEIRS), {"user_id": user_id}).one_or_none()
    before = None if before is None else snapshot(session, before)
    session.execute(_FOLLOW, {"user_id": user_id})
    after = session.scalars(select(UserProfile).where(_THEIRS), {"user_id": user_id}).one_or_none()
    return before, None if after is None else snapshot(session, after)


def refused_names(session: Session, wanted: Mapping[uuid.UUID, Changes]) -> Failures:
    """Whose new username is taken or reserved: one statement, a second if any seems reserved; none without a name.

    The database lets service_role hand reserved names out; who calls with its rights for a person may not.
    """
    rows = [{"user_id": str(each), "username": mine["username"]} for each, mine in wanted.items() if "username" in mine]
    if not rows:
        return {}
    found = session.execute(_NAMES, {"wanted": json.dumps(rows)}).all()
    if any(row.is_reserved for row in found):
        # The function looks later than the statement that calls it: a name that was taken in between seemed reserved.
        found = session.execute(_NAMES, {"wanted": json.dumps(rows)}).all()
    failures: Failures = {}
    for row in found:
        if row.is_held and not row.is_own:
            failures[row.user_id] = UsernameTaken(fields={"username": [_TAKEN]})
        elif row.is_reserved:
            failures[row.user_id] = InvalidProfile(fields={"username": ["is reserved"]})
    return failures


def _refuse(failures: Failures) -> None:
    for error in failures.values():
        raise error


def completed(
    session: Session, user_id: uuid.UUID, changes: Changes, error: ServiceError, constraint: str | None = None
) -> ServiceError:
    """The error with what else the database would have refused, so that a form shows everything at once.

    ``constraint`` is what the database named: for one of the application's own, the catalog knows its columns.
    """
    if not isinstance(error, InvalidProfile | UsernameTaken):
        return error
    fields: Broken = {name: list(broken) for name, broken in error.fields.items()}
    if constraint and not fields:
        columns = set(session.scalars(_COLUMNS, {"name": constraint})) & set(changes) or set(changes)
        fields = {column: [f"breaks the rule {constraint}"] for column in sorted(columns)}
    if "username" in changes and "username" not in fields:
        for refused in refused_names(session, {user_id: changes}).values():
            fields |= {name: list(broken) for name, broken in getattr(refused, "fields", {}).items()}
    zone = changes.get("timezone")
    if zone is not None and "timezone" not in fields and not session.scalars(_ZONES, {"names": [zone]}).all():
        fields["timezone"] = [_UNKNOWN_ZONE]
    if fields == {"username": [_TAKEN]}:
        return UsernameTaken(fields=fields)
    return InvalidProfile(fields=fields) if fields else error


def refusal_to_change(error: BaseException, changes: Changes) -> ServiceError | None:
    """What a refusal of the table means for the caller; None for a failure. A value is never part of it."""
    column, constraint = diagnosis(error, "column_name"), diagnosis(error, "constraint_name")
    refusal: ServiceError | None = None
    match sqlstate(error):
        case "42501":
            refusal = NotAllowed()
        case "23505" if "username" in changes and "username" in (constraint or ""):
            refusal = UsernameTaken(fields={"username": [_TAKEN]})
        case "23502" if column:
            refusal = InvalidProfile(fields={column: ["cannot be null"]})
        case "23514" if column == "timezone":
            refusal = InvalidProfile(fields={column: [_UNKNOWN_ZONE]})
        case "23503" | "23505" | "23514" | "23P01" if constraint:
            refusal = InvalidProfile(fields=_broken(constraint, changes))
        case "22001":
            refusal = InvalidProfile("A text is longer than its column takes.")
        case "23514" | "P0001":
            refusal = InvalidProfile("A trigger of the application refuses this change.")
    return refusal


def _broken(constraint: str, changes: Changes) -> Broken:
    for name, rule in rules():
        if constraint == f"ck_user_profiles_{name}":
            return {column: [in_words(name, column)] for column in rule.columns if column in changes}
    return {}


def _absence(session: Session, user_id: uuid.UUID) -> ServiceError:
    """Why no row was written: one statement."""
    is_active = session.scalar(_STATE, {"user_id": user_id})
    if is_active is None:
        return ProfileNotFound()
    return StaleProfile() if is_active else _inactive()


def _inactive() -> NotAllowed:
    return NotAllowed("This account is erased or inactive.")
