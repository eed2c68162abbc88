"""How a database is named and reached: the rules of a URL, the engine, and errors that say what to do."""

from __future__ import annotations

import re
import shlex
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from profiles_schema.errors import (
    DatabaseAccessRefused,
    DatabaseMissing,
    DatabaseUnreachable,
    DatabaseUrlMissing,
    InvalidDatabaseUrl,
    NoDatabase,
    ProfilesSchemaError,
    ReadOnlyServer,
    StatementPooler,
    TooManyConnections,
    UnsupportedEncoding,
    UnsupportedServer,
)
from profiles_schema.settings import APPLICATION_NAME, CONNECT_TIMEOUT_SECONDS, NEWEST_SERVER, OLDEST_SERVER

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

# Parameters of other clients that libpq would refuse; they mean nothing here.
_FOREIGN_PARAMETERS = frozenset(
    {"connection_limit", "pgbouncer", "pool_timeout", "prepared_statement_cache_size", "statement_cache_size"}
)
_RETRY_SECONDS = 10.0
_RETRY_PAUSE_SECONDS = 0.5
_ENDED = "server closed the connection unexpectedly"
_SHAPE = "Write it as postgresql://user:password@host:5432/database."


def normalize_url(text: str | None) -> URL:
    """The SQLAlchemy URL (driver psycopg2) for what people write into DATABASE_URL.

    ``postgres://`` and ``postgresql://``, with any driver, are accepted, and so are surrounding blanks and
    quotes. Parameters that only other clients understand (``pgbouncer=true``) are dropped.

    Raises:
        DatabaseUrlMissing: the text is empty.
        InvalidDatabaseUrl: it is not a PostgreSQL URL; the message never repeats the password.
    """
    from sqlalchemy.exc import ArgumentError

    text = _unquoted(text or "")
    if not text:
        raise DatabaseUrlMissing
    scheme, separator, rest = text.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][\w+.:-]*", scheme):
        raise InvalidDatabaseUrl(f"DATABASE_URL does not begin with a scheme such as postgresql://. {_SHAPE}")
    if scheme.lower().partition("+")[0] not in {"postgres", "postgresql"}:
        raise InvalidDatabaseUrl(
            f"DATABASE_URL names {scheme}://, which is not PostgreSQL; profiles-schema runs on PostgreSQL only. {_SHAPE}"
        )
    # An error from below may quote the password: its cause is dropped, not chained.
    try:
        return _parsed(rest)
    except InvalidDatabaseUrl as error:
        problem = str(error)
    except (ArgumentError, ValueError):
        problem = (
            "DATABASE_URL cannot be read: its host or port is malformed, or its password has characters that must be "
            f"percent-encoded (/ as %2F, ? as %3F, # as %23). {_SHAPE}"
        )
    raise InvalidDatabaseUrl(problem)


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def _parsed(rest: str) -> URL:
    from sqlalchemy import make_url

    credentials, place = _split_credentials(rest)
    url = make_url(f"postgresql+psycopg2://{place}")
    if credentials is not None:
        username, colon, password = credentials.partition(":")
        url = url.set(username=_decoded(username), password=_decoded(password) if colon else None)
    if url.host is not None and re.search(r"[\s@]", url.host):
        raise ValueError
    # A port out of range would fail later, with a message of libpq's own.
    highest_port = 65535
    if url.port is not None and not 0 < url.port <= highest_port:
        raise InvalidDatabaseUrl(f"DATABASE_URL names port {url.port}; ports go from 1 to {highest_port}.")
    drop = {name for name in url.query if name in _FOREIGN_PARAMETERS}
    # Prisma's, for its own tables; the schema of every object here is fixed.
    if url.query.get("schema") in {"public", "profiles_compat"}:
        drop.add("schema")
    url = url.difference_update_query(sorted(drop))
    if "ssl" in url.query and "sslmode" not in url.query:  # asyncpg's name for the same values
        mode = url.query["ssl"]
        url = url.difference_update_query(["ssl"]).update_query_dict({"sslmode": mode})
    return url


