"""Copy a database into a server of its own: what is looked at first, what is taken, what cannot be.

The source is only read, in read-only transactions: one that looks, and pg_dump's. What decides how the upgrade fares comes
along: owners, grants, roles with their attributes and memberships, default privileges, rights on the database.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, NullPool, create_engine, make_url, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from profiles_schema import database, driver, local
from profiles_schema.errors import (
    CopyFailed,
    DatabaseUnreachable,
    NotEnoughSpace,
    ProfilesSchemaError,
    SourceUnreadable,
    TableLocked,
)
from profiles_schema.migrations.pooler import refuse_transaction_pooler
from profiles_schema.migrations.target import resolve_url
from profiles_schema.settings import DATABASE_URL, INTERNAL_SCHEMA

SCHEMAS: Final = ("auth", "public", INTERNAL_SCHEMA)
NAME: Final = "rehearsal"
"""The name of the copy."""
WORKER: Final = "profiles_rehearsal"
"""The superuser that makes and compares the copy; no name that an application's role would bear."""

_OPTION: Final = "--source"
_LOCK_TIMEOUT: Final = "10s"
_SPARE_BYTES: Final = 300_000_000  # a new cluster and its log of changes
_TIMES: Final = 3  # the copy, its archive, and what the upgrade rewrites
_SHOWN: Final = 10
_MEGABYTE: Final = 1_000_000
_FIRST_WITH_MEMBERSHIP_OPTIONS: Final = 16

# Parameters that the client library of PostgreSQL 15 does not know, with what they are unless somebody sets them.
_NEW_PARAMETERS: Final = {
    "gssdelegation": "0", "load_balance_hosts": "disable", "max_protocol_version": "3.0", "min_protocol_version": "3.0",
    "sslcertmode": "allow", "sslnegotiation": "postgres",
}  # fmt: skip
_OF_OTHERS: Final = frozenset(
    {"service", "servicefile", "replication", "application_name", "fallback_application_name"}
)

_SCHEMAS_NEEDED = r"""
with recursive member as (
  select classid, objid from pg_depend where deptype = 'e'
),
place (classid, objid, nsp) as (
  select 'pg_class'::regclass::oid, oid, relnamespace from pg_class
  union all select 'pg_proc'::regclass::oid, oid, pronamespace from pg_proc
  union all select 'pg_type'::regclass::oid, oid, typnamespace from pg_type
  union all select 'pg_operator'::regclass::oid, oid, oprnamespace from pg_operator
  union all select 'pg_opclass'::regclass::oid, oid, opcnamespace from pg_opclass
  union all select 'pg_collation'::regclass::oid, oid, collnamespace from pg_collation
  union all select 'pg_ts_config'::regclass::oid, oid, cfgnamespace from pg_ts_config
  union all select 'pg_constraint'::regclass::oid, oid, connamespace from pg_constraint
  union all select 'pg_trigger'::regclass::oid, t.oid, c.relnamespace from pg_trigger as t join pg_class as c on c.oid = t.tgrelid
  union all select 'pg_attrdef'::regclass::oid, d.oid, c.relnamespace from pg_attrdef as d join pg_class as c on c.oid = d.adrelid
  union all select 'pg_rewrite'::regclass::oid, w.oid, c.relnamespace from pg_rewrite as w join pg_class as c on c.oid = w.ev_class
  union all select 'pg_policy'::regclass::oid, p.oid, c.relnamespace from pg_policy as p join pg_class as c on c.oid = p.polrelid
),
need as materialized (
  select distinct d.nsp as by, r.nsp as of
  from pg_depend as x
  join place as d on d.classid = x.classid and d.objid = x.objid
  join place as r on r.classid = x.refclassid and r.objid = x.refobjid
  where d.nsp <> r.nsp
    and not exists (select from member as m where m.classid = x.classid and m.objid = x.objid)
    and not exists (select from member as m where m.classid = x.refclassid and m.objid = x.refobjid)
),
closure (nsp) as (
  select oid from pg_namespace where nspname = any (cast(:schemas as text[]))
  union
  select n.of from need as n join closure as c on c.nsp = n.by
)
select n.nspname from closure as c join pg_namespace as n on n.oid = c.nsp
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and n.nspname <> all (cast(:schemas as text[]))
order by 1
"""

