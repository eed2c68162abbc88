"""Make a copy in a server of its own: roles, database, extensions, rows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import URL, NullPool, create_engine, make_url, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from profiles_schema import database, local
from profiles_schema.driver import execute_literally, quote_name
from profiles_schema.errors import CopyFailed
from profiles_schema.operations.rehearse.dump import dump, run_program
from profiles_schema.operations.rehearse.source import Source
from profiles_schema.settings import DATABASE_URL

NAME: Final = "rehearsal"
"""The name of the copy."""
WORKER: Final = "profiles_rehearsal"
"""The superuser that makes and compares the copy; no name that an application's role would have."""

_FIRST_WITH_MEMBERSHIP_OPTIONS: Final = 16


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
        return _url(self.server, role or WORKER, NAME)

    def engine(self, role: str | None = None) -> Engine:
        """An engine on the copy, checked and set as every other one of this package."""
        return database.create_engine(self.url(role).set(drivername="postgresql+psycopg2"))


def make_copy(source: Source, server: local.LocalServer, private: Path) -> Copy:
    """Copy the source into a new server.

    Raises:
        CopyFailed: a program refused, with its own words.
        DatabaseUnreachable: the connection to the source broke.
        TableLocked: another session holds a table of the source.
    """
    archive = private / "archive"
    dump(source, archive, private)
    role, not_copied = _prepare(source, server)
    archive_bytes = archive.stat().st_size
    failed, further = _restore(server, archive, private)
    archive.unlink()
    return Copy(server, role, archive_bytes, failed, [*source.left_out, *not_copied, *further])


def _url(server: local.LocalServer, role: str, name: str) -> URL:
    return make_url(server.url()).set(username=role, database=name)


def _prepare(source: Source, server: local.LocalServer) -> tuple[str, list[str]]:
    """Make the roles, the database and its extensions; the role to upgrade as, and what is missing."""
    _take_over(server)
    with _administrator(server, "postgres") as connection:
        _make_roles(connection, source)
        collation = "" if source.encoding == "UTF8" else " locale_provider libc locale 'C'"
        execute_literally(
            connection,
            f"create database {NAME} template template0 encoding '{source.encoding}'{collation}"
            f" owner {quote_name(source.owner)}",
        )
        execute_literally(connection, f"revoke all on database {NAME} from public")
        for role, right in source.database_rights:
            execute_literally(
                connection, f"grant {right} on database {NAME} to {quote_name(role) if role else 'public'}"
            )
    with _administrator(server, NAME) as connection:
        if source.schema_owner:
            execute_literally(connection, f"alter schema public owner to {quote_name(source.schema_owner)}")
        missing = _make_extensions(connection, source)
    return (source.role if source.deploys else WORKER), missing


def _administrator(server: local.LocalServer, name: str, role: str = WORKER) -> Connection:
    engine = create_engine(
        _url(server, role, name).set(drivername="postgresql+psycopg2"), poolclass=NullPool, hide_parameters=True
    )
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def _take_over(server: local.LocalServer) -> None:
    """Give the server's own superuser another name: where the source comes from, `postgres` may be another role."""
    with _administrator(server, "postgres", "postgres") as connection:
        # The one interesting moment is the upgrade; a copy that is lost in a power failure is made again.
        execute_literally(connection, "alter system set fsync = off")
        execute_literally(connection, "select pg_reload_conf()")
        execute_literally(connection, "create role profiles_rehearsal_helper superuser login")
    with _administrator(server, "postgres", "profiles_rehearsal_helper") as connection:
        execute_literally(connection, f"alter role postgres rename to {WORKER}")
    with _administrator(server, "postgres") as connection:
        execute_literally(connection, "drop role profiles_rehearsal_helper")


def _make_roles(connection: Connection, source: Source) -> None:
    known = {WORKER}
    for role in source.roles:
        if role["name"] == WORKER:
            continue
        words = [
            word if role[word] else f"no{word}"
            for word in ("superuser", "inherit", "createrole", "createdb", "bypassrls")
        ]
        words.append("login" if role["name"] == source.role else "nologin")
        execute_literally(connection, f"create role {quote_name(role['name'])} {' '.join(words)}")
        known.add(role["name"])
    predefined = set(connection.scalars(text("select rolname from pg_roles where rolname ~ '^pg_'")))
    for row in source.memberships:
        if row["member"] not in known or row["role"] not in known | predefined:
            continue
        options = [f"admin {str(row['admin']).lower()}"]
        # A role with CREATEROLE could manage every role before PostgreSQL 16.
        options += [f"{name} {str(row[name]).lower()}" for name in ("inherit", "set") if row[name] is not None]
        execute_literally(
            connection, f"grant {quote_name(row['role'])} to {quote_name(row['member'])} with {', '.join(options)}"
        )
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
                execute_literally(
                    connection, f"grant {quote_name(name)} to {quote_name(source.role)} with admin true{rest}"
                )


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
            execute_literally(connection, f"create schema if not exists {quote_name(schema)}")
        if name in available and _attempt(
            connection, f"create extension {quote_name(name)} schema {quote_name(schema)}"
        ):
            continue
        if name == "citext":
            _attempt(connection, f"create domain {quote_name(schema)}.citext as text")
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
        execute_literally(connection, sql)
    except DBAPIError:
        return False
    return True


def _restore(server: local.LocalServer, archive: Path, private: Path) -> tuple[list[str], list[str]]:
    """Fill the copy; the tables that could not be, and whatever else."""
    url = _url(server, WORKER, NAME)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PG") and name != DATABASE_URL
    }
    environment |= {
        "PGHOST": str(url.query["host"]),
        "PGPORT": str(url.query["port"]),
        "PGUSER": WORKER,
        "PGDATABASE": NAME,
        "LC_ALL": "C",
    }
    restore = local.binaries() / "pg_restore"
    listed = run_program([restore, "--list", archive], environment)
    if listed.returncode:
        raise CopyFailed(f"The archive of the source cannot be read: {listed.stderr.strip()}")
    contents = private / "contents"
    # The schema public is there, and its owner set; its grants, which are an entry of their own, are relative to that.
    lines = [
        line for line in listed.stdout.splitlines() if not re.search(r" SCHEMA - public( |$)", line) or " ACL " in line
    ]
    contents.write_text("\n".join(lines) + "\n", "utf-8")
    done = run_program([restore, "--verbose", f"--use-list={contents}", f"--dbname={NAME}", archive], environment)
    contents.unlink()
    failures = _restore_failures(done.stderr)
    if done.returncode and not failures:
        raise CopyFailed(f"The copy could not be filled: {done.stderr.strip().partition(chr(10))[0]}")
    with _administrator(server, NAME) as connection:
        execute_literally(connection, "alter system reset fsync")
        execute_literally(connection, "select pg_reload_conf()")
        execute_literally(connection, "analyze")
    tables = [f"{what}: {why}" for what, why in failures.items() if what.startswith("TABLE ")]
    return tables, [f"{what}: {why}" for what, why in failures.items() if not what.startswith("TABLE ")]


def _restore_failures(output: str) -> dict[str, str]:
    """Entry of the archive: the first error about it. Only --verbose names the entry."""
    found: dict[str, str] = {}
    entry = "something"
    for line in output.splitlines():
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
