"""The steps of one migration, each tried until it succeeds or its deadline passes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from profiles_schema import settings
from profiles_schema.driver import LOCK_FAILURES, Deadline, execute_literally, quote_name, retry_on_lock, sqlstate
from profiles_schema.errors import (
    InsufficientPrivilege,
    LockDeadlineExceeded,
    MigrationLockLost,
    ProfilesSchemaError,
    UsageError,
)
from profiles_schema.migrations import alembic_internals as internals
from profiles_schema.migrations import failures, locking, paths, summary
from profiles_schema.migrations.blockers import BlockerWatch
from profiles_schema.migrations.environment import Environment
from profiles_schema.migrations.indexes import concurrent_index_rules, is_concurrent
from profiles_schema.migrations.session import OWN_SEARCH_PATH

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger("profiles_schema.migrations")

_REMIND_SECONDS = 10.0


class Steps:
    """The steps of one run."""

    def __init__(self, environment: Environment, connection: Connection, outcome: summary.Outcome) -> None:
        self.options = environment.options
        self.alembic = environment.alembic
        self.connection = connection
        self.outcome = outcome
        self.steps = environment.steps
        self.schemas = tuple(dict.fromkeys((settings.INTERNAL_SCHEMA, environment.version_table_schema)))
        self.done = 0
        self.step: Any = None
        self.started = 0.0
        self.deadline = Deadline(self.options.deadline_seconds)
        self.remind_at = 0.0
        self.logged: list[tuple[str, str]] = []
        self.watch: BlockerWatch | None = None
        self.role = environment.role(connection)
        self.search_path: str = connection.exec_driver_sql("show search_path").scalar_one()
        connection.commit()

    def run(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(
                concurrent_index_rules(
                    self.connection,
                    lock_timeout_ms=self.options.lock_timeout_ms,
                    deadline_seconds=self.options.deadline_seconds,
                )
            )
            stack.enter_context(_show_notices(self.connection))
            self.watch = stack.enter_context(BlockerWatch(self.connection))
            retry_on_lock(self.connection, self._attempt, self.deadline, on_failure=self._explain_wait)
            self.connection.commit()  # the version table by itself, where no revision came after it

    def remaining(self) -> Iterator[Any]:
        """The steps still to do; a step counts as done once alembic comes back for the next, after its commit."""
        assert self.watch is not None  # noqa: S101 - for the type checker
        for step in self.steps[self.done :]:
            self._prepare(OWN_SEARCH_PATH if paths.is_ours(step) else self.search_path)
            self.step = step
            self.started = time.monotonic()
            self.watch.begin()
            yield step
            self.watch.end()
            seconds = time.monotonic() - self.started
            logger.info("%s: %.2f s", _title(step), seconds)
            self.outcome.add(step.info, seconds)
            self.done += 1
            self.step = None
            self.deadline.restart()
            self.watch.forget()

    def log_row(self, step: Any) -> None:
        """Write the row of ``migration_log``, in the revision's own transaction."""
        if step.is_stamp:
            return
        direction = "upgrade" if step.is_upgrade else "downgrade"
        if self._write_log(self.connection, step.up_revision_id, direction, "done"):
            self.logged.append((step.up_revision_id, direction))

    def record(self, after: summary.Counts) -> None:
        """Put the counts at the end of the run into the last row."""
        if not self.logged:
            return
        try:
            summary.amend_log(self.connection, *self.logged[-1], counts=after)
            self.connection.commit()
        except DBAPIError:
            self.connection.rollback()

    def _write_log(self, connection: Connection, revision: str, direction: str, outcome: str) -> bool:
        return summary.write_log(
            connection,
            revision=revision,
            direction=direction,
            seconds=time.monotonic() - self.started,
            outcome=outcome,
            counts=self.outcome.before,
        )

    def _attempt(self) -> None:
        """Run the remaining steps."""
        try:
            self._ensure_schemas()
            with _show_cause():
                self.alembic.run_migrations()
        except DBAPIError as error:
            self._recover()
            if sqlstate(error) in LOCK_FAILURES:
                raise
            self._log_failure()
            raise failures.database_error(error, doing=self._task(), role=self.role) from error
        except CommandError as error:
            self._recover()
            self._log_failure()
            raise UsageError(f"{self._task()}: {error}") from error
        except BaseException as error:
            self._recover()
            self._log_failure()
            if isinstance(error, KeyboardInterrupt | SystemExit):
                logger.warning("Interrupted. Finished revisions stay; run this again to continue.")
            raise

    def _prepare(self, search_path: str) -> None:
        """Before each attempt at a step: the lock must still be ours, the settings as they should be."""
        held = self.connection.exec_driver_sql(
            f"select {locking.HELD_BY_US}, "
            f"pg_catalog.set_config('lock_timeout', '{self.options.lock_timeout_ms}ms', false), "
            "pg_catalog.set_config('search_path', %(search_path)s, false)",
            {"search_path": search_path},
        ).one()[0]
        self.connection.commit()
        if not held:
            raise MigrationLockLost

    def _ensure_schemas(self) -> None:
        if self.steps and not getattr(self.steps[0], "is_upgrade", True):
            return
        for name in self.schemas:
            quoted = quote_name(name)
            database, missing, may_create = self.connection.exec_driver_sql(
                "select pg_catalog.quote_ident(pg_catalog.current_database()), "
                "pg_catalog.to_regnamespace(%(name)s) is null, "
                "pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')",
                {"name": quoted},
            ).one()
            if missing and not may_create:
                self.connection.rollback()
                role = quote_name(self.role)
                raise InsufficientPrivilege(
                    f"Role {role} may not create schema {quoted} in database {database}. "
                    f"Let an administrator run: grant create on database {database} to {role};"
                )
            if missing:
                execute_literally(self.connection, f"create schema {quoted}")
            self.connection.commit()

    def _explain_wait(self, error: DBAPIError, remaining: float) -> None:
        """Say now and then that a lock is missing; at the end, which session holds it."""
        # An index built concurrently has waited for the whole deadline already.
        if remaining <= 0 or is_concurrent(error.statement or ""):
            self._log_failure()
            blocker = self.watch.last if self.watch is not None else None
            held = f" It is held by {blocker}." if blocker else " Who holds it could not be seen."
            raise LockDeadlineExceeded(
                f"{self._task()} could not get its lock within {self.options.deadline_seconds:g} s.{held} "
                "The revision is not applied; run this again when that session has ended."
            ) from error
        now = time.monotonic()
        if self.deadline.attempts == 1 or now >= self.remind_at:
            self.remind_at = now + _REMIND_SECONDS
            logger.info(
                "%s: no lock within %d ms; trying again, for up to %.0f s.",
                self._task(),
                self.options.lock_timeout_ms,
                remaining,
            )

    def _recover(self) -> None:
        """Bring connection and alembic back to where a new attempt can start."""
        if self.watch is not None:
            self.watch.end()
        internals.start_again(self.alembic.get_context(), self.connection)
        if self.connection.closed or self.connection.invalidated:
            return
        try:
            self.connection.rollback()
            if getattr(self.connection.connection.driver_connection, "autocommit", False):
                self.connection.execution_options(isolation_level=self.connection.default_isolation_level)
        except DBAPIError:
            self.connection.invalidate()

    def _log_failure(self) -> None:
        """A row for the failed revision, if that is still possible: an interruption costs the connection."""
        if self.step is None or self.step.info.is_stamp:
            return
        info = self.step.info
        direction = "upgrade" if info.is_upgrade else "downgrade"
        with suppress(DBAPIError, ProfilesSchemaError), ExitStack() as stack:
            connection = self.connection
            if connection.closed or connection.invalidated:
                connection = stack.enter_context(connection.engine.connect())
            stack.callback(connection.rollback)
            connection.exec_driver_sql(f"set local lock_timeout = {self.options.lock_timeout_ms}")
            self._write_log(connection, info.up_revision_id, direction, "failed")
            connection.commit()
            if connection.exec_driver_sql(_SIGN_UPS_REST).scalar():
                logger.warning(
                    "Until the upgrade goes on, sign-ups get no profile: the application's trigger was set aside in 0005,"
                    " ours comes in 0014. Those users get theirs in 0015. To give the trigger back: profiles-schema"
                    " downgrade base"
                )

    def _task(self) -> str:
        return _title(self.step).partition(":")[0] if self.step is not None else "Preparing the version table"


