"""ExportService and AsyncExportService: exports from request to expiry, on the state machine of the database."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.orm import Session, sessionmaker

from profiles_schema.errors import ExportStepRefused, InvalidExport, ServiceError
from profiles_schema.schema.models import ExportHistory
from profiles_schema.services import export_queries as queries
from profiles_schema.services.export_queries import FORMATS, TYPES, Claim
from profiles_schema.services.flows import AsyncDriver, Block, Db, Flow, SyncDriver, is_rolled_back, is_transient, retry
from profiles_schema.services.profile_flows import UserId, as_uuid
from profiles_schema.services.refusals import failure, is_from_database
from profiles_schema.storage import Storage, export_key

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

ExportId = uuid.UUID | str
T = TypeVar("T")


class ExportFlows:
    """What an export service does; a driver runs it."""

    def __init__(
        self, storage: Storage, lease_seconds: float, most_retries: int, backoff_seconds: float, keep_days: float
    ) -> None:
        self.storage = storage
        self.lease_seconds = lease_seconds
        self.most_retries = most_retries
        self.backoff_seconds = backoff_seconds
        self.keep_days = keep_days

    def request(
        self, user_id: UserId, export_type: str, export_format: str, filters: Mapping[str, Any] | None
    ) -> Flow[ExportHistory]:
        fields = {}
        if export_type not in TYPES:
            fields["export_type"] = [f"is one of {', '.join(TYPES)}"]
        if export_format not in FORMATS:
            fields["export_format"] = [f"is one of {', '.join(FORMATS)}"]
        elif (export_type, export_format) == ("everything", "csv"):
            fields["export_format"] = ["is json, ndjson or xlsx for everything: a table has one kind of rows"]
        if fields:
            raise InvalidExport(fields=fields)
        given = None if filters is None else dict(filters)
        user = as_uuid(user_id)
        return (yield from _once(lambda session: queries.request(session, user, export_type, export_format, given)))

    def get(self, export_id: ExportId) -> Flow[ExportHistory]:
        return (yield from _again(lambda session: queries.get(session, as_uuid(export_id))))

    def start(self, export_id: ExportId | None) -> Flow[Claim | None]:
        lapsed = yield from _once(lambda session: queries.take_back(session, self.lease_seconds, self.most_retries))
        for row in lapsed:
            # Its worker may have died between publishing and committing.
            if row.status == "failed":
                yield from self._remove_failed(row.id)
        wanted = None if export_id is None else as_uuid(export_id)
        return (yield from _once(lambda session: queries.claim(session, wanted, self.backoff_seconds)))

    def heartbeat(self, claim: Claim) -> Flow[None]:
        yield from _again(lambda session: queries.heartbeat(session, claim))

    def complete(self, claim: Claim, records: int, publish: Callable[[], int]) -> Flow[None]:
        # Once: after a lost connection, the commit may have happened, and publishing cannot be repeated.
        try:
            yield Db(lambda session: queries.complete(session, claim, records, publish, self.keep_days))
        except Exception as error:
            raise _typed(error) from error

    def fail(self, claim: Claim, reason: str, final: bool) -> Flow[str]:
        status = yield from _once(lambda session: queries.fail(session, claim, reason, self.most_retries, final=final))
        if status == "failed":
            # Its publishing may have succeeded although the commit behind it failed.
            yield from self._remove_failed(claim.id)
        return status

    def _remove_failed(self, export_id: uuid.UUID) -> Flow[None]:
        yield from _again(lambda session: queries.remove_failed(session, export_id, self.storage.delete))

    def retry(self, export_id: ExportId) -> Flow[ExportHistory]:
        return (yield from _once(lambda session: queries.retry(session, as_uuid(export_id))))

    def expire(self, export_id: ExportId) -> Flow[ExportHistory]:
        return (yield from _again(lambda session: queries.expire(session, as_uuid(export_id), self.storage.delete)))

    def link(self, export_id: ExportId, seconds: int) -> Flow[str]:
        export = yield from self.get(export_id)
        if export.status != "completed":
            raise ExportStepRefused(f"There is no file: the export is {export.status}.")
        address: str = yield Block(lambda: self.storage.link(export_key(export.user_id, export.id), seconds))
        return address


def _once(work: Callable[[Session], T]) -> Flow[T]:
    """Work that must not be done twice: again only where it is proved that nothing was committed."""
    return (yield from _guarded(work, is_rolled_back))


def _again(work: Callable[[Session], T]) -> Flow[T]:
    """Work that may be done twice."""
    return (yield from _guarded(work, is_transient))


def _guarded(work: Callable[[Session], T], may_retry: Callable[[BaseException], bool]) -> Flow[T]:
    try:
        result: T = yield from retry(Db(work), may_retry)
    except Exception as error:
        raise _typed(error) from error
    return result


def _typed(error: Exception) -> Exception:
    if isinstance(error, ServiceError) or not is_from_database(error):
        return error
    return failure(error)


class ExportService:
    """Exports, by synchronous sessions of service_role; ``request``, ``get`` and ``link`` serve a user's own role, too.

    Args:
        session_factory: Sessions of the primary.
        storage: Where the files are kept.
        lease_seconds: A worker that gives no heartbeat for so long has lost its export.
        most_retries: So many times an export is tried again before it is failed.
        backoff_seconds: The pause before the first retry; it doubles each time, up to an hour.
        keep_days: When a completed export expires.
    """

    def __init__(
        self,
        session_factory: sessionmaker[Session],
        storage: Storage,
        *,
        lease_seconds: float = 60,
        most_retries: int = 5,
        backoff_seconds: float = 30,
        keep_days: float = 7,
    ) -> None:
        self._flows = ExportFlows(storage, lease_seconds, most_retries, backoff_seconds, keep_days)
        self._run = SyncDriver(session_factory, None).run

    @property
    def storage(self) -> Storage:
        """Where the files are kept."""
        return self._flows.storage

    @property
    def lease_seconds(self) -> float:
        """A worker that gives no heartbeat for so long has lost its export."""
        return self._flows.lease_seconds

    def request(
        self, user_id: UserId, export_type: str, export_format: str, filters: Mapping[str, Any] | None = None
    ) -> ExportHistory:
        """Queue an export of a user's ``profile``, ``progress``, ``sessions`` or ``everything``, as csv, json, ndjson or xlsx.

        Raises:
            InvalidExport: there is no such type or format.
            NotAllowed: the role may not ask for this user.
            ServiceFailed: the database failed.
        """
        return self._run(self._flows.request(user_id, export_type, export_format, filters))

    def get(self, export_id: ExportId) -> ExportHistory:
        """One export. Raises ExportNotFound, NotAllowed, ServiceFailed."""
        return self._run(self._flows.get(export_id))

    def start(self, export_id: ExportId | None = None) -> Claim | None:
        """Claim the oldest export that is due, or this one; None where there is none. No two workers get the same.

        Exports whose worker gave no sign of life for ``lease_seconds`` are taken back first.
        """
        return self._run(self._flows.start(export_id))

    def heartbeat(self, claim: Claim) -> None:
        """Prolong the lease. Raises ExportLost: stop, somebody else has this export."""
        return self._run(self._flows.heartbeat(claim))

    def complete(self, claim: Claim, records: int, publish: Callable[[], int]) -> None:
        """Complete an export: ``publish`` makes its object visible and returns the size, and is called under the claim's lock.

        Raises:
            ExportLost: nothing was published.
        """
        return self._run(self._flows.complete(claim, records, publish))

    def fail(self, claim: Claim, reason: str, *, final: bool = False) -> str:
        """Give an export back with a reason that its user may read; returns ``pending``, or ``failed`` after the last retry.

        Raises:
            ExportLost: the claim does not count any more.
        """
        return self._run(self._flows.fail(claim, reason, final))

    def retry(self, export_id: ExportId) -> ExportHistory:
        """Queue a failed export again. Raises ExportNotFound, ExportStepRefused."""
        return self._run(self._flows.retry(export_id))

    def expire(self, export_id: ExportId) -> ExportHistory:
        """Remove the object of an export, and every reference to it. Raises ExportNotFound, ExportStepRefused."""
        return self._run(self._flows.expire(export_id))

    def link(self, export_id: ExportId, seconds: int = 300) -> str:
        """A signed address of a completed export, for so long. Raises ExportNotFound, ExportStepRefused, StorageFailed."""
        return self._run(self._flows.link(export_id, seconds))


class AsyncExportService:
    """Exports, by asynchronous sessions: arguments, methods and errors are those of ExportService."""

    def __init__(
        self,
        session_factory: async_sessionmaker[AsyncSession],
        storage: Storage,
        *,
        lease_seconds: float = 60,
        most_retries: int = 5,
        backoff_seconds: float = 30,
        keep_days: float = 7,
    ) -> None:
        self._flows = ExportFlows(storage, lease_seconds, most_retries, backoff_seconds, keep_days)
        self._run = AsyncDriver(session_factory, None).run

    async def request(
        self, user_id: UserId, export_type: str, export_format: str, filters: Mapping[str, Any] | None = None
    ) -> ExportHistory:
        """As ExportService.request."""
        return await self._run(self._flows.request(user_id, export_type, export_format, filters))

    async def get(self, export_id: ExportId) -> ExportHistory:
        """As ExportService.get."""
        return await self._run(self._flows.get(export_id))

    async def start(self, export_id: ExportId | None = None) -> Claim | None:
        """As ExportService.start."""
        return await self._run(self._flows.start(export_id))

    async def heartbeat(self, claim: Claim) -> None:
        """As ExportService.heartbeat."""
        return await self._run(self._flows.heartbeat(claim))

    async def complete(self, claim: Claim, records: int, publish: Callable[[], int]) -> None:
        """As ExportService.complete. ``publish`` runs in a thread."""
        return await self._run(self._flows.complete(claim, records, publish))

    async def fail(self, claim: Claim, reason: str, *, final: bool = False) -> str:
        """As ExportService.fail."""
        return await self._run(self._flows.fail(claim, reason, final))

    async def retry(self, export_id: ExportId) -> ExportHistory:
        """As ExportService.retry."""
        return await self._run(self._flows.retry(export_id))

    async def expire(self, export_id: ExportId) -> ExportHistory:
        """As ExportService.expire."""
        return await self._run(self._flows.expire(export_id))

    async def link(self, export_id: ExportId, seconds: int = 300) -> str:
        """As ExportService.link."""
        return await self._run(self._flows.link(export_id, seconds))
