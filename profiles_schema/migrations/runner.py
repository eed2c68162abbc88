"""Run migrations so that a live database does not notice: every ``env.py`` calls ``run``.

One migrator at a time; short waits for locks, with retries; one sentence for whatever goes wrong.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, NoReferencedTableError, PendingRollbackError

from profiles_schema import database, settings
from profiles_schema.database import refuse_read_only
from profiles_schema.driver import LOCK_FAILURES, Deadline, execute_literally, quote_name, retry_on_lock, sqlstate
from profiles_schema.errors import (
    InsufficientPrivilege,
    LockDeadlineExceeded,
    MigrationLockLost,
    ProfilesSchemaError,
    SchemaDrift,
    UsageError,
)
from profiles_schema.migrations import alembic_internals as internals
from profiles_schema.migrations import failures, identity, locking, offline, paths, standing, summary
from profiles_schema.migrations.blockers import BlockerWatch
from profiles_schema.migrations.dependents import refuse_dependents
from profiles_schema.migrations.indexes import concurrent_index_rules, is_concurrent
from profiles_schema.migrations.interrupts import TERMINATED, interruptible
from profiles_schema.migrations.losses import refuse_data_loss
from profiles_schema.migrations.options import Options, parse
from profiles_schema.migrations.pooler import refuse_transaction_pooler
from profiles_schema.migrations.session import GOES_ON, MIGRATE, OWN_SEARCH_PATH, public_by_default, session

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, MetaData

logger = logging.getLogger("profiles_schema.migrations")

COMMAND = "profiles_schema.command"
"""The attribute of an alembic Config by which our own command line says which verb it runs."""
URL = "profiles_schema.url"
"""The attribute that names a database other than DATABASE_URL does."""
AT = "profiles_schema.at"
"""The attribute in which a migration leaves where it came from and where it ended, a ``summary.Outcome``."""

_REMIND_SECONDS = 10.0


def run(
    context: Any = None,
    *,
    metadata: MetaData | Sequence[MetaData] | None = None,
    version_table: str = settings.VERSION_TABLE,
    version_table_schema: str = settings.INTERNAL_SCHEMA,
    known_x: Iterable[str] = (),
) -> None:
    """Do what the current alembic command asks for; the one call in an ``env.py``.

    A connection in ``config.attributes["connection"]`` is used instead of DATABASE_URL; it must not be inside a
    transaction, and its settings are restored afterwards.

    Args:
        context: ``alembic.context``, or an ``EnvironmentContext``.
        metadata: the models that ``revision --autogenerate`` and ``check`` compare with; by default ours.
        version_table: the name of alembic's table.
        version_table_schema: its schema, created where it is missing.
        known_x: further ``-x`` keys that the calling ``env.py`` understands.

    Raises:
        ProfilesSchemaError: in every case of failure, one message; under the plain ``alembic`` command it is printed
            and turned into SystemExit with its exit code.
    """
    if context is None:
        from alembic import context
    environment = internals.environment_of(context)
    config = environment.config
    run_ = _Run(environment, metadata, version_table, version_table_schema)
    with _reported(config):
        run_.options = parse(getattr(config.cmd_opts, "x", None) or (), known_x=known_x)
        if _only_lists(config):
            run_.original((), None)
        elif environment.is_offline_mode():
            run_.offline()
        else:
            run_.online()


@contextmanager
def _reported(config: Config) -> Iterator[None]:
    """Under the plain ``alembic`` command: one line and an exit code instead of an exception."""
    if internals.command_name(config) is None or getattr(config.cmd_opts, "raiseerr", False):
        yield
        return
    try:
        yield
    except ProfilesSchemaError as error:
        if settings.debug():
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command's own output
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None
    except SystemExit as leave:
        if leave.code == TERMINATED:
            print("error: terminated", file=sys.stderr)  # noqa: T201
        raise


def _only_lists(config: Config) -> bool:
    """Whether this is ``alembic history`` without a look at the database, which alembic.ini sends here nevertheless."""
    options: Any = config.cmd_opts
    return bool(
        internals.command_name(config) == "history"
        and not options.indicate_current
        and "current" not in (options.rev_range or "")
    )


def _owns_process(config: Config) -> bool:
    """Whether a command line runs us, so that signals and the driver's way of waiting are ours to set."""
    return bool(internals.command_name(config) or config.attributes.get(COMMAND))


