"""``-x identity=SCHEMA.TABLE``: refused before the first change where it cannot be, and also taken up at head."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from profiles_schema.driver import execute_literally, retry_on_lock
from profiles_schema.migrations import packs
from profiles_schema.migrations.options import Options
from profiles_schema.schema import objects
from profiles_schema.schema.objects import Where
from profiles_schema.settings import INTERNAL_SCHEMA

if TYPE_CHECKING:
    from sqlalchemy import Connection

_REFUSE = f"{INTERNAL_SCHEMA}.refuse_identity"


def preflight() -> str:
    """The statement that raises where the option, as the session's settings hold it, names no table to follow.

    The body of our function: before the first revision that one does not exist yet.
    """
    sql = next(each.text for each in objects.FUNCTIONS if each.name == _REFUSE)
    body = re.search(r"(\$refuse_identity\$)\n(.*?)\1", sql, re.DOTALL)
    assert body is not None  # noqa: S101 - for the type checker
    return f"do {body[1]}\n{body[2]}{body[1]};"


def refuse_unfit(connection: Connection, options: Options) -> None:
    """Stop before anything has changed. The error is the server's, with what to do in its hint."""
    if options.values["identity"]:
        connection.exec_driver_sql("set local search_path = pg_catalog, pg_temp")
        execute_literally(connection, preflight())
        connection.rollback()


def choose(connection: Connection, options: Options) -> str | None:
    """Take the option up on a database whose revisions are there already; the name of the table if that is news."""
    if not options.values["identity"] or not _is_new(connection):
        connection.rollback()
        return None

    def work() -> str:
        execute_literally(
            connection,
            f"insert into {INTERNAL_SCHEMA}.settings (key, value)"
            " select 'identity', to_jsonb(format('%I.%I', i.name[1], i.name[2]))"
            " from (select parse_ident(current_setting('profiles_schema.identity')) as name) as i",
        )
        packs.install(connection, Where.OTHER_USERS)
        name: str = connection.exec_driver_sql(f"select {INTERNAL_SCHEMA}.choose_identity()").scalar_one()
        connection.exec_driver_sql(f"insert into {INTERNAL_SCHEMA}.jobs (kind) values ('identity')")
        connection.commit()
        return name

    return retry_on_lock(connection, work, options.deadline_seconds)


def _is_new(connection: Connection) -> bool:
    if not connection.exec_driver_sql(f"select to_regclass('{INTERNAL_SCHEMA}.identity_links') is not null").scalar():
        return False
    return not connection.exec_driver_sql(
        f"select exists (select from {INTERNAL_SCHEMA}.settings where key = 'identity')"
    ).scalar()
