"""The logic of what services change, as flows."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Literal

from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from profiles_schema.errors import (
    FieldsRefused,
    InvalidProfile,
    NotAllowed,
    ProfileNotFound,
    ServiceError,
    ServiceFailed,
)
from profiles_schema.schema.models import UserProfile
from profiles_schema.services import queries, writes
from profiles_schema.services.cache import ProfileCache
from profiles_schema.services.changes import Broken, Changes, broken_rules
from profiles_schema.services.events import Events
from profiles_schema.services.flows import Call, Db, Flow, is_rolled_back, is_transient, retry, sqlstate
from profiles_schema.services.profile_flows import ProfileFlows, T, UserId, as_uuid
from profiles_schema.services.refusals import diagnosis, failure, is_from_database, refusal_to_create
from profiles_schema.services.results import Outcome, SyncResult
from profiles_schema.services.shared_cache import SharedCache

Validator = Callable[[uuid.UUID, Changes], Any]
"""Takes the user and the changes; returns what is wrong with them by the name of the field, or None. May be asynchronous."""
Source = Callable[[UserProfile], Any]
"""Takes the profile; returns changes for it as ``patch`` takes them, or None. May be asynchronous."""


class ChangeFlows(ProfileFlows):
    """What a profile service does, changes included; a driver runs it."""

    def __init__(
        self,
        cache: ProfileCache,
        events: Events,
        may_share: Callable[[], bool],
        shared: SharedCache | None = None,
        *,
        announces: bool = False,
    ) -> None:
        super().__init__(cache, events, may_share, shared, announces=announces)
        self.validators: list[Validator] = []
        self.sources: dict[str, Source] = {}

    def change(
        self, user_id: UserId, changes: Changes, if_updated_at: datetime | None, *, merge: bool
    ) -> Flow[UserProfile]:
        """As ProfileService.update, and with ``merge`` as ProfileService.patch."""
        user = as_uuid(user_id)
        if if_updated_at is not None and if_updated_at.tzinfo is None:
            raise ValueError("if_updated_at needs a time zone")
        write = writes.patch if merge else writes.replace
        profile = yield from self._change(user, changes, partial(write, if_updated_at=if_updated_at))
        self.events.emit("updated", user, changed=sorted(changes))
        return profile

    def create_many(self, user_ids: Iterable[UserId]) -> Flow[dict[uuid.UUID, Outcome]]:
        """As ProfileService.create_many."""
        users = list(dict.fromkeys(map(as_uuid, user_ids)))
        known = yield from self.get_many(users)
        outcomes = {user: Outcome(profile) for user, profile in known.items()}
        missing = [user for user in users if user not in known]
        if not missing:
            return outcomes
        try:
            made: dict[uuid.UUID, UserProfile] = yield from retry(
                Db(partial(queries.ensure_many, user_ids=missing)), is_transient
            )
        except Exception as error:
            if not is_from_database(error):
                raise
            made = {}
        yield from self.forget(missing)
        for user in missing:
            if user in made:
                self.events.emit("created", user)
                outcomes[user] = Outcome(made[user])
                continue
            try:
                outcomes[user] = Outcome((yield from self.get_or_create(user)))
            except ServiceError as error:
                outcomes[user] = Outcome(error=error)
        return {user: outcomes[user] for user in users}

    def update_many(self, changes: Mapping[Any, Changes]) -> Flow[dict[uuid.UUID, Outcome]]:
        """As ProfileService.update_many."""
        wanted = {as_uuid(user): mine for user, mine in changes.items()}
        if len(wanted) < len(changes):
            raise ValueError("A user is named twice")
        failed: dict[uuid.UUID, ServiceError] = {}
        for user, mine in wanted.items():
            if broken := (yield from self._broken(user, mine)):
                failed[user] = InvalidProfile(fields=broken)
        valid = {user: mine for user, mine in wanted.items() if user not in failed and mine}
        unchanged = yield from self.get_many(user for user, mine in wanted.items() if not mine)
        written: dict[uuid.UUID, UserProfile] = {}
        if valid:
            try:
                written, refused = yield from self._writing(list(valid), self._asking(self._replace_many(valid)))
            except ServiceError:
                yield from self.forget(valid)
                raise
            yield from self.forget(valid)
            failed |= refused
        for user in written:
            self.events.emit("updated", user, changed=sorted(wanted[user]))
        for user, error in failed.items():
            self._refused(user, error)
        found = unchanged | written
        return {
            user: Outcome(found[user]) if user in found else Outcome(error=failed.get(user) or ProfileNotFound())
            for user in wanted
        }

    def _replace_many(self, changes: Mapping[uuid.UUID, Changes]) -> Flow[tuple[writes.Written, writes.Failures]]:
        found: tuple[writes.Written, writes.Failures]
        try:
            found = yield from retry(Db(partial(writes.replace_many, changes=changes)), is_rolled_back)
        except DBAPIError as error:
            if is_transient(error):
                raise
            found = yield from retry(Db(partial(writes.replace_each, changes=changes)), is_rolled_back)
        return found

    def sync(self, user_id: UserId) -> Flow[SyncResult]:
        """As ProfileService.sync."""
        user = as_uuid(user_id)
        before, profile = yield from self._follow(user)
        changed = {"auth": _differing(before, profile)}
        failed: dict[str, Exception] = {}
        for name, source in tuple(self.sources.items()):
            try:
                wanted = yield Call(partial(source, profile))
                if not wanted:
                    continue
                after = yield from self._change(user, wanted, partial(writes.patch, origin="sync"))
            except Exception as error:  # noqa: BLE001 - one source must not keep the others from working
                failed[name] = error
                self.events.emit("failed", user, source=name, error=type(error).__name__)
            else:
                changed[name] = _differing(profile, after)
                profile = after
        changed = {name: columns for name, columns in changed.items() if columns}
        self.events.emit("synced", user, changed=changed, failed=sorted(failed))
        return SyncResult(profile, changed, failed)

    def _follow(self, user: uuid.UUID) -> Flow[tuple[UserProfile | None, UserProfile]]:
        try:
            work = retry(Db(partial(writes.follow, user_id=user)), is_transient)
            before, profile = yield from self._writing([user], work)
        except Exception as error:
            yield from self.forget([user])
            if not is_from_database(error):
                raise
            refused = refusal_to_create(error) or failure(error)
            self._refused(user, refused)
            raise refused from None
        self.cache.forget(user)
        if profile is None:
            raise NotAllowed
        if before is None or _differing(before, profile):
            yield from self._tell([user])
        return before, profile

    def _change(self, user: uuid.UUID, changes: Changes, write: Callable[..., UserProfile]) -> Flow[UserProfile]:
        try:
            return (yield from self._change_or_refuse(user, changes, write))
        except ServiceError as error:
            self._refused(user, error)
            raise

    def _change_or_refuse(
        self, user: uuid.UUID, changes: Changes, write: Callable[..., UserProfile]
    ) -> Flow[UserProfile]:
        refused: ServiceError | None
        constraint: str | None = None
        if broken := (yield from self._broken(user, changes)):
            refused = InvalidProfile(fields=broken)
        elif not changes:
            return (yield from self._unchanged(user))
        else:
            try:
                return (yield from self._write(user, Db(partial(write, user_id=user, changes=dict(changes)))))
            except ServiceError as error:
                refused = error
            except Exception as error:
                if not is_from_database(error):
                    raise
                constraint = diagnosis(error, "constraint_name")
                refused = writes.refusal_to_change(error, changes)
                if refused is None:
                    raise failure(error) from None
        if isinstance(refused, FieldsRefused):
            complete = partial(writes.completed, user_id=user, changes=changes, error=refused, constraint=constraint)
            refused = yield from self._asking(retry(Db(complete), is_transient))
        raise refused from None

    def _writing(self, users: Collection[uuid.UUID], flow: Flow[T]) -> Flow[T]:
        """The flow's result. A caller that is stopped meanwhile may have committed; nothing can be waited for then."""
        try:
            return (yield from flow)
        except GeneratorExit:
            self.forget_soon(users)
            raise

    def _write(self, user: uuid.UUID, effect: Db) -> Flow[UserProfile]:
        try:
            written: UserProfile = yield from self._writing([user], retry(effect, is_rolled_back))
        except Exception as error:
            if not isinstance(error, ServiceError) and (sqlstate(error) is None or is_transient(error)):
                yield from self.forget([user])  # perhaps it is committed, and only the answer was lost
            raise
        yield from self.forget([user])
        return written

    def _unchanged(self, user: uuid.UUID) -> Flow[UserProfile]:
        profile: UserProfile | None = yield from self._asking(
            retry(Db(partial(queries.read, user_id=user)), is_transient)
        )
        if profile is None:
            raise ProfileNotFound
        return profile

    def _broken(self, user: uuid.UUID, changes: Changes) -> Flow[Broken]:
        """What the rules of the table and the validators of the application say, as far as the database is not needed."""
        broken = broken_rules(changes)
        fitting = {name: value for name, value in changes.items() if name not in broken}
        for validator in tuple(self.validators):
            said: Mapping[str, str] | None = yield Call(partial(validator, user, fitting))
            for name, rule in (said or {}).items():
                broken.setdefault(name, []).append(rule)
        return broken

    def _refused(self, user: uuid.UUID, error: ServiceError) -> None:
        state = getattr(error, "sqlstate", None)
        kind: Literal["failed", "refused"] = "failed" if isinstance(error, ServiceFailed) else "refused"
        fields = sorted(getattr(error, "fields", ()))
        self.events.emit(kind, user, error=type(error).__name__, fields=fields, sqlstate=state)


def _differing(before: UserProfile | None, after: UserProfile) -> tuple[str, ...]:
    """Names of the columns that differ; none if the profile is new."""
    if before is None:
        return ()
    names = (each.key for each in inspect(UserProfile).column_attrs)
    return tuple(name for name in names if name != "updated_at" and getattr(before, name) != getattr(after, name))