_SIGN_UPS_REST = """
select exists (
    select from profiles_internal.adopted as a
    where a.revision = '0005_create_sign_up_functions' and a.object_type = 'set aside' and starts_with(a.object_name, 'function ')
  )
  and not exists (
    select from pg_trigger as t
    where t.tgrelid = to_regclass('auth.users') and t.tgname = 'profiles_on_auth_user_created'
  )
"""


def _title(step: Any) -> str:
    info = step.info
    if info.is_stamp:
        return f"stamp {', '.join(info.destination_revision_ids) or 'base'}"
    title = f": {step.doc.rstrip('.')}" if step.doc else ""
    return f"{'upgrade' if info.is_upgrade else 'downgrade'} {info.up_revision_id}{title}"


@contextmanager
def _show_cause() -> Iterator[None]:
    """Raise what broke the connection inside an autocommit block.

    Alembic leaves such a block by a commit, also after an error, and on a broken connection the commit fails with a
    PendingRollbackError that hides the first error: a lost connection, Ctrl-C, SIGTERM.
    """
    try:
        yield
    except PendingRollbackError as error:
        cause: BaseException | None = error
        while isinstance(cause, PendingRollbackError):
            cause = cause.__context__
        raise (cause or error) from None


@contextmanager
def _show_notices(connection: Connection) -> Iterator[None]:
    """Pass on what revisions say (RAISE NOTICE, INFO, WARNING), without the server's own chatter."""
    from sqlalchemy import event

    def after(conn: Connection, *_: Any) -> None:
        notices = getattr(conn.connection.driver_connection, "notices", ())
        for notice in notices:
            severity, _, message = notice.strip().partition(":")
            message = message.strip().partition("\n")[0]
            if severity == "NOTICE" and (message.endswith(", skipping") or message.startswith("drop cascades to")):
                continue
            logger.log(logging.WARNING if severity == "WARNING" else logging.INFO, "%s", message)
        if notices:
            notices.clear()

    event.listen(connection, "after_cursor_execute", after)
    try:
        yield
    finally:
        event.remove(connection, "after_cursor_execute", after)
