"""Bring a database back to what this version declares: `repair`.

What differs is what ``check`` and ``health`` find. Each difference is removed in transactions of its own that wait shortly
for locks and try again; indexes are built concurrently, CHECKs and foreign keys are validated in a second step. What belongs
to the application is never proposed by the comparison, so it is never touched. What would need a decision (rows that break
a rule, data that are gone) is left, and named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.driver import (
    LOCK_FAILURES,
    diagnosis,
    execute_literally,
    is_disconnect,
    retry_on_lock,
    server_message,
    sqlstate,
)
from profiles_schema.errors import InsufficientPrivilege, NotAtHead, NotMigrated
from profiles_schema.migrations import expected, standing
from profiles_schema.migrations.blockers import BlockerWatch
from profiles_schema.migrations.drift import REMEDY as AGAIN
from profiles_schema.migrations.failures import database_error
from profiles_schema.migrations.indexes import concurrent_index_rules, created_index, is_concurrent
from profiles_schema.migrations.locking import migration_lock
from profiles_schema.migrations.options import Options
from profiles_schema.migrations.pooler import refuse_transaction_pooler
from profiles_schema.migrations.repairs import EQUAL_ROWS, Left, Repair, find_repairs, obstacle_to, rows_to_change
from profiles_schema.migrations.session import session
from profiles_schema.migrations.standing import at_head
from profiles_schema.operations.health import current_revision
from profiles_schema.settings import RELOAD_API

DEADLINE_SECONDS = 60.0
"""How long one statement is tried again while its lock cannot be had."""
WAIT_FOR_MIGRATION_SECONDS = 60.0
_PASSES = 4
_READ_ONLY = "25006"


@dataclass
class Result:
    """What was put back (or, in a dry run, would be), and what was left."""

    repaired: list[Repair] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def repair(
    connection: Connection,
    *,
    dry_run: bool = False,
    recreate_dropped: bool = False,
    show: Callable[[Repair, str], None] = lambda _repair, _sql: None,
) -> Result:
    """Put back everything that differs, as far as that takes no decision.

    Args:
        connection: A connection outside a transaction, as the role that owns the tables.
        dry_run: Show what would be run first, and change nothing. What depends on it comes to light only after it.
        recreate_dropped: Also make tables and columns anew that were dropped with what they held, empty.
        show: Called with each SQL text before it runs.

    Raises:
        NotAtHead, NotMigrated: the database is not at this version's newest revision.
        InsufficientPrivilege: the role owns none of the tables.
    """
    _require_head(connection)
    if dry_run:
        found, left = find_repairs(connection, recreate_dropped=recreate_dropped)
        possible = []
        for each in found:
            obstacle = obstacle_to(connection, each)
            if obstacle is None:
                possible.append(each)
            elif obstacle not in left:
                left.append(obstacle)
        connection.rollback()
        for each in possible:
            for sql in each.transactions:
                show(each, sql)
        return Result(possible, left)
    _require_owner(connection)
    refuse_transaction_pooler(connection)
    options = Options(lock_wait_seconds=WAIT_FOR_MIGRATION_SECONDS, deadline_seconds=DEADLINE_SECONDS)
    rules = {"lock_timeout_ms": options.lock_timeout_ms, "deadline_seconds": DEADLINE_SECONDS}
    with (
        session(connection, options),
        migration_lock(connection, wait_seconds=options.lock_wait_seconds),
        concurrent_index_rules(connection, **rules),  # type: ignore[arg-type]
        BlockerWatch(connection) as watch,
    ):
        result = _repair(connection, watch, show, recreate_dropped=recreate_dropped)
        if result.repaired:
            with connection.begin():
                connection.exec_driver_sql(RELOAD_API)
    return result


def _repair(
    connection: Connection, watch: BlockerWatch, show: Callable[[Repair, str], None], *, recreate_dropped: bool
) -> Result:
    result = Result()
    done: set[Repair] = set()
    for _ in range(_PASSES):
        # What depends on something repaired (the triggers of a table, say) is found by the next look.
        found, result.left = find_repairs(connection, recreate_dropped=recreate_dropped)
        connection.rollback()
        progress, again = False, []
        for each in found:
            if each in done:
                again.append(Left(each.what, "It was put back, and differs again.", AGAIN))
                continue
            for sql in each.transactions:
                show(each, sql)
                try:
                    _execute(connection, sql, watch)
                except DBAPIError as error:
                    result.left.append(_difference_left(connection, each, error, watch))
                    break
                progress = True
            else:
                done.add(each)
                result.repaired.append(each)
        # Behind something that is left, a difference that comes again (a CHECK on a column of another type) is no news.
        result.left += [] if result.left else again
        if not progress:
            break
    result.left = [left for left in result.left if not left.waits] or result.left
    return result


def _require_head(connection: Connection) -> None:
    revision = current_revision(connection)
    if revision is None:
        obstacle = standing.lost_version(connection)
        if obstacle is None:
            raise NotMigrated
        if obstacle.code != "version_lost" or not _was_at_head(connection):
            raise obstacle.error()
    elif not at_head(revision):
        raise NotAtHead
    if (users_gone := standing.missing_users(connection)) is not None:
        raise users_gone.error()
    connection.rollback()


def _was_at_head(connection: Connection) -> bool:
    """Whether the last migration on record led to the newest revision: then a lost version row is no obstacle."""
    last = connection.scalar(
        text(
            "select l.revision from profiles_internal.migration_log as l where l.outcome = 'done'"
            " order by l.started desc limit 1"
        )
    )
    return last is not None and at_head(last)


def _require_owner(connection: Connection) -> None:
    role, owner, may = connection.execute(
        text(
            "select current_user, n.nspowner::regrole::text, pg_has_role(n.nspowner, 'usage') or exists ("
            "  select from unnest(cast(:tables as text[])) as t (name) join pg_class as c on c.oid = to_regclass(t.name)"
            "  where pg_has_role(c.relowner, 'usage'))"
            " from pg_namespace as n where n.nspname = 'profiles_internal'"
        ),
        {"tables": [name for name in expected.every_table() if not name.startswith("auth.")]},
    ).one()
    connection.rollback()
    if not may:
        raise InsufficientPrivilege(f"The role {role} owns none of the tables. Connect as {owner}, which does.")


# Running


def _execute(connection: Connection, sql: str, watch: BlockerWatch) -> None:
    def attempt() -> None:
        watch.begin()
        try:
            _execute_once(connection, sql)
        except DBAPIError as error:
            connection.rollback()
            if not is_disconnect(error):
                _drop_invalid(connection, sql)
            raise
        finally:
            watch.end()

    retry_on_lock(connection, attempt, DEADLINE_SECONDS)
    watch.forget()


def _execute_once(connection: Connection, sql: str) -> None:
    if not is_concurrent(sql):
        with connection.begin():
            execute_literally(connection, sql)
        return
    usual = connection.get_isolation_level()
    connection.rollback()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        execute_literally(connection, sql)
    finally:
        connection.rollback()
        connection.execution_options(isolation_level=usual)


def _drop_invalid(connection: Connection, sql: str) -> None:
    """Drop what CREATE INDEX CONCURRENTLY leaves when it fails."""
    created = created_index(sql)
    if created is None:
        return
    left = connection.scalar(
        text(
            "select x.indexrelid::regclass::text from pg_index as x join pg_class as c on c.oid = x.indexrelid"
            " where x.indrelid = to_regclass(:table) and c.relname = :name and not x.indisvalid"
        ),
        {"name": created[0], "table": created[1]},
    )
    connection.rollback()
    if left is not None:
        _execute_once(connection, f"drop index concurrently if exists {left}")


def _difference_left(connection: Connection, failed: Repair, error: DBAPIError, watch: BlockerWatch) -> Left:
    if is_disconnect(error) or sqlstate(error) == _READ_ONLY:
        raise database_error(error, doing="the repair", role="") from error
    message = server_message(error)
    match sqlstate(error):
        case state if state in LOCK_FAILURES:
            held = f", held by {watch.last}" if watch.last else ""
            return Left(failed.what, f"No lock within {DEADLINE_SECONDS:.0f} s{held}.", AGAIN)
        case "42501":
            owner = connection.scalar(
                text("select nspowner::regrole::text from pg_namespace where nspname = 'profiles_internal'")
            )
            connection.rollback()
            return Left(
                failed.what,
                f"{message[:1].upper()}{message[1:]}.",
                f"connect as a role that may, such as {owner}, and run: {AGAIN}",
            )
        case "23505" if failed.duplicates:
            return Left(
                failed.what,
                EQUAL_ROWS,
                rows_to_change(failed.duplicates),
            )
        case "42703" | "42P01":
            return Left(
                failed.what, f"{message[:1].upper()}{message[1:]}.", f"put that back first, then: {AGAIN}", waits=True
            )
        case "2BP01":  # DETAIL names objects here
            detail = (diagnosis(error, "message_detail") or message).replace("\n", "; ")
            return Left(failed.what, f"Something else depends on it: {detail}.", f"drop or change that, then: {AGAIN}")
        case state:
            return Left(
                failed.what, f"The database refused: {message} (SQLSTATE {state}).", f"remove the cause, then: {AGAIN}"
            )
