"""Options that many verbs share."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

LOCK_TIMEOUT_MS = 5_000
"""How long a verb waits for a lock before it says so; work in batches waits less, and tries again."""

DATABASE_URL_OPTION = "profiles_schema.database_url"
"""Where click's context keeps the value of --database-url."""


def _keep_url(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[DATABASE_URL_OPTION] = value


def local_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which database is meant: --local and --database-url; without them, DATABASE_URL does."""
    url = click.option(
        "--database-url",
        metavar="URL",
        expose_value=False,
        callback=_keep_url,
        help="Work on this database. Prefer the variable DATABASE_URL: the list of processes shows a command line, and"
        " with it a password.",
    )
    local = click.option("--local", is_flag=True, help="Work on the embedded PostgreSQL instead of DATABASE_URL.")
    return local(url(command))


def given_url() -> str | None:
    """The value of --database-url, if it was given."""
    value: str | None = click.get_current_context().meta.get(DATABASE_URL_OPTION)
    return value


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
x_option = click.option("-x", "x", multiple=True, metavar="KEY=VALUE", help="A migration option; may be repeated.")


def batch_options(unit: str, why: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of work in batches: --batch-size, --target-ms, --max-rate.

    Args:
        unit: What a batch holds, for example profiles.
        why: Why a batch should be short.
    """
    options = (
        click.option(
            "--batch-size", type=click.IntRange(1, 100_000), default=100, show_default=True, metavar=unit.upper(),
            help=f"{unit.capitalize()} in the first batch; later ones follow the target.",
        ),
        click.option(
            "--target-ms", type=click.IntRange(5, 200), default=100, show_default=True, metavar="MS",
            help=f"How long a batch should take; {why}.",
        ),
        click.option(
            "--max-rate", type=click.FloatRange(min=0, min_open=True), metavar=unit.upper(),
            help=f"Most {unit} per second.",
        ),
    )  # fmt: skip

    def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return with_options


def print_json(value: Any) -> None:
    """The result of a verb, for programs: one JSON document on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def log_to_stderr() -> None:
    """Show this package's progress lines on stderr, unless logging is configured already."""
    logger = logging.getLogger("profiles_schema")
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


@contextmanager
def database(*, local: bool, writes: bool = False) -> Iterator[Connection]:
    """A connection to the database that is meant; losing it becomes one sentence.

    Args:
        local: The embedded server is meant.
        writes: Something is going to be written, if only to be rolled back.

    Raises:
        NoDatabase: no database is named, or it cannot be reached.
        ReadOnlyServer: it accepts no writes, and something is to be written.
    """
    from sqlalchemy.exc import DBAPIError

    from profiles_schema.database import connect, create_engine, lost_connection, refuse_read_only
    from profiles_schema.driver import is_disconnect, sqlstate
    from profiles_schema.errors import InsufficientPrivilege, ProfilesSchemaError, TableLocked
    from profiles_schema.migrations.target import resolve_url

    url = resolve_url(local=local, given=given_url())
    engine = create_engine(url)
    with connect(engine) as connection:
        if writes:
            refuse_read_only(connection)
        # Nobody wants to find a hanging command at night.
        connection.exec_driver_sql(f"set lock_timeout = {LOCK_TIMEOUT_MS}")
        connection.commit()
        try:
            yield connection
        except DBAPIError as error:
            if is_disconnect(error):
                raise lost_connection(url) from error
            if sqlstate(error) == "55P03":
                raise TableLocked from error
            if sqlstate(error) == "42501":
                message = str(error.orig).strip().partition("\n")[0]
                raise InsufficientPrivilege(
                    f"{message}. Connect as the role that owns the tables, or have it granted."
                ) from error
            message = str(error.orig).strip().partition("\n")[0]
            raise ProfilesSchemaError(f"The database refused: {message} (SQLSTATE {sqlstate(error)}).") from error


def require_migrated(connection: Connection) -> None:
    """Refuse a database without our tables.

    Raises:
        NotAtHead: only the first revision has run.
        NotMigrated: it was never migrated, or something of ours is missing; the message says what.
    """
    from sqlalchemy import text

    from profiles_schema.errors import NotAtHead, NotMigrated
    from profiles_schema.migrations import standing
    from profiles_schema.operations.health import current_revision

    revision = current_revision(connection)
    if revision is None:
        obstacle = standing.lost_version(connection)
        raise obstacle.error() if obstacle else NotMigrated
    if not standing.at_head(revision) and connection.scalar(
        text("select to_regclass('profiles_internal.settings') is null")
    ):
        raise NotAtHead  # the first revision alone
    if standing.at_head(revision):
        for obstacle in standing.missing_tables(connection):
            raise obstacle.error()
    connection.rollback()