def _split_credentials(rest: str) -> tuple[str | None, str]:
    """User and password, and what follows them.

    The last @ before the parameters counts, for passwords hold @ and / too: taking an earlier one would make half a
    password the host's name, and print it.
    """
    head, question, query = rest.partition("?")
    credentials, at, place = head.rpartition("@")
    return (credentials, f"{place}{question}{query}") if at else (None, rest)


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise InvalidDatabaseUrl(
            "DATABASE_URL has a % in the user name or password that is not followed by two hexadecimal digits. "
            "Write % as %25."
        )
    decoded = unquote(text, errors="strict")  # UnicodeDecodeError is a ValueError
    if "\0" in decoded:
        raise InvalidDatabaseUrl("DATABASE_URL has a %00 in the user name or password.")
    return decoded


def create_engine(url: URL, *, application_name: str = APPLICATION_NAME) -> Engine:
    """An engine without a pool, whose errors hide parameters and whose server was checked.

    ``connect_timeout`` (seconds) and ``application_name`` of the URL win over the defaults.
    """
    import sqlalchemy

    defaults: dict[str, Any] = {
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        # PGCLIENTENCODING may say otherwise, and cannot hold the texts of our objects.
        "client_encoding": "utf8",
        # A revision may be silent for long; a connection dropped on the way must still be noticed.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    engine = sqlalchemy.create_engine(
        url,
        poolclass=sqlalchemy.NullPool,
        hide_parameters=True,
        connect_args={name: value for name, value in defaults.items() if name not in url.query},
    )
    # Ahead of SQLAlchemy's own look at the version, which fails with an assertion on other products.
    sqlalchemy.event.listen(engine, "connect", _check_server, insert=True)
    return engine


def connect(engine: Engine, *, patience_seconds: float = _RETRY_SECONDS) -> Connection:
    """A connection, or one sentence on why there is none. A server that is starting gets some seconds.

    Args:
        engine: From ``create_engine``.
        patience_seconds: How long to try again where that may help.

    Raises:
        NoDatabase: (a subclass) the server cannot be reached, refuses the role, or lacks the database.
        InvalidDatabaseUrl: a parameter of the URL is unknown.
        StatementPooler: there is a pooler in between that knows no transactions.
        UnsupportedServer: it is not PostgreSQL 15 to 18.
        UnsupportedEncoding: the database is not in UTF8.
    """
    from sqlalchemy.exc import DBAPIError

    give_up = time.monotonic() + patience_seconds
    while True:
        problem: Exception
        try:
            return engine.connect()
        except DBAPIError as error:
            problem, transient = _connection_problem(engine.url, str(error.orig))
            if _ENDED in str(error.orig) and _is_statement_pooler(engine):
                problem = StatementPooler()
        except UnicodeDecodeError:  # psycopg2 on a server message in another encoding
            problem, transient = DatabaseUnreachable(f"{_server(engine.url)} refused the connection."), False
        if not transient or time.monotonic() > give_up:
            raise problem
        time.sleep(_RETRY_PAUSE_SECONDS)


def _is_statement_pooler(engine: Engine) -> bool:
    """Whether a single statement is answered where one in a transaction ended the connection, by a pooler.

    The pooler's own words do not reach us: the driver says only that the connection was closed.
    """
    import psycopg2

    parameters = engine.dialect.create_connect_args(engine.url)[1]
    try:
        with closing(psycopg2.connect(**{"connect_timeout": CONNECT_TIMEOUT_SECONDS, **parameters})) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("select pg_catalog.pg_backend_pid()")
                # A pooler makes the announced one up.
                return bool(cursor.fetchone()[0] != connection.info.backend_pid)
    except psycopg2.Error:
        return False


def _check_server(connection: Any, _record: object) -> None:
    info = connection.info
    check_server_version(info.server_version, info.parameter_status("server_version") or "")
    check_encoding(info.parameter_status("server_encoding") or "UTF8", info.dbname, connection)