_RELATIONS = """
select c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name, quote_ident(n.nspname) as schema, c.relkind,
  has_schema_privilege(n.oid, 'USAGE') as enters,
  case when c.relkind = 'S' then has_sequence_privilege(c.oid, 'SELECT') else has_table_privilege(c.oid, 'SELECT') end as reads,
  case when c.relkind = 'S' then false else row_security_active(c.oid) end as hidden,
  n.nspname = any (cast(:further as text[])) and c.relkind in ('r', 'p') and not exists (
    select from pg_constraint as f join pg_class as o on o.oid = f.conrelid join pg_namespace as s on s.oid = o.relnamespace
    where f.contype = 'f' and f.confrelid = c.oid and s.nspname = any (cast(:all as text[]))
  ) as without_rows
from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = any (cast(:all as text[])) and c.relkind in ('r', 'p', 'S')
  and not exists (select from pg_depend as d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
order by 2
"""

_LEFT_OUT = """
select 'schema ' || n.nspname || ' (nothing that is copied needs it)' from pg_namespace as n
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and n.nspname <> all (cast(:all as text[]))
  and not exists (select from pg_extension as e where e.extnamespace = n.oid)
  and not exists (select from pg_depend as d where d.classid = 'pg_namespace'::regclass and d.objid = n.oid and d.deptype = 'e')
union all select 'event trigger ' || evtname from pg_event_trigger
union all select 'publication ' || pubname from pg_publication
union all select 'foreign server ' || srvname || ' (its foreign tables are missing, too)' from pg_foreign_server
union all select 'settings of ' || coalesce('role ' || r.rolname, 'the database') || ': ' || array_to_string(s.setconfig, ', ')
from pg_db_role_setting as s left join pg_roles as r on r.oid = s.setrole
where s.setdatabase = (select oid from pg_database where datname = current_database()) or (s.setdatabase = 0 and r.rolname = current_user)
"""

_EXTENSION_FUNCTIONS = """
select e.extname as extension, quote_ident(n.nspname) as schema, p.proname as name,
  format('%I.%I(%s) returns %s', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid))
    as signature
from pg_extension as e
join pg_depend as d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e'
  and d.classid = 'pg_proc'::regclass
join pg_proc as p on p.oid = d.objid and p.prokind = 'f'
join pg_namespace as n on n.oid = p.pronamespace
where e.extname <> 'plpgsql'
order by p.oid
"""


@dataclass(frozen=True)
class Source:
    """What a look at the source found. ``where`` names it without a password; ``parameters`` hold no password either."""

    where: str
    database: str
    version: str
    major: int
    role: str
    deploys: bool
    size_bytes: int
    encoding: str
    schemas: list[str]
    further: list[str]
    owner: str
    database_rights: list[tuple[str, str]]
    schema_owner: str | None
    roles: list[dict[str, Any]]
    memberships: list[dict[str, Any]]
    extensions: dict[str, str]
    extension_functions: list[dict[str, str]]
    left_out: list[str]
    without_rows: list[str]
    parameters: dict[str, str] = field(repr=False)
    password: str | None = field(repr=False)


@dataclass
class Copy:
    """A copy: its server, the role that stands for the deploying one, and what could not be taken along."""

    server: local.LocalServer
    role: str
    archive_bytes: int
    failed_tables: list[str]
    not_copied: list[str]

    def url(self, role: str | None = None) -> URL:
        """The URL of the copy for a role."""
        return _as(self.server, role or WORKER, NAME)

    def engine(self, role: str | None = None) -> Engine:
        """An engine on the copy, checked and set as every other one of this package."""
        return database.create_engine(self.url(role).set(drivername="postgresql+psycopg2"))