class _Run:
    """One alembic command on one database."""

    options: Options

    def __init__(
        self,
        environment: EnvironmentContext,
        metadata: MetaData | Sequence[MetaData] | None,
        version_table: str,
        version_table_schema: str,
    ) -> None:
        self.environment = environment
        self.metadata = metadata
        self.version_table = version_table
        self.version_table_schema = version_table_schema
        self.original = internals.plan_of(environment)
        self.steps: list[Any] = []

    # What the command is. Alembic says it only by what it puts into the context.

    @property
    def compares(self) -> bool:
        return internals.compares(self.environment)

    @property
    def migrates(self) -> bool:
        return internals.has_destination(self.environment) or self.ensures_version

    @property
    def ensures_version(self) -> bool:
        return internals.ensures_version(self.original)

    @property
    def goes_down(self) -> bool:
        return any(not getattr(step, "is_upgrade", True) for step in self.steps)

    @property
    def goes_on(self) -> str:
        return "yes" if sum(paths.is_ours(step) for step in self.steps) > 1 else ""

    # Offline

    def offline(self) -> None:
        self.environment.configure(
            dialect_name="postgresql+psycopg2",
            dialect_opts={"paramstyle": "named"},
            literal_binds=True,
            transaction_per_migration=True,
            version_table=self.version_table,
            version_table_schema=self.version_table_schema,
            on_version_apply=self._log_offline,
            fn=self._offline_steps,
        )
        context = self.environment.get_context()
        offline.apply_index_rules(context.impl, self.options)
        self.heads_after: set[str] = set()
        try:
            start = context.get_current_heads()
            self.steps = list(self.original(start, context))
        except CommandError as error:
            raise failures.refused(error, self.environment.script, ()) from error
        table = {"schema": self.version_table_schema, "version_table": self.version_table}
        for text in offline.head(self.options, start=start, goes_on=self.goes_on, **table):
            context.impl.static_output(text)
        self.environment.run_migrations()
        at_base = bool(self.steps) and not self.heads_after
        for text in offline.foot(at_base=at_base, **table):
            context.impl.static_output(text)

    def _offline_steps(self, _heads: tuple[str, ...], context: MigrationContext) -> Iterator[Any]:
        for step in self.steps:
            context.impl.static_output(offline.search_path(OWN_SEARCH_PATH if paths.is_ours(step) else None))
            yield step
        context.impl.static_output(offline.search_path(None))

    def _log_offline(self, ctx: MigrationContext, step: Any, heads: Any, run_args: Any) -> None:
        self.heads_after = set(heads)
        del run_args
        if step.is_migration:
            direction = "upgrade" if step.is_upgrade else "downgrade"
            ctx.impl.static_output(summary.offline_log(step.up_revision_id, direction))

    # Online

    def online(self) -> None:
        with self._connected() as connection:
            try:
                if self.migrates:
                    self._migrate(connection)
                else:
                    self._read(connection)
            except DBAPIError as error:
                raise failures.translated(error, doing=self._doing(), role=_role(connection)) from error

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        connection: Connection | None = self.environment.config.attributes.get("connection")
        if connection is not None:
            if connection.in_transaction():
                raise UsageError(
                    "The connection in config.attributes is inside a transaction. Pass one from engine.connect(), "
                    "not from engine.begin(): revisions are committed one by one."
                )
            encoding, name = connection.exec_driver_sql(
                "select pg_catalog.current_setting('server_encoding'), pg_catalog.current_database()"
            ).one()
            connection.rollback()
            database.check_encoding(encoding, name, connection.connection.dbapi_connection)
            yield connection
            return
        from profiles_schema.migrations.target import resolve_url

        url = resolve_url(local=self.options.local, given=self.environment.config.attributes.get(URL))
        connection = database.connect(database.create_engine(url, application_name=MIGRATE))
        try:
            # Only now: the driver's interruptible way of waiting knows no connect_timeout.
            with interruptible() if _owns_process(self.environment.config) else nullcontext():
                yield connection
        finally:
            connection.close()

    def _configure(self, connection: Connection, **options: Any) -> MigrationContext:
        connection.rollback()  # alembic takes a transaction that it finds for the caller's
        self.environment.configure(
            connection=connection,
            transaction_per_migration=True,
            version_table=self.version_table,
            version_table_schema=self.version_table_schema,
            **options,
        )
        return self.environment.get_context()

    def _doing(self) -> str:
        if self.compares:
            return "the comparison with the models"
        return "the migration" if self.migrates else "the look at the current revision"

    # Commands that only look: current, check, revision --autogenerate

    def _read(self, connection: Connection) -> None:
        options: dict[str, Any] = {"dont_mutate": True}
        if self.compares:
            from profiles_schema.migrations.autogenerate import configure_options

            if not self._is_check():
                refuse_read_only(connection, "The comparison makes objects in a transaction that it rolls back.")
            options |= configure_options(self._compared(), ours_too=not self._is_check())
        with session(connection, self.options), public_by_default(connection):
            context = self._configure(connection, **options)
            try:
                self.environment.run_migrations()
            except CommandError as error:
                connection.rollback()
                heads = context.get_current_heads()
                if not heads:
                    self._refuse_lost_version(connection)
                raise failures.refused(error, self.environment.script, heads) from error
            except NoReferencedTableError as error:
                raise failures.foreign_key_unresolved(error) from error
            connection.rollback()
            if self.compares and self._is_check():
                self._report_drift(connection)

    def _compared(self) -> MetaData | Sequence[MetaData]:
        if self.metadata is not None:
            return self.metadata
        from profiles_schema.schema.models import metadata

        return metadata

    def _is_check(self) -> bool:
        config = self.environment.config
        return bool((internals.command_name(config) or config.attributes.get(COMMAND)) == "check")

    def _report_drift(self, connection: Connection) -> None:
        from profiles_schema.migrations import drift, expected
        from profiles_schema.migrations.autogenerate import includes_ours

        differences = [line for ops in internals.proposed(self.environment) for line in drift.described(ops)]
        if includes_ours(self._compared()):
            differences += expected.described(connection)
        connection.rollback()
        if differences:
            raise SchemaDrift(differences=differences)

    # Commands that write: upgrade, downgrade, stamp

    def _migrate(self, connection: Connection) -> None:
        refuse_read_only(connection)
        refuse_transaction_pooler(connection)
        with (
            session(connection, self.options),
            locking.migration_lock(connection, wait_seconds=self.options.lock_wait_seconds),
        ):
            context = self._configure(connection, fn=self._planned, on_version_apply=self._applied)
            heads = () if context.purge else context.get_current_heads()
            connection.rollback()
            if not (heads or self.ensures_version or internals.stamps(self.original)):
                self._refuse_lost_version(connection)
            try:
                self.steps = [] if self.ensures_version else list(self.original(heads, context))
            except CommandError as error:
                raise failures.refused(error, self.environment.script, heads) from error
            if self.options.values["allow-data-loss"] != "yes":
                refuse_data_loss(connection, self.steps)
            refuse_dependents(connection, self.steps)
            if not self.goes_down:
                identity.refuse_unfit(connection, self.options)
            before = summary.count(connection)
            self.outcome = summary.Outcome(tuple(sorted(heads)), before)
            if not (self.steps or self.ensures_version or context.purge):
                self._choose_identity(connection)
                self._tidy(connection)
                self._say_where(connection, before)
                return
            logger.info("Before: %s.", before)
            connection.exec_driver_sql(f"select pg_catalog.set_config('{GOES_ON}', '{self.goes_on}', false)")
            connection.commit()
            work = _Work(self, connection, before)
            self.work = work
            try:
                work.run()
            except ProfilesSchemaError:
                self._tell_api(connection, changed=bool(work.logged))  # what was committed before stays
                if not heads:
                    self._leave_nothing(connection)
                raise
            if not self.goes_down:
                self._choose_identity(connection)
            self._tidy(connection)
            self._tell_api(connection, changed=bool(self.steps))
            after = summary.count(connection)
            work.record(after)
            self._say_where(connection, after)

    def _tell_api(self, connection: Connection, *, changed: bool) -> None:
        if not changed:
            return
        try:
            connection.rollback()
            connection.exec_driver_sql(settings.RELOAD_API)
            connection.commit()
        except DBAPIError:
            pass  # a connection that is lost, which what comes next says better

    def _refuse_lost_version(self, connection: Connection) -> None:
        """Our tables without a version row must not be taken for a database that was never migrated."""
        obstacle = standing.without_version(connection)
        connection.rollback()
        if obstacle is not None:
            raise obstacle.error()

    def _choose_identity(self, connection: Connection) -> None:
        if name := identity.choose(connection, self.options):
            logger.info(
                "Users come from %s from here on. For the rows that it holds already: profiles-schema backfill", name
            )

    def _planned(self, heads: tuple[str, ...], context: MigrationContext) -> Iterator[Any]:
        if self.ensures_version:
            self.original(heads, context)
            return
        yield from self.work.remaining()

    def _applied(self, ctx: MigrationContext, step: Any, heads: Any, run_args: Any) -> None:
        del ctx, heads, run_args  # alembic passes them by name
        self.work.log_row(step)

    def _say_where(self, connection: Connection, counts: summary.Counts) -> None:
        heads = self.environment.get_context().get_current_heads()
        connection.rollback()
        newest = bool(heads) and internals.is_newest(self.environment.script, heads)
        where = ", ".join(sorted(heads)) or "base"
        self.outcome.end(tuple(sorted(heads)), counts, newest=newest)
        self.environment.config.attributes[AT] = self.outcome
        logger.info("%s (%s): %s.", "At head" if newest else "At", where, counts)

    def _tidy(self, connection: Connection) -> None:
        """At base: drop the version table, and our schema if nothing else is in it."""
        if self.environment.get_context().get_current_heads():
            connection.rollback()
            return
        connection.rollback()
        # Without a step: a downgrade that was cut off behind its last one.
        down = not getattr(self.steps[-1], "is_upgrade", True) if self.steps else internals.is_downgrade(self.original)
        if not down:
            return
        self._drop_frame(connection)
        left = connection.exec_driver_sql(
            "select pg_catalog.pg_describe_object(classid, objid, objsubid) from pg_catalog.pg_depend "
            "where refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and deptype = 'n' "
            f"and refobjid = pg_catalog.to_regnamespace('{settings.INTERNAL_SCHEMA}') order by 1 limit 10"
        ).scalars()
        names = list(left)
        connection.rollback()
        if names:
            logger.warning("Schema %s stays, for it holds: %s.", settings.INTERNAL_SCHEMA, ", ".join(names))

    def _leave_nothing(self, connection: Connection) -> None:
        """After a first upgrade that was refused: "nothing was changed" includes what the runner itself had made."""
        if connection.closed or connection.invalidated:
            return
        try:
            heads = self.environment.get_context().get_current_heads()
            connection.rollback()
            # Our first revision does nothing where others follow it.
            if set(heads) <= {self.steps[0].revision.revision if self.goes_on and paths.is_ours(self.steps[0]) else ""}:
                self._drop_frame(connection)
        except DBAPIError:
            connection.rollback()

    def _drop_frame(self, connection: Connection) -> None:
        table = f"{quote_name(self.version_table_schema)}.{quote_name(self.version_table)}"
        execute_literally(connection, f"drop table if exists {table}")
        connection.exec_driver_sql(offline.drop_schema())
        connection.commit()


