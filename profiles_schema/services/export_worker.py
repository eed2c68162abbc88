"""A worker: claims exports, writes them, and keeps its lease meanwhile."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from profiles_schema.errors import ExportLost, InvalidExport, ServiceError, ServiceFailed
from profiles_schema.services import export_contents
from profiles_schema.services.export_queries import Claim
from profiles_schema.services.exports import ExportService
from profiles_schema.services.flows import sqlstate

LOGGER: Final = logging.getLogger("profiles_schema.exports")
_BEATS_PER_LEASE: Final = 4
_LONGEST_PAUSE_SECONDS: Final = 60.0


class ExportWorker:
    """Writes exports, one after the other per thread.

    Args:
        service: Claims exports, and knows the storage and the lease.
        session_factory: Sessions that read what is exported; also of a replica.
    """

    def __init__(self, service: ExportService, session_factory: sessionmaker[Session]) -> None:
        self._service = service
        self._sessions = session_factory
        self.stopped = threading.Event()
        """Set it to drain: exports at work are finished, and no other is started."""

    def work(self, *, once: bool = False, concurrency: int = 1, poll_seconds: float = 5.0) -> Counter[str]:
        """Work until ``stopped`` is set, or with ``once`` until no export is due; returns outcomes with their numbers.

        Outcomes are completed, pending (will be tried again), failed, and lost (another worker has it).
        """
        with ThreadPoolExecutor(concurrency, thread_name_prefix="export") as pool:
            threads = [pool.submit(self._loop, once, poll_seconds) for _ in range(concurrency)]
            outcomes: Counter[str] = Counter()
            try:
                for thread in threads:
                    outcomes += thread.result()
            except BaseException:
                self.stopped.set()  # or the pool would wait for the other threads for ever
                raise
        return outcomes

    def _loop(self, once: bool, poll_seconds: float) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        failures = 0
        while not self.stopped.is_set():
            try:
                claim = self._service.start()
            except ServiceFailed as error:
                if once:
                    raise
                failures += 1
                LOGGER.warning("%s", error)
                self.stopped.wait(min(poll_seconds * 2 ** min(failures, 10), _LONGEST_PAUSE_SECONDS))
                continue
            failures = 0
            if claim is not None:
                outcomes[self.do(claim)] += 1
            elif once:
                break
            else:
                self.stopped.wait(poll_seconds)
        return outcomes

    def do(self, claim: Claim) -> str:
        """Write one export; returns its outcome."""
        try:
            with self._lease(claim) as lost:
                self._write(claim, lost)
        except ExportLost:
            outcome = "lost"
        except Exception as error:  # noqa: BLE001 - whatever it is, the export must not hang in processing
            LOGGER.warning("Export %s failed: %s", claim.id, _reason(error))
            outcome = self._fail(claim, error)
        else:
            outcome = "completed"
        LOGGER.info("Export %s (%s, %s): %s", claim.id, claim.export_type, claim.export_format, outcome)
        return outcome

    def _write(self, claim: Claim, lost: threading.Event) -> None:
        def alive() -> None:
            if lost.is_set():
                raise ExportLost

        upload = self._service.storage.upload(claim.key)
        try:
            with self._sessions() as session, session.begin():
                records = export_contents.write(session, claim, upload.file, alive)
            self._service.complete(claim, records, upload.publish)
        finally:
            upload.discard()

    def _fail(self, claim: Claim, error: Exception) -> str:
        try:
            return self._service.fail(claim, _reason(error), final=isinstance(error, InvalidExport))
        except ExportLost:
            return "lost"
        except (ServiceError, OSError):
            return "lost"  # when the lease runs out, it is taken back

    @contextmanager
    def _lease(self, claim: Claim) -> Iterator[threading.Event]:
        """Give heartbeats as long as the block runs; yields what is set when the export is lost."""
        ended, lost = threading.Event(), threading.Event()

        def beat() -> None:
            while not ended.wait(self._service.lease_seconds / _BEATS_PER_LEASE):
                try:
                    self._service.heartbeat(claim)
                except ExportLost:
                    lost.set()
                    return
                except ServiceError as error:
                    LOGGER.warning("Export %s: no heartbeat. %s", claim.id, error)

        heart = threading.Thread(target=beat, name=f"heartbeat {claim.id}", daemon=True)
        heart.start()
        try:
            yield lost
        finally:
            ended.set()
            heart.join()


def _reason(error: Exception) -> str:
    """Why an export failed, for its user: never the words of the database or the storage, which may quote values."""
    if isinstance(error, ServiceError):
        return str(error)
    if isinstance(error, SQLAlchemyError):
        return f"The database failed (SQLSTATE {sqlstate(error) or '08001'})."
    if isinstance(error, OSError):
        return "The storage failed."
    return f"The export failed ({type(error).__name__})."
