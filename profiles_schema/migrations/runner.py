"""Run migrations so that a live database does not notice: every ``env.py`` calls ``run``.

One migrator at a time; short waits for locks, with retries; one sentence for each failure.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from profiles_schema import settings
from profiles_schema.errors import ProfilesSchemaError
from profiles_schema.migrations import alembic_internals as internals
from profiles_schema.migrations import comparison, failures, migration, offline
from profiles_schema.migrations.environment import AT, COMMAND, URL, Environment
from profiles_schema.migrations.interrupts import TERMINATED
from profiles_schema.migrations.options import parse

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import MetaData

__all__ = ["AT", "COMMAND", "URL", "run"]


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
    alembic = internals.environment_of(context)
    with _report_errors(alembic.config):
        options = parse(getattr(alembic.config.cmd_opts, "x", None) or (), known_x=known_x)
        environment = Environment(alembic, options, metadata, version_table, version_table_schema)
        if _only_lists(alembic.config):
            environment.find_steps((), None)
        elif alembic.is_offline_mode():
            offline.write_script(environment)
        else:
            _run_online(environment)


def _run_online(environment: Environment) -> None:
    with environment.connect() as connection:
        try:
            if environment.migrates:
                migration.Migration(environment, connection).run()
            else:
                comparison.read(environment, connection)
        except DBAPIError as error:
            role = environment.role(connection)
            raise failures.database_error(error, doing=environment.task, role=role) from error


@contextmanager
def _report_errors(config: Config) -> Iterator[None]:
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
