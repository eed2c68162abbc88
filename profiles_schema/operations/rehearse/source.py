"""What is to be copied: found in one read-only transaction, or refused with what is in the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema import database, local
from profiles_schema.driver import is_disconnect, quote_name, server_message
from profiles_schema.errors import NotEnoughSpace, ProfilesSchemaError, SourceUnreadable
from profiles_schema.migrations.pooler import refuse_transaction_pooler
from profiles_schema.migrations.target import resolve_url
from profiles_schema.settings import DATABASE_URL, INTERNAL_SCHEMA

SCHEMAS: Final = ("auth", "public", INTERNAL_SCHEMA)

_OPTION: Final = "--source"
_SPARE_BYTES: Final = 300_000_000  # a new cluster and its log of changes
_TIMES: Final = 3  # the copy, its archive, and what the upgrade rewrites
_SHOWN: Final = 10
_MEGABYTE: Final = 1_000_000

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


def inspect_source(source: str) -> Source:
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
            return _inspect(connection)
    except DBAPIError as error:
        if is_disconnect(error):
            raise database.lost_connection(url) from error
        message = server_message(error)
        raise SourceUnreadable(f"The source cannot be looked at: {message}. Connect as another role.") from error
    except ProfilesSchemaError as error:
        raise type(error)(str(error).replace(DATABASE_URL, _OPTION)) from error


def _inspect(connection: Connection) -> Source:
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
    named = quote_name(role)
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


def summarize_source(source: Source) -> dict[str, Any]:
    """For JSON: what is worth telling, without secrets."""
    values = asdict(source)
    return {
        name: values[name]
        for name in ("where", "database", "version", "role", "size_bytes", "encoding", "schemas", "further")
    }
