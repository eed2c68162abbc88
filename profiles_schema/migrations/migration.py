"""The commands that write: upgrade, downgrade, stamp. What frames their revisions, and what is said about the outcome."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from profiles_schema import settings
from profiles_schema.database import refuse_read_only
from profiles_schema.driver import execute_literally, quote_name
from profiles_schema.errors import ProfilesSchemaError
from profiles_schema.migrations import alembic_internals as internals
from profiles_schema.migrations import identity, locking, offline, paths, standing, summary
from profiles_schema.migrations.dependents import refuse_dependents
from profiles_schema.migrations.environment import AT, Environment
from profiles_schema.migrations.losses import refuse_data_loss
from profiles_schema.migrations.pooler import refuse_transaction_pooler
from profiles_schema.migrations.session import GOES_ON, session
from profiles_schema.migrations.steps import Steps

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

logger = logging.getLogger("profiles_schema.migrations")


class Migration:
    """One upgrade, downgrade or stamp."""

    def __init__(self, environment: Environment, connection: Connection) -> None:
        self.environment = environment
        self.connection = connection
        self.outcome: summary.Outcome
        self.work: Steps

    def run(self) -> None:
        """Do it, as the only migrator on the database."""
        refuse_read_only(self.connection)
        refuse_transaction_pooler(self.connection)
        options = self.environment.options
        with (
            session(self.connection, options),
            locking.migration_lock(self.connection, wait_seconds=options.lock_wait_seconds),
        ):
            self._run()

    def _run(self) -> None:
        environment, connection = self.environment, self.connection
        context = environment.configure(connection, fn=self._remaining_steps, on_version_apply=self._log_step)
        heads = () if context.purge else context.get_current_heads()
        connection.rollback()
        if not (heads or environment.ensures_version or internals.stamps(environment.find_steps)):
            standing.refuse_lost_version(connection)
        try:
            environment.steps = [] if environment.ensures_version else list(environment.find_steps(heads, context))
        except CommandError as error:
            raise environment.path_error(error, heads) from error
        self._refuse_harm()
        before = summary.count(connection)
        self.outcome = summary.Outcome(tuple(sorted(heads)), before)
        if not (environment.steps or environment.ensures_version or context.purge):
            self._choose_identity()
            self._tidy()
            self._report(before)
            return
        logger.info("Before: %s.", before)
        connection.exec_driver_sql(f"select pg_catalog.set_config('{GOES_ON}', '{environment.goes_on}', false)")
        connection.commit()
        self.work = Steps(environment, connection, self.outcome)
        try:
            self.work.run()
        except ProfilesSchemaError:
            self._reload_api(changed=bool(self.work.logged))  # what was committed before stays
            if not heads:
                self._leave_nothing()
            raise
        if not environment.goes_down:
            self._choose_identity()
        self._tidy()
        self._reload_api(changed=bool(environment.steps))
        after = summary.count(connection)
        self.work.record(after)
        self._report(after)

    def _refuse_harm(self) -> None:
        environment, connection = self.environment, self.connection
        if environment.options.values["allow-data-loss"] != "yes":
            refuse_data_loss(connection, environment.steps)
        refuse_dependents(connection, environment.steps)
        if not environment.goes_down:
            identity.refuse_unfit(connection, environment.options)

    # What alembic calls

    def _remaining_steps(self, heads: tuple[str, ...], context: MigrationContext) -> Iterator[Any]:
        if self.environment.ensures_version:
            self.environment.find_steps(heads, context)
            return
        yield from self.work.remaining()

    def _log_step(self, ctx: MigrationContext, step: Any, heads: Any, run_args: Any) -> None:
        del ctx, heads, run_args  # alembic passes them by name
        self.work.log_row(step)

    # After the revisions

    def _reload_api(self, *, changed: bool) -> None:
        if not changed:
            return
        try:
            self.connection.rollback()
            self.connection.exec_driver_sql(settings.RELOAD_API)
            self.connection.commit()
        except DBAPIError:
            pass  # a connection that is lost, which what comes next says better

    def _choose_identity(self) -> None:
        if name := identity.choose(self.connection, self.environment.options):
            logger.info(
                "Users come from %s from here on. For the rows that it holds already: profiles-schema backfill", name
            )

    def _report(self, counts: summary.Counts) -> None:
        heads = self.environment.alembic.get_context().get_current_heads()
        self.connection.rollback()
        newest = bool(heads) and internals.is_newest(self.environment.alembic.script, heads)
        where = ", ".join(sorted(heads)) or "base"
        self.outcome.end(tuple(sorted(heads)), counts, newest=newest)
        self.environment.config.attributes[AT] = self.outcome
        logger.info("%s (%s): %s.", "At head" if newest else "At", where, counts)

    def _tidy(self) -> None:
        """At base: drop the version table, and our schema if nothing else is in it."""
        if self.environment.alembic.get_context().get_current_heads():
            self.connection.rollback()
            return
        self.connection.rollback()
        # Without a step: a downgrade that was cut off behind its last one.
        steps, find_steps = self.environment.steps, self.environment.find_steps
        if getattr(steps[-1], "is_upgrade", True) if steps else not internals.is_downgrade(find_steps):
            return
        self._drop_frame()
        left = self.connection.exec_driver_sql(
            "select pg_catalog.pg_describe_object(classid, objid, objsubid) from pg_catalog.pg_depend "
            "where refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and deptype = 'n' "
            f"and refobjid = pg_catalog.to_regnamespace('{settings.INTERNAL_SCHEMA}') order by 1 limit 10"
        ).scalars()
        names = list(left)
        self.connection.rollback()
        if names:
            logger.warning("Schema %s stays, for it holds: %s.", settings.INTERNAL_SCHEMA, ", ".join(names))

    def _leave_nothing(self) -> None:
        """After a first upgrade that was refused: "nothing was changed" includes what the runner itself had made."""
        if self.connection.closed or self.connection.invalidated:
            return
        try:
            heads = self.environment.alembic.get_context().get_current_heads()
            self.connection.rollback()
            steps = self.environment.steps
            # Our first revision does nothing where others follow it.
            is_idle = self.environment.goes_on and paths.is_ours(steps[0])
            if set(heads) <= {steps[0].revision.revision if is_idle else ""}:
                self._drop_frame()
        except DBAPIError:
            self.connection.rollback()

    def _drop_frame(self) -> None:
        table = f"{quote_name(self.environment.version_table_schema)}.{quote_name(self.environment.version_table)}"
        execute_literally(self.connection, f"drop table if exists {table}")
        self.connection.exec_driver_sql(offline.drop_schema())
        self.connection.commit()