class _Work:
    """The steps of one run, each tried until it succeeds or its deadline passes."""

    def __init__(self, run: _Run, connection: Connection, counts: summary.Counts) -> None:
        self.options = run.options
        self.environment = run.environment
        self.connection = connection
        self.counts = counts
        self.outcome = run.outcome
        self.steps = run.steps
        self.schemas = tuple(dict.fromkeys((settings.INTERNAL_SCHEMA, run.version_table_schema)))
        self.done = 0
        self.step: Any = None
        self.started = 0.0
        self.deadline = Deadline(self.options.deadline_seconds)
        self.remind_at = 0.0
        self.logged: list[tuple[str, str]] = []
        self.watch: BlockerWatch | None = None
        self.role = _role(connection)
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
            stack.enter_context(_notices_shown(self.connection))
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
            logger.info("%s: %.2f s", _named(step), seconds)
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
            counts=self.counts,
        )

    def _attempt(self) -> None:
        """Run the remaining steps."""
        try:
            self._ensure_schemas()
            with _causes_shown():
                self.environment.run_migrations()
        except DBAPIError as error:
            self._recover()
            if sqlstate(error) in LOCK_FAILURES:
                raise
            self._log_failure()
            raise failures.translated(error, doing=self._doing(), role=self.role) from error
        except CommandError as error:
            self._recover()
            self._log_failure()
            raise UsageError(f"{self._doing()}: {error}") from error
        except BaseException as error:
            self._recover()
            self._log_failure()
            if isinstance(error, KeyboardInterrupt | SystemExit):
                logger.warning("Interrupted. Finished revisions stand; run this again to go on.")
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
                f"{self._doing()} could not get its lock within {self.options.deadline_seconds:g} s.{held} "
                "The revision is not applied; run this again when that session has ended."
            ) from error
        now = time.monotonic()
        if self.deadline.attempts == 1 or now >= self.remind_at:
            self.remind_at = now + _REMIND_SECONDS
            logger.info(
                "%s: no lock within %d ms; trying again, for up to %.0f s.",
                self._doing(),
                self.options.lock_timeout_ms,
                remaining,
            )

    def _recover(self) -> None:
        """Bring connection and alembic back to where a new attempt can start."""
        if self.watch is not None:
            self.watch.end()
        internals.start_again(self.environment.get_context(), self.connection)
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

    def _doing(self) -> str:
        return _named(self.step).partition(":")[0] if self.step is not None else "Preparing the version table"


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


def _named(step: Any) -> str:
    info = step.info
    if info.is_stamp:
        return f"stamp {', '.join(info.destination_revision_ids) or 'base'}"
    title = f": {step.doc.rstrip('.')}" if step.doc else ""
    return f"{'upgrade' if info.is_upgrade else 'downgrade'} {info.up_revision_id}{title}"


def _role(connection: Connection) -> str:
    try:
        role: str = connection.exec_driver_sql("select current_user").scalar_one()
        connection.rollback()
    except Exception:  # noqa: BLE001 - only for a message, and the connection may be gone
        return connection.engine.url.username or "unknown"
    return role


@contextmanager
def _causes_shown() -> Iterator[None]:
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
def _notices_shown(connection: Connection) -> Iterator[None]:
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