def look(source: str) -> Source:
    """Connect to the source, and find what is to be copied and whether that is possible.

    Raises:
        NoDatabase: (a subclass) it cannot be reached, or refuses the role.
        SourceUnreadable: tables that the role may not read, by name.
        TransactionPooler: the connection would be shared, and pg_dump's settings would stay in it.
        UnsupportedServer: it is not PostgreSQL 15 to 18.
    """
    try:
        url = resolve_url(environ={DATABASE_URL: source})
        connection = database.connect(database.create_engine(url))
        with connection:
            refuse_transaction_pooler(connection)
            connection.exec_driver_sql("set transaction isolation level repeatable read, read only")
            return _looked(connection)
    except DBAPIError as error:
        if driver.is_disconnect(error):
            raise database.lost(url) from error
        message = str(error.orig).strip().partition("\n")[0]
        raise SourceUnreadable(f"The source cannot be looked at: {message}. Connect as another role.") from error
    except ProfilesSchemaError as error:
        raise type(error)(str(error).replace(DATABASE_URL, _OPTION)) from error


def _looked(connection: Connection) -> Source:
    # Another search path would shorten names differently.
    connection.exec_driver_sql("set local search_path = pg_catalog")
    basics = connection.execute(
        text(
            "select d.datname as database, current_user as role, pg_database_size(d.oid) as size_bytes,"
            " pg_encoding_to_char(d.encoding) as encoding, pg_get_userbyid(d.datdba) as owner,"
            " has_database_privilege(d.oid, 'CREATE') and coalesce("
            "   has_schema_privilege(to_regnamespace('public'), 'CREATE'), true) as deploys,"
            " (select pg_get_userbyid(n.nspowner) from pg_namespace as n where n.nspname = 'public') as schema_owner"
            " from pg_database as d where d.datname = current_database()"
        )
    ).one()
    present = list(
        connection.scalars(
            text("select nspname from pg_namespace where nspname = any (cast(:schemas as text[])) order by 1"),
            {"schemas": list(SCHEMAS)},
        )
    )
    further = list(connection.scalars(text(_SCHEMAS_NEEDED), {"schemas": present}))
    scope = {"all": [*present, *further], "further": further}
    relations = connection.execute(text(_RELATIONS), scope).all()
    _refuse_unreadable(basics.role, relations)
    info = connection.connection.driver_connection.info  # type: ignore[union-attr]
    encrypted = bool(info.ssl_in_use)
    parameters = {
        name: value
        for name, value in info.dsn_parameters.items()
        if value and name not in _OF_OTHERS and _NEW_PARAMETERS.get(name) != value
    }
    if encrypted and parameters.get("sslmode") in {None, "allow", "prefer"}:
        parameters["sslmode"] = "require"  # what was encrypted when we looked stays so
    major = info.server_version // 10_000
    return Source(
        where=_where(parameters),
        database=basics.database,
        version=(info.parameter_status("server_version") or str(major)).split(" ", 1)[0],
        major=major,
        role=basics.role,
        deploys=basics.deploys,
        size_bytes=basics.size_bytes,
        encoding=basics.encoding,
        schemas=present,
        further=further,
        owner=basics.owner,
        database_rights=_pairs(
            connection,
            "select coalesce(r.rolname, ''), a.privilege_type from pg_database as d"
            " cross join lateral aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) as a"
            " left join pg_roles as r on r.oid = a.grantee where d.datname = current_database()",
        ),
        schema_owner=basics.schema_owner,
        roles=_rows(
            connection,
            "select rolname as name, rolsuper as superuser, rolinherit as inherit, rolcreaterole as createrole,"
            " rolcreatedb as createdb, rolbypassrls as bypassrls from pg_roles where rolname !~ '^pg_' order by 1",
        ),
        memberships=_rows(
            connection,
            "select r.rolname as role, m.rolname as member, a.admin_option as admin,"
            " (to_jsonb(a) ->> 'inherit_option')::boolean as inherit, (to_jsonb(a) ->> 'set_option')::boolean as set"
            " from pg_auth_members as a join pg_roles as r on r.oid = a.roleid join pg_roles as m on m.oid = a.member"
            " order by 1, 2",
        ),
        extensions=dict(
            _pairs(
                connection,
                "select e.extname, n.nspname from pg_extension as e join pg_namespace as n on n.oid = e.extnamespace"
                " where e.extname <> 'plpgsql' order by 1",
            )
        ),
        extension_functions=_rows(connection, _EXTENSION_FUNCTIONS),
        left_out=list(connection.scalars(text(_LEFT_OUT), scope)),
        without_rows=[row.name for row in relations if row.without_rows],
        parameters=parameters,
        password=info.password,
    )