def check_encoding(encoding: str, name: str, connection: Any) -> None:
    """Refuse a database that is not in UTF8: it cannot hold the texts of our objects, nor every person's name.

    Args:
        encoding: ``server_encoding`` as the server reports it.
        name: the database.
        connection: of the driver; it knows host, port and user.

    Raises:
        UnsupportedEncoding: says how to make one in UTF8.
    """
    if encoding == "UTF8":
        return
    old, new = shlex.quote(name), shlex.quote(f"{name}_utf8")
    info = getattr(connection, "info", None)
    options = {"-h": "host", "-p": "port", "-U": "user"}
    where = " ".join(
        f"{option} {shlex.quote(str(value))}" for option, of in options.items() if (value := getattr(info, of, None))
    )
    raise UnsupportedEncoding(
        f'Database "{name}" has the encoding {encoding}; profiles-schema needs UTF8. Nothing was changed. '
        "Copy it into a new database, and name that one in DATABASE_URL:\n"
        f"createdb -E UTF8 -T template0 {where} {new} && pg_dump {where} {old} | psql {where} -v ON_ERROR_STOP=1 {new}"
    )


def refuse_read_only(connection: Connection, refusal: str = "") -> None:
    """Refuse a standby, and a database whose transactions are read-only, before something is written.

    Args:
        connection: outside a transaction.
        refusal: What cannot be done there, where that is not plain; a sentence that goes before the advice.

    Raises:
        ReadOnlyServer: nothing can be written there.
    """
    standby, read_only = connection.exec_driver_sql(
        "select pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')::bool"
    ).one()
    connection.rollback()
    fact, advice = "This server is a read-only standby.", "Run it on the primary."
    if read_only and not standby:
        fact, advice = (
            "This database is read-only: default_transaction_read_only is on.",
            f"{advice[:-1]}, or set it off.",
        )
    if read_only:
        raise ReadOnlyServer(" ".join(filter(None, [fact, refusal, advice])))


def check_server_version(number: int, reported: str = "") -> None:
    """Refuse a server outside PostgreSQL 15 to 18.

    Args:
        number: the version as libpq gives it, such as 150007.
        reported: the text of ``server_version``; products built on PostgreSQL put their name there.

    Raises:
        UnsupportedServer: names what was found.
    """
    major = number // 10_000
    wanted = f"profiles-schema needs PostgreSQL {OLDEST_SERVER} to {NEWEST_SERVER}"
    if "-YB-" in reported:
        raise UnsupportedServer(f"The server is YugabyteDB ({reported}); {wanted}.")
    if major < OLDEST_SERVER:
        raise UnsupportedServer(
            f"The server reports version {reported or major}; {wanted}. "
            "Upgrade the server (CockroachDB, Redshift and the like are not supported)."
        )
    if major > NEWEST_SERVER:
        raise UnsupportedServer(
            f"The server reports version {reported or major}, which is newer than this package knows; {wanted}. "
            "Upgrade the package."
        )


def _connection_problem(url: URL, text: str) -> tuple[Exception, bool]:
    """The error to raise for libpq's message, and whether trying again may help.

    libpq gives no SQLSTATE for a refused connection, so its words have to do; a server that speaks another
    language gets the general sentence with its own words in it.
    """
    for pattern, kind, sentence, transient in _REFUSALS:
        if match := re.search(pattern, text):
            role = url.username or "(the account's own name)"
            named = {
                "server": _server(url),
                "role": role,
                "database": url.database or role,
                "option": next((group for group in match.groups() if group), ""),
                "reason": _reason(text, url),
            }
            return kind(sentence.format(**named)), transient
    raise AssertionError  # the last pattern matches everything


