"""The settings of the session that migrates: set before, restored after, also where the session is lent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from profiles_schema.migrations.options import Options
from profiles_schema.settings import APPLICATION_NAME

if TYPE_CHECKING:
    from sqlalchemy import Connection

MIGRATE = f"{APPLICATION_NAME} migrate"
OWN_SEARCH_PATH = "pg_catalog, pg_temp"
"""For our own revisions, which qualify every other name: nothing of the application's can be taken for a built-in."""
GOES_ON = "profiles_schema.goes_on"
"""Whether an upgrade goes beyond our first revision, which leaves its work to adoption then."""


def session_settings(options: Options) -> dict[str, str]:
    """Setting: value. Revisions read the ``profiles_schema.*`` ones with ``current_setting(name, true)``."""
    return {
        "lock_timeout": f"{options.lock_timeout_ms}ms",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",
        "client_min_messages": "notice",
        # Queries of the catalog look expensive and are not: compiling one takes a second, under locks.
        "jit": "off",
        GOES_ON: "",
        **options.session_settings(),
    }


@contextmanager
def session(connection: Connection, options: Options) -> Iterator[None]:
    """Apply ``session_settings`` to the connection for as long as the block lasts."""
    wanted = session_settings(options)
    wanted["application_name"] = MIGRATE
    wanted["search_path"] = catalog_first(connection.exec_driver_sql("show search_path").scalar_one())
    if (connection.dialect.server_version_info or ()) >= (17,):
        wanted["transaction_timeout"] = "0"
    before = _apply(connection, wanted)
    notice_a_dead_client(connection)
    connection.commit()
    try:
        yield
    finally:
        if not (connection.closed or connection.invalidated):
            connection.rollback()
            _apply(connection, before)


@contextmanager
def public_by_default(connection: Connection) -> Iterator[None]:
    """Compare with schema public, where our tables are, for any search path of role and database: no model names the schema.

    Within the caller's transaction, if there is one; else for the session.
    """
    local = connection.in_transaction()
    dialect = connection.dialect
    before = dialect.default_schema_name
    search_path = connection.exec_driver_sql("show search_path").scalar_one()
    _set_search_path(connection, "public", local=local)
    dialect.default_schema_name = "public"
    try:
        yield
    finally:
        dialect.default_schema_name = before
        if not (connection.closed or connection.invalidated):
            _set_search_path(connection, search_path, local=local)


def _set_search_path(connection: Connection, search_path: str, *, local: bool) -> None:
    if not local:
        connection.rollback()
    connection.exec_driver_sql(
        "select pg_catalog.set_config('search_path', %(path)s, %(local)s)", {"path": search_path, "local": local}
    )
    if not local:
        connection.commit()


def catalog_first(search_path: str) -> str:
    """The search path without an explicit ``pg_catalog``, which then comes first, and not behind a schema with a now()."""
    names = re.findall(r'"(?:[^"]|"")*"|[^,\s"]+', search_path)
    return ", ".join(name for name in names if name.strip('"') != "pg_catalog")


def _apply(connection: Connection, values: Mapping[str, str]) -> dict[str, str]:
    """Set them all, and return what they were. A setting that was never made counts as empty."""
    from sqlalchemy import text

    names = list(values)
    reads = ", ".join(f"coalesce(current_setting(:n{i}, true), '')" for i in range(len(names)))
    writes = ", ".join(f"set_config(:n{i}, :v{i}, false)" for i in range(len(names)))
    arguments = {f"n{i}": name for i, name in enumerate(names)}
    before = connection.execute(text(f"select {reads}"), arguments).one()
    connection.execute(text(f"select {writes}"), arguments | {f"v{i}": values[name] for i, name in enumerate(names)})
    connection.commit()
    return dict(zip(names, before, strict=True))


def notice_a_dead_client(connection: Connection) -> None:
    """Let the server end a statement, and free its locks, soon after this process was killed."""
    connection.exec_driver_sql(
        "do $$ begin perform pg_catalog.set_config('client_connection_check_interval', '2s', false); "
        "exception when others then null; end $$"  # not on every platform of the server
    )