def _rows(connection: Connection, sql: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(text(sql)).mappings()]


def _pairs(connection: Connection, sql: str) -> list[tuple[str, str]]:
    return [(first, second) for first, second in connection.execute(text(sql))]


def _where(parameters: Mapping[str, str]) -> str:
    host = parameters.get("host", "")
    place = f"on socket {host or '(default)'}" if not host or host.startswith("/") else f"on {host}"
    return f"{place}, port {parameters.get('port', '5432')}"


def _refuse_unreadable(role: str, relations: Sequence[Any]) -> None:
    """One error for everything that pg_dump would refuse one by one."""
    named = _ident(role)
    closed = [row for row in relations if not (row.reads and row.enters)]
    if closed:
        commands = [
            f"grant usage on schema {name} to {named};" for name in _unique(r.schema for r in closed if not r.enters)
        ]
        tables = [row.name for row in closed if row.relkind != "S"]
        sequences = [row.name for row in closed if row.relkind == "S"]
        commands += [f"grant select on {', '.join(tables)} to {named};"] if tables else []
        commands += [f"grant select on sequence {', '.join(sequences)} to {named};"] if sequences else []
        raise SourceUnreadable(
            f'Role "{role}" may not read {_some([row.name for row in closed])}. Connect as the owner, or let an administrator'
            f" run:\n  {' '.join(commands)}"
        )
    hidden = [row.name for row in relations if row.hidden]
    if hidden:
        raise SourceUnreadable(
            f'Row level security hides rows of {_some(hidden)} from role "{role}", so a copy would be incomplete.'
            f" Connect as the owner, or let an administrator run:\n  alter role {named} bypassrls;"
        )


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def refuse_without_room(source: Source) -> None:
    """Compare the size of the source with what is free where the copy would be.

    Raises:
        NotEnoughSpace: with both numbers.
    """
    place = local.default_directory()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, source.size_bytes * _TIMES + _SPARE_BYTES
    if free < needed:
        raise NotEnoughSpace(
            f"The source has {source.size_bytes / _MEGABYTE:.0f} MB; its rehearsal needs up to {needed / _MEGABYTE:.0f} MB, and"
            f" {place} has {free / _MEGABYTE:.0f} MB free. Nothing was copied. Free some, or set {local.DIRECTORY_VARIABLE} to a"
            " directory on another disk."
        )


def make(source: Source, server: local.LocalServer, private: Path) -> Copy:
    """Copy the source into a new server.

    Raises:
        CopyFailed: a program refused, with its own words.
        DatabaseUnreachable: the connection to the source broke.
        TableLocked: somebody holds a table of the source.
    """
    archive = private / "archive"
    _dump(source, archive, private)
    role, not_copied = _prepare(source, server)
    archive_bytes = archive.stat().st_size
    failed, further = _restore(server, archive, private)
    archive.unlink()
    return Copy(server, role, archive_bytes, failed, [*source.left_out, *not_copied, *further])


def _dump(source: Source, archive: Path, private: Path) -> None:
    service = private / "service"
    lines = "".join(f"{name}={value}\n" for name, value in source.parameters.items())
    service.touch(mode=0o600)
    service.write_text(f"[source]\n{lines}", "utf-8")
    # Names and secrets go through a file of ours and the environment; the list of processes shows neither.
    environment = {name: value for name, value in os.environ.items() if name not in {DATABASE_URL, "PGAPPNAME"}}
    environment |= {"PGSERVICEFILE": str(service), "PGSERVICE": "source", "LC_ALL": "C"}
    if source.password:
        environment["PGPASSWORD"] = source.password
    arguments = ["--format=custom", "--compress=1", f"--file={archive}", f"--lock-wait-timeout={_LOCK_TIMEOUT}"]
    arguments += [
        "--no-password",
        "--no-publications",
        "--no-subscriptions",
        "--no-security-labels",
        "--no-tablespaces",
    ]
    schemas = [*source.schemas, *source.further]
    arguments += [f"--schema={_ident(name)}" for name in schemas]
    arguments += [f"--exclude-table-data={name}" for name in source.without_rows]
    if not schemas:
        arguments.append("--schema-only")
    try:
        done = _run([local.binaries() / "pg_dump", *arguments], environment)
        if "not compiled in" in done.stderr:
            # The wheel's client library cannot encrypt, and a copy is never sent in the clear for that.
            done = _run([_encrypting_dump(source), *arguments], environment)
    finally:
        service.unlink()
    if done.returncode:
        raise _dump_failure(source, done.stderr)