# What libpq says, and what that means: pattern, error, sentence, whether it may pass.
_REFUSALS: tuple[tuple[str, type[ProfilesSchemaError], str, bool], ...] = (
    (
        r'invalid (?:connection option|URI query parameter:?) "([^"]+)"',
        InvalidDatabaseUrl,
        'DATABASE_URL has the parameter "{option}", which PostgreSQL\'s client library does not know. Remove it.',
        False,
    ),
    (
        r'invalid (?:integer )?value "?[^"]*"? for connection option "([^"]+)"|invalid (\w+) value',
        InvalidDatabaseUrl,
        'DATABASE_URL has an invalid value for "{option}".',
        False,
    ),
    (
        r"password authentication failed|no password supplied|SASL authentication failed",
        DatabaseAccessRefused,
        (
            '{server} refused the password of role "{role}". Correct the password in DATABASE_URL '
            "(write special characters percent-encoded: @ as %40, % as %25)."
        ),
        False,
    ),
    (
        r'role "[^"]*" does not exist',
        DatabaseAccessRefused,
        '{server} has no role "{role}". Correct DATABASE_URL, or: createuser {role}',
        False,
    ),
    (
        r'database "[^"]*" does not exist|no such database',
        DatabaseMissing,
        '{server} has no database "{database}". Correct DATABASE_URL, or create it: createdb {database}',
        False,
    ),
    (
        r"starting up|shutting down|in recovery mode|not yet accepting|not accepting connections",
        DatabaseUnreachable,
        "{server} is starting up or shutting down. Run this again in a moment.",
        True,
    ),
    (
        r"too many (?:clients|connections)|remaining connection slots|max_client_conn",
        TooManyConnections,
        '{server} has no free connection for role "{role}". Close some, or raise the limit, and run this again.',
        True,
    ),
    (
        r"server does not support SSL",
        DatabaseUnreachable,
        (
            "{server} does not encrypt connections, and the sslmode of DATABASE_URL requires it. Use sslmode=prefer, or "
            "turn encryption on in the server (ssl = on)."
        ),
        False,
    ),
    (
        r'root certificate file "([^"]+)" does not exist',
        DatabaseUnreachable,
        (
            "{server} cannot be verified, as the sslmode of DATABASE_URL requires: there is no root certificate {option}. "
            "Name the file in sslrootcert, or use sslmode=require, which encrypts without verifying."
        ),
        False,
    ),
    (
        r'server certificate for (".*) does not match host name',
        DatabaseUnreachable,
        (
            "{server} shows a certificate for {option}, which is not the host in DATABASE_URL. Use a host name that the "
            "certificate has, or sslmode=verify-ca, which does not compare names."
        ),
        False,
    ),
    (
        r"certificate verify failed",
        DatabaseUnreachable,
        (
            "{server} shows a certificate that the root certificate does not confirm. Name the root certificate of the server "
            "in sslrootcert, or use sslmode=require, which encrypts without verifying."
        ),
        False,
    ),
    (r"FATAL", DatabaseAccessRefused, '{server} refused role "{role}": {reason}. Check DATABASE_URL.', False),
    (
        r"",
        DatabaseUnreachable,
        "{server} does not answer: {reason}. Check the host and port in DATABASE_URL, and that the server runs.",
        False,
    ),
)


def _server(url: URL) -> str:
    host = url.host or url.query.get("host") or ""
    port = url.port or url.query.get("port") or 5432
    if isinstance(host, tuple):
        return f"PostgreSQL on {', '.join(host)}"
    if not host or host.startswith("/"):
        return f"PostgreSQL on socket {host or '(default)'}, port {port}"
    return f"PostgreSQL on {host}, port {port}"


def _reason(text: str, url: URL) -> str:
    """The telling part of libpq's first line."""
    line = text.strip().partition("\n")[0]
    line = re.sub(r"^.*? failed: ", "", line)
    line = re.sub(r"^(?:FATAL|ERROR):\s*", "", line).strip().rstrip(".")
    # libpq does not quote passwords; should it ever, the line is dropped as a whole.
    if url.password and url.password in line and url.password not in {url.username, url.database, url.host}:
        return "(its message is not shown)"
    return line or "no reason given"


def lost_connection(url: URL) -> NoDatabase:
    """The error for a connection that broke while it was in use."""
    return DatabaseUnreachable(f"The connection to {_server(url)} was lost. Check the server, then run this again.")
