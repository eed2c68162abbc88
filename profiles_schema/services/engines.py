"""Engines for application code: the options that each driver and pooler needs, and a role that row level security binds."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy

from profiles_schema.database import normalize_url
from profiles_schema.driver import quote_name
from profiles_schema.errors import ActingRefused, InvalidDatabaseUrl, RowSecurityBypassed
from profiles_schema.row_security import HOW_TO_MAKE_A_ROLE, look_at_role
from profiles_schema.services.forks import renew_after_fork
from profiles_schema.settings import CONNECT_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

Pooler = Literal["none", "session", "transaction"]

_DRIVERS: Final = {"psycopg2", "psycopg"}
_ASYNC_DRIVERS: Final = {"asyncpg", "psycopg"}
_SUPAVISOR_TRANSACTION_PORT = 6543


def engine(url: str, *, role: str | None = None, pooler: Pooler | None = None, **options: Any) -> Engine:
    """An engine for application code.

    Args:
        url: As for DATABASE_URL; its driver may be psycopg2 (the default) or psycopg.
        role: Whose rights every transaction has, instead of those of the role that logs in: service_role for services.
            AUTOCOMMIT and two-phase transactions, which would not have it, raise ActingRefused. What goes past
            SQLAlchemy (``raw_connection()``) has the rights of the role that logs in.
        pooler: What the URL leads to. By default: a pooler in transaction mode where the URL says ``pgbouncer=true`` or has
            port 6543 (Supavisor's for transactions), else none.
        options: Of ``sqlalchemy.create_engine``; they win.

    Raises:
        InvalidDatabaseUrl: the text is no PostgreSQL URL, or names another driver.
        ValueError: the role is none or default.
    """
    parsed, driver, through = _read(url, pooler, _DRIVERS, "psycopg2")
    arguments: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    if driver == "psycopg" and through == "transaction":
        # A prepared statement belongs to a server connection, and the next transaction has another one.
        arguments["prepare_threshold"] = None
    made = sqlalchemy.create_engine(parsed, **_merged(parsed, arguments, options))
    _take_role(made, role)
    renew_after_fork(made, _leave_connections)
    return made


def async_engine(url: str, *, role: str | None = None, pooler: Pooler | None = None, **options: Any) -> AsyncEngine:
    """An asynchronous engine for application code; its driver may be asyncpg (the default) or psycopg. As ``engine``."""
    from sqlalchemy.ext.asyncio import create_async_engine

    parsed, driver, through = _read(url, pooler, _ASYNC_DRIVERS, "asyncpg")
    if driver == "psycopg":
        arguments: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
        if through == "transaction":
            arguments["prepare_threshold"] = None
    else:
        query = dict(parsed.query)
        arguments = {"timeout": float(str(query.pop("connect_timeout", CONNECT_TIMEOUT_SECONDS)))}
        if mode := query.pop("sslmode", None):
            arguments["ssl"] = str(mode)
        if name := query.pop("application_name", None):
            arguments["server_settings"] = {"application_name": str(name)}
        parsed = parsed.set(query=query)
        if through == "transaction":
            # asyncpg prepares every statement. Two clients that share a server connection must not use one name.
            arguments |= {
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: f"profiles_{uuid.uuid4().hex}",
            }
    made = create_async_engine(parsed, **_merged(parsed, arguments, options))
    _take_role(made.sync_engine, role)
    renew_after_fork(made.sync_engine, _leave_connections)
    return made


def _take_role(engine: Engine, role: str | None) -> None:
    """Begin every transaction with the role.

    Not once for a connection: a pooler refuses the parameter of the start-up packet, and hands the connection to others.
    """
    if role is None:
        return
    if role.lower() in {"", "none", "default"}:  # which would give back the rights of the role that logged in
        raise ValueError(f'"{role}" is no role. For services, use service_role.')

    @sqlalchemy.event.listens_for(engine, "begin_twophase")
    def _refuse(connection: Connection, _xid: object) -> None:
        # It is told before the transaction begins, and not after.
        connection.close()
        raise ActingRefused(f"A two-phase transaction would not have the role {role}. Use an engine without a role.")

    @sqlalchemy.event.listens_for(engine, "begin")
    def _take(connection: Connection) -> None:
        try:
            _set_role(connection, role)
        except BaseException:
            # It would begin no other transaction, and go on with the rights of the role that logged in.
            connection.close()
            raise


def _set_role(connection: Connection, role: str) -> None:
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise ActingRefused(
            f"This connection is in AUTOCOMMIT, where the role {role} holds for one statement. Use transactions."
        )
    connection.exec_driver_sql(
        f"set local role {quote_name(role)}",  # before which a transaction may still get its isolation level
        # Where the connection streams its results, it would open a cursor.
        execution_options={"no_parameters": True, "stream_results": False, "yield_per": None},
    )


def _leave_connections(made: Engine) -> None:
    # Two processes on one connection would read each other's rows.
    made.dispose(close=False)


def _read(url: str, pooler: Pooler | None, drivers: set[str], usual: str) -> tuple[URL, str, Pooler]:
    scheme, _, rest = url.strip().strip("'\"").partition("://")
    driver = scheme.partition("+")[2] or usual
    parsed = normalize_url(url)
    if driver not in drivers:
        raise InvalidDatabaseUrl(f"The driver {driver} does not fit here. Use {' or '.join(sorted(drivers))}.")
    if pooler is None:
        in_transactions = "pgbouncer=true" in rest.partition("?")[2] or parsed.port == _SUPAVISOR_TRANSACTION_PORT
        pooler = "transaction" if in_transactions else "none"
    return parsed.set(drivername=f"postgresql+{driver}"), driver, pooler


def _merged(parsed: URL, arguments: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    # What the URL says wins, too.
    arguments = {name: value for name, value in arguments.items() if name not in parsed.query}
    # A connection that a pooler or a restart has closed is replaced instead of failing a request; parameters hold
    # personal values, and do not belong into an error.
    defaults = {"pool_pre_ping": True, "hide_parameters": True}
    return {**defaults, **options, "connect_args": {**arguments, **options.get("connect_args", {})}}


def require_rls(engine: Engine) -> None:
    """Refuse to start with a role that row level security does not bind.

    Raises:
        RowSecurityBypassed: the role of the engine is a superuser, has BYPASSRLS, owns tables of this package, or inherits
            the rights of service_role.
    """
    with engine.connect() as connection:
        _require_rls(connection)


async def async_require_rls(engine: AsyncEngine) -> None:
    """As ``require_rls``, for an asynchronous engine."""
    async with engine.connect() as connection:
        await connection.run_sync(_require_rls)


def _require_rls(connection: Connection) -> None:
    role = look_at_role(connection)
    if role is not None and role.reasons:
        raise RowSecurityBypassed(
            f"Row level security does not bind the role {role.name}: it {', and '.join(role.reasons)}."
            f" Make one for the application: {HOW_TO_MAKE_A_ROLE}"
        )