def _encrypting_dump(source: Source) -> Path:
    """The machine's own pg_dump, if it is new enough for the source."""
    if found := shutil.which("pg_dump"):
        # By its real path: the wrapper of Debian picks a version by other rules.
        newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"), key=lambda path: int(path.parts[-3]))
        program = newest[-1] if newest else Path(found)
        shown = _run([program, "--version"], {"LC_ALL": "C"}).stdout
        version = re.search(r"(\d+)(\.\d+|\w*)?\s*(\(|$)", shown)
        if version and source.major <= int(version[1]) <= local.MAJOR:
            return program
    raise CopyFailed(
        "The connection to the source is encrypted, and the embedded server's pg_dump cannot encrypt. Install the client programs"
        f" of PostgreSQL {source.major} to {local.MAJOR} (on Debian and Ubuntu: apt install postgresql-client-{source.major}), then"
        " run this again."
    )


def _dump_failure(source: Source, said: str) -> ProfilesSchemaError:
    line = next((line for line in said.splitlines() if "error:" in line), said.strip().partition("\n")[0])
    line = re.sub(r"^pg_dump: (error: )?(detail: )?", "", line).rstrip(".")
    detail = re.search(r"(?:detail: )?Error message from server: (?:ERROR|FATAL):\s*(.*)", said)
    message = detail[1] if detail else line
    if source.password and source.password in message:
        message = "(its message is not shown)"
    # Reported as a statement timeout: pg_dump sets one for its LOCK TABLE.
    if table := re.search(r"(?:lock|statement) timeout(?:.|\n)*LOCK TABLE (.*?) IN ACCESS SHARE", said):
        return TableLocked(
            f"Somebody holds a lock on {table[1]} of the source that keeps readers out for longer than"
            f" {_LOCK_TIMEOUT}. Run this again when that session has ended."
        )
    if re.search(
        r"connection to server .* failed|server closed the connection|terminating connection|could not connect", said
    ):
        return DatabaseUnreachable(
            f"The connection to the source {source.where} was lost while it was copied: {message}. Run this again."
        )
    return CopyFailed(f"The source could not be read: {message}. Nothing of the copy is left.")


