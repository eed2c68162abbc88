"""What an alembic command asks for, on which database, and with which options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from alembic.util import CommandError

from profiles_schema import database
from profiles_schema.errors import UsageError
from profiles_schema.migrations import alembic_internals as internals
from profiles_schema.migrations import failures, paths
from profiles_schema.migrations.interrupts import interruptible
from profiles_schema.migrations.options import Options
from profiles_schema.migrations.session import MIGRATE

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, MetaData

    from profiles_schema.errors import ProfilesSchemaError

COMMAND = "profiles_schema.command"
"""The attribute of an alembic Config by which our own command line says which verb it runs."""
URL = "profiles_schema.url"
"""The attribute that names a database other than DATABASE_URL does."""
AT = "profiles_schema.at"
"""The attribute in which a migration leaves where it came from and where it ended, a ``summary.Outcome``."""


class Environment:
    """One alembic command on one database. Alembic says what the command is only by what it puts into its context."""

    def __init__(
        self,
        alembic: EnvironmentContext,
        options: Options,
        metadata: MetaData | Sequence[MetaData] | None,
        version_table: str,
        version_table_schema: str,
    ) -> None:
        self.alembic = alembic
        self.options = options
        self.metadata = metadata
        self.version_table = version_table
        self.version_table_schema = version_table_schema
        self.find_steps = internals.step_finder(alembic)
        self.steps: list[Any] = []

    @property
    def config(self) -> Config:
        return self.alembic.config

    @property
    def compares(self) -> bool:
        return internals.compares(self.alembic)

    @property
    def is_check(self) -> bool:
        return (internals.command_name(self.config) or self.config.attributes.get(COMMAND)) == "check"

    @property
    def migrates(self) -> bool:
        return internals.has_destination(self.alembic) or self.ensures_version

    @property
    def ensures_version(self) -> bool:
        return internals.ensures_version(self.find_steps)

    @property
    def goes_down(self) -> bool:
        return any(not getattr(step, "is_upgrade", True) for step in self.steps)

    @property
    def goes_on(self) -> str:
        """The value of ``session.GOES_ON``."""
        return "yes" if sum(paths.is_ours(step) for step in self.steps) > 1 else ""

    @property
    def task(self) -> str:
        """What the command does, for messages."""
        if self.compares:
            return "the comparison with the models"
        return "the migration" if self.migrates else "the look at the current revision"

    @property
    def models(self) -> MetaData | Sequence[MetaData]:
        """What ``check`` and ``revision`` compare with."""
        if self.metadata is not None:
            return self.metadata
        from profiles_schema.schema.models import metadata

        return metadata

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """The connection in the config's attributes, or one of our own, closed afterwards.

        Raises:
            NoDatabase: the database cannot be reached.
            UnsupportedEncoding: it is not in UTF8.
            UsageError: the connection in the attributes is inside a transaction.
        """
        connection: Connection | None = self.config.attributes.get("connection")
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

        url = resolve_url(local=self.options.local, given=self.config.attributes.get(URL))
        connection = database.connect(database.create_engine(url, application_name=MIGRATE))
        try:
            # Only now: the driver's interruptible way of waiting knows no connect_timeout.
            with interruptible() if self._owns_process else nullcontext():
                yield connection
        finally:
            connection.close()

    @property
    def _owns_process(self) -> bool:
        """Whether a command line runs us, so that signals and the driver's way of waiting are ours to set."""
        return bool(internals.command_name(self.config) or self.config.attributes.get(COMMAND))

    def configure(self, connection: Connection, **options: Any) -> MigrationContext:
        """Alembic's context on this connection, which commits each revision by itself."""
        connection.rollback()  # alembic takes a transaction that it finds for the caller's
        self.alembic.configure(
            connection=connection,
            transaction_per_migration=True,
            version_table=self.version_table,
            version_table_schema=self.version_table_schema,
            **options,
        )
        return self.alembic.get_context()

    def path_error(self, error: CommandError, heads: tuple[str, ...]) -> ProfilesSchemaError:
        """The error to raise where alembic cannot find its way from these revisions to what was asked for."""
        return failures.path_error(error, self.alembic.script, heads)

    @staticmethod
    def role(connection: Connection) -> str:
        """The database role at work, for messages."""
        try:
            role: str = connection.exec_driver_sql("select current_user").scalar_one()
            connection.rollback()
        except Exception:  # noqa: BLE001 - only for a message, and the connection may be gone
            return connection.engine.url.username or "unknown"
        return role