def _run(command: Sequence[str | Path], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; an interruption ends it, too."""
    process = subprocess.Popen(  # noqa: S603 - programs of PostgreSQL, and no shell between
        [str(word) for word in command], env=dict(environment), text=True, encoding="utf-8", errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _as(server: local.LocalServer, role: str, name: str) -> URL:
    return make_url(server.url()).set(username=role, database=name)


def _prepare(source: Source, server: local.LocalServer) -> tuple[str, list[str]]:
    """Make the roles, the database and its extensions; the role to upgrade as, and what is missing."""
    _take_over(server)
    with _administrator(server, "postgres") as connection:
        _make_roles(connection, source)
        collation = "" if source.encoding == "UTF8" else " locale_provider libc locale 'C'"
        _do(
            connection,
            f"create database {NAME} template template0 encoding {_literal(source.encoding)}{collation}"
            f" owner {_ident(source.owner)}",
        )
        _do(connection, f"revoke all on database {NAME} from public")
        for role, right in source.database_rights:
            _do(connection, f"grant {right} on database {NAME} to {_ident(role) if role else 'public'}")
    with _administrator(server, NAME) as connection:
        if source.schema_owner:
            _do(connection, f"alter schema public owner to {_ident(source.schema_owner)}")
        missing = _make_extensions(connection, source)
    return (source.role if source.deploys else WORKER), missing


def _administrator(server: local.LocalServer, name: str, role: str = WORKER) -> Connection:
    engine = create_engine(
        _as(server, role, name).set(drivername="postgresql+psycopg2"), poolclass=NullPool, hide_parameters=True
    )
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def _do(connection: Connection, sql: str) -> None:
    connection.exec_driver_sql(sql.replace("%", "%%"))


def _take_over(server: local.LocalServer) -> None:
    """Give the server's own superuser another name: where the source comes from, `postgres` may be somebody else."""
    password = make_url(server.url()).password
    with _administrator(server, "postgres", "postgres") as connection:
        # The one interesting moment is the upgrade; a copy that is lost in a power failure is made again.
        _do(connection, "alter system set fsync = off")
        _do(connection, "select pg_reload_conf()")
        _do(connection, "create role profiles_rehearsal_helper superuser login" + _password(password))
    with _administrator(server, "postgres", "profiles_rehearsal_helper") as connection:
        _do(connection, f"alter role postgres rename to {WORKER}")
        if password:
            _do(connection, f"alter role {WORKER}{_password(password)}")
    with _administrator(server, "postgres") as connection:
        _do(connection, "drop role profiles_rehearsal_helper")


def _password(password: str | None) -> str:
    # Only on Windows is there one: the embedded server's own.
    return f" password {_literal(password)}" if password else ""


def _make_roles(connection: Connection, source: Source) -> None:
    password = make_url(str(connection.engine.url.render_as_string(hide_password=False))).password
    known = {WORKER}
    for role in source.roles:
        if role["name"] == WORKER:
            continue
        words = [
            word if role[word] else f"no{word}"
            for word in ("superuser", "inherit", "createrole", "createdb", "bypassrls")
        ]
        words.append("login" + _password(password) if role["name"] == source.role else "nologin")
        _do(connection, f"create role {_ident(role['name'])} {' '.join(words)}")
        known.add(role["name"])
    predefined = set(connection.scalars(text("select rolname from pg_roles where rolname ~ '^pg_'")))
    for row in source.memberships:
        if row["member"] not in known or row["role"] not in known | predefined:
            continue
        options = [f"admin {str(row['admin']).lower()}"]
        # A role with CREATEROLE could manage every role before PostgreSQL 16.
        options += [f"{name} {str(row[name]).lower()}" for name in ("inherit", "set") if row[name] is not None]
        _do(connection, f"grant {_ident(row['role'])} to {_ident(row['member'])} with {', '.join(options)}")
    acting = next((role for role in source.roles if role["name"] == source.role), None)
    if source.major < _FIRST_WITH_MEMBERSHIP_OPTIONS and acting and acting["createrole"] and not acting["superuser"]:
        direct = {row["role"] for row in source.memberships if row["member"] == source.role}
        for role in source.roles:
            name = role["name"]
            # Before PostgreSQL 16, CREATEROLE alone was the right to grant any role.
            if (
                name not in {source.role, WORKER}
                and not role["superuser"]
                and source.role not in _members(source, name)
            ):
                rest = "" if name in direct else ", inherit false, set false"
                _do(connection, f"grant {_ident(name)} to {_ident(source.role)} with admin true{rest}")


def _members(source: Source, role: str) -> set[str]:
    """The roles that this one is a member of, directly or not: granting it to one of them would be a circle."""
    found: set[str] = set()
    todo = [role]
    while todo:
        member = todo.pop()
        above = {row["role"] for row in source.memberships if row["member"] == member} - found
        found |= above
        todo += above
    return found


def _make_extensions(connection: Connection, source: Source) -> list[str]:
    available = set(connection.scalars(text("select name from pg_available_extensions")))
    missing = []
    for name, schema in source.extensions.items():
        if schema != "pg_catalog":
            _do(connection, f"create schema if not exists {_ident(schema)}")
        if name in available and _attempt(connection, f"create extension {_ident(name)} schema {_ident(schema)}"):
            continue
        if name == "citext":
            _attempt(connection, f"create domain {_ident(schema)}.citext as text")
        stand_ins = sum(
            _attempt(connection, _stand_in(row)) for row in source.extension_functions if row["extension"] == name
        )
        # Defaults and policies call them: without a stand-in, their tables could not be made.
        instead = f"; {stand_ins} of its functions are stand-ins" if stand_ins else ""
        missing.append(f"extension {name} (the embedded server has none{instead})")
    return missing


def _stand_in(function: Mapping[str, str]) -> str:
    name, signature = function["name"], function["signature"]
    if re.match(r"uuid_generate_v\d|gen_random_uuid", name) and signature.endswith(" returns uuid"):
        body = "begin return pg_catalog.gen_random_uuid(); end"
    else:
        body = f"begin raise exception '{name} is a stand-in: its extension is not in the copy'; end"
    return f"create function {signature} language plpgsql as $stand_in$ {body} $stand_in$"


def _attempt(connection: Connection, sql: str) -> bool:
    try:
        _do(connection, sql)
    except DBAPIError:
        return False
    return True


def _restore(server: local.LocalServer, archive: Path, private: Path) -> tuple[list[str], list[str]]:
    """Fill the copy; the tables that could not be, and whatever else."""
    url = _as(server, WORKER, NAME)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PG") and name != DATABASE_URL
    }
    environment |= {
        "PGHOST": str(url.query.get("host") or url.host),
        "PGUSER": WORKER,
        "PGDATABASE": NAME,
        "LC_ALL": "C",
    }
    environment["PGPORT"] = str(url.query.get("port") or url.port)
    if url.password:
        environment["PGPASSWORD"] = str(url.password)
    restore = local.binaries() / "pg_restore"
    listed = _run([restore, "--list", archive], environment)
    if listed.returncode:
        raise CopyFailed(f"The archive of the source cannot be read: {listed.stderr.strip()}")
    contents = private / "contents"
    # The schema public is there, and its owner set; its grants, which are an entry of their own, are relative to that.
    lines = [
        line for line in listed.stdout.splitlines() if not re.search(r" SCHEMA - public( |$)", line) or " ACL " in line
    ]
    contents.write_text("\n".join(lines) + "\n", "utf-8")
    done = _run([restore, "--verbose", f"--use-list={contents}", f"--dbname={NAME}", archive], environment)
    contents.unlink()
    failures = _restore_failures(done.stderr)
    if done.returncode and not failures:
        raise CopyFailed(f"The copy could not be filled: {done.stderr.strip().partition(chr(10))[0]}")
    with _administrator(server, NAME) as connection:
        _do(connection, "alter system reset fsync")
        _do(connection, "select pg_reload_conf()")
        _do(connection, "analyze")
    tables = [f"{what}: {why}" for what, why in failures.items() if what.startswith("TABLE ")]
    return tables, [f"{what}: {why}" for what, why in failures.items() if not what.startswith("TABLE ")]


def _restore_failures(said: str) -> dict[str, str]:
    """Entry of the archive: the first error about it. Only --verbose names the entry."""
    found: dict[str, str] = {}
    entry = "something"
    for line in said.splitlines():
        if named := re.search(r"from TOC entry \d+; \d+ \d+ (.*)", line):
            entry = named[1].rpartition(" ")[0]  # the last word is the owner
        elif failed := re.search(
            r"error: (?:could not execute query: |COPY failed for table .*?: )?(?:ERROR:\s*)?(.*)", line
        ):
            # What a message about rows quotes may be personal.
            why = failed[1] if "DATA" not in entry else re.sub(r':\s*".*', "", failed[1])
            found.setdefault(entry, why)
    # Without the table there is no place for its rows.
    return {
        what: why
        for what, why in found.items()
        if what.replace(" DATA", "") == what or what.replace(" DATA", "") not in found
    }


def summary(source: Source) -> dict[str, Any]:
    """For JSON: what is worth telling, without secrets."""
    told = asdict(source)
    return {
        name: told[name]
        for name in ("where", "database", "version", "role", "size_bytes", "encoding", "schemas", "further")
    }


def _ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
