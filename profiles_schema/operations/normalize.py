"""Wide columns of ``user_profiles`` become JSON: run, verify, contract, and all of it back.

The rules are functions in the database (``expand_traits``, ``convert_traits``, ``trait_differences``, …), the same that the
revisions call; what is done here is to call them in batches, and to say where things stand.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.database import connect
from profiles_schema.driver import is_disconnect, sqlstate
from profiles_schema.errors import NormalizationRefused, ValuesDiffer
from profiles_schema.migrations import packs
from profiles_schema.migrations.drift import dual_write_is_broken
from profiles_schema.operations.batches import FIRST_ROWS, RECONNECT_SECONDS, TARGET_MS, Limits, Progress, run
from profiles_schema.operations.settings import VERIFICATION_DAYS
from profiles_schema.schema.objects import Where
from profiles_schema.schema.traits import trait_columns
from profiles_schema.settings import RELOAD_API

LOCKS = "ROW EXCLUSIVE on user_profiles; a batch at a time, committed each"
_FIRST_ID = "00000000-0000-0000-0000-000000000000"
_VERIFY_ROWS = 2_000
_NAMED = 1_000
_LOCK_SECONDS = 60.0
_LOCK_ERRORS = frozenset({"55P03", "40P01"})
_REFUSALS = {"55000", "2BP01", "42701", "0A000"}
_KEPT_ROWS = 100


@dataclass(frozen=True)
class Status:
    """Where the normalization stands.

    ``phase`` is none (no wide columns, and never were), found (there are, and nobody recorded them), expanded (recorded, not
    all profiles converted), converted (all are, until contract), restoring, or contracted. ``columns`` counts the recorded
    ones that are in the table, ``found`` those that ``run`` would record. ``due`` is when the verification period ends.
    ``in_step`` says whether the trigger that keeps columns and JSON in step is whole; ``kept`` counts values in
    profiles_internal.kept_json.
    """

    phase: str
    columns: int
    found: int
    profiles: int
    converted_at: datetime | None
    due: datetime | None
    in_step: bool
    kept: int
    job: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """A path in which column and JSON disagree: whose, which, and both values, cut to 80 characters; None is NULL."""

    user_id: str
    column: str
    old: str | None
    new: str | None


@dataclass
class Verification:
    """How far a comparison is: ``profiles`` of ``total`` compared, ``different`` values found, the first of them named."""

    total: int = 0
    profiles: int = 0
    different: int = 0
    differences: list[Difference] = field(default_factory=list)
    columns: dict[str, int] = field(default_factory=dict)
    profiles_per_second: float = 0.0
    state: str = "running"


def status(connection: Connection) -> Status:
    """Say where the normalization stands. Reads only, and only counts of the catalog."""
    row = connection.execute(
        text(
            "select count(*) filter (where l.state <> 'contracted') as columns,"
            " count(*) filter (where l.state = 'contracted') as contracted,"
            " bool_or(l.state = 'restoring') as restoring, bool_or(l.state = 'expanded') as expanded,"
            " max(l.converted_at) as converted_at"
            " from profiles_internal.legacy_columns as l where l.table_name = 'user_profiles'"
        )
    ).one()
    found = unrecorded(connection)
    phase = (
        "restoring"
        if row.restoring
        else "expanded"
        if row.expanded
        else "converted"
        if row.columns
        else "found"
        if found
        else "contracted"
        if row.contracted
        else "none"
    )
    others = connection.execute(
        text(
            "select (select count(*) from profiles_internal.kept_json) as kept,"
            " (select greatest(c.reltuples, 0)::bigint from pg_class as c where c.oid = 'public.user_profiles'::regclass) as profiles,"
            " (select format('%s %s, %s rows done', j.id, j.state, j.rows_done) from profiles_internal.jobs as j"
            "  where j.kind in ('normalize', 'restore') and j.state in ('pending', 'running', 'paused') order by j.id limit 1) as job,"
            f" {VERIFICATION_DAYS} as days"
        )
    ).one()
    due = row.converted_at + timedelta(days=others.days) if phase == "converted" and row.converted_at else None
    in_step = is_in_step(connection)
    return Status(phase, row.columns, found, others.profiles, row.converted_at, due, in_step, others.kept, others.job)


def unrecorded(connection: Connection) -> int:
    """How many wide columns there are that nobody has recorded."""
    found: int = connection.execute(
        text(
            "select count(*) from pg_attribute as a where a.attrelid = 'public.user_profiles'::regclass"
            " and not a.attisdropped and a.attname = any (cast(:names as text[]))"
            " and not exists (select from profiles_internal.legacy_columns as l where l.table_name = 'user_profiles'"
            "  and l.column_name = a.attname and l.state not in ('contracted', 'restoring'))"
        ),
        {"names": [trait.name for trait in trait_columns()]},
    ).scalar_one()
    return found


def is_in_step(connection: Connection) -> bool:
    """Whether the wide columns and the JSON follow each other; true where there are none."""
    return not dual_write_is_broken(connection)


def plan(connection: Connection, *, batch_rows: int = FIRST_ROWS) -> dict[str, Any]:
    """What ``convert`` would do: columns, profiles (to look at), seconds (least, most), locks.

    The forecast comes from one batch that is done and rolled back.
    """
    found = status(connection)
    result: dict[str, Any] = {
        "columns": found.columns + found.found, "profiles": 0, "seconds": [0.0, 0.0], "locks": LOCKS,
    }  # fmt: skip
    if found.phase in {"none", "contracted"}:
        return result
    savepoint = connection.begin_nested()
    packs.install(connection, Where.WIDE_COLUMNS)
    job = _Conversion()
    connection.execute(text("select profiles_internal.expand_traits()"))
    result["profiles"] = job.count(connection)
    keys, _ = job.next_keys(connection, None, batch_rows, batch_rows)
    if keys:
        started = time.monotonic()
        job.do(connection, keys)
        result["profiles"] = max(result["profiles"], len(keys))
        seconds = (time.monotonic() - started) * result["profiles"] / len(keys)
        result["seconds"] = [round(seconds * 0.5, 3), round(seconds * 3 + 1, 3)]
    savepoint.rollback()
    return result


def convert(
    connection: Connection,
    *,
    batch_rows: int = FIRST_ROWS,
    target_ms: int = TARGET_MS,
    max_rate: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Record the wide columns that are there, and copy their values into the JSON groups, yielding the progress.

    Where something has changed behind the trigger since an earlier run, the columns count; a JSON value that disagrees is
    kept in profiles_internal.kept_json. Arguments as for ``backfill``; yields nothing where there is nothing to do.

    Raises:
        NormalizationRefused: a column has a type that cannot go and come back, or columns are being restored.
        AnotherRunner, RunnerReplaced, JobCancelled: see ``batches.run``.
    """
    if _phase(connection) == "restoring":
        raise NormalizationRefused(
            "The wide columns are being restored. Finish that: profiles-schema normalize restore"
        )
    _patiently(connection, lambda: _expand(connection))
    phase = _phase(connection)
    if phase not in {"expanded", "converted"}:
        return
    if phase == "converted":
        with connection.begin():
            sound = connection.scalar(
                text(
                    "select profiles_internal.dual_write_is_whole()"
                    " and not exists (select from profiles_internal.trait_differences(p_most => 1))"
                )
            )
        if sound:
            return
        _patiently(connection, lambda: _begin_again(connection))
    limits = Limits(batch_rows=batch_rows, target_ms=target_ms, max_rate=max_rate)
    _bring_back(connection, stopped)
    last = None
    for last in _in_batches(connection, _Conversion(), limits, stopped):
        yield last
    # The last pass has found nothing, unless profiles were left out.
    if last is not None and last.state == "completed" and not (last.failed and _differs(connection)):
        _patiently(connection, lambda: connection.execute(text("select profiles_internal.finish_conversion()")))


def restore(
    connection: Connection,
    *,
    batch_rows: int = FIRST_ROWS,
    target_ms: int = TARGET_MS,
    max_rate: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Bring the dropped columns back, filled from the JSON, yielding the progress.

    They get their names once all of them are complete. Arguments as for ``backfill``; yields nothing where no column was
    dropped.

    Raises:
        NormalizationRefused: the table has columns of those names again, or a row could not be restored.
        AnotherRunner, RunnerReplaced, JobCancelled: see ``batches.run``.
    """
    if _phase(connection) == "none":
        return
    _patiently(connection, lambda: connection.execute(text("select profiles_internal.begin_trait_restore()")))
    if _phase(connection) != "restoring":
        return
    with connection.begin():
        whole = connection.scalar(text("select profiles_internal.dual_write_is_whole()"))
    if not whole:
        _patiently(connection, lambda: connection.execute(text("select profiles_internal.install_dual_write()")))
    limits = Limits(batch_rows=batch_rows, target_ms=target_ms, max_rate=max_rate)
    last = None
    for last in _in_batches(connection, _Restoration(), limits, stopped):
        yield last
    if last is not None and last.state == "completed":
        _patiently(connection, lambda: _change_columns(connection, "finish_trait_restore"))


def verify(connection: Connection, *, stopped: Callable[[], bool] = lambda: False) -> Iterator[Verification]:
    """Compare every wide column with the JSON, profile by profile, yielding the progress at least once.

    Locks nothing; a window of profiles at a time, each as it is at one moment.
    """
    result = Verification()
    with connection.begin():
        result.total = connection.scalar(text("select count(*) from public.user_profiles")) or 0
        nothing = not packs.is_installed(connection, Where.WIDE_COLUMNS) or not connection.scalar(
            text("select exists (select from profiles_internal.traits_in_place())")
        )
    started = time.monotonic()
    after: str | None = _FIRST_ID
    while not nothing and not stopped():
        with connection.begin():
            rows, up_to = _window(connection, after or _FIRST_ID, _VERIFY_ROWS)
            found = connection.execute(
                text(
                    "select user_id::text, column_name, old_value, new_value from"
                    " profiles_internal.trait_differences(cast(:after as uuid), cast(:up_to as uuid))"
                ),
                {"after": after, "up_to": up_to},
            ).all() if rows else []  # fmt: skip
        if not rows:
            nothing = True
            break
        result.profiles += rows
        result.different += len(found)
        for row in found:
            result.columns[row.column_name] = result.columns.get(row.column_name, 0) + 1
            if len(result.differences) < _NAMED:
                result.differences.append(Difference(*row))
        result.profiles_per_second = round(result.profiles / max(time.monotonic() - started, 1e-6), 1)
        after = up_to
        yield result
    result.total = max(result.total, result.profiles)
    result.state = "completed" if nothing else "stopped"
    yield result


def contract(
    connection: Connection, *, now: bool = False, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Verification]:
    """Drop the wide columns, after every row was compared, yielding the progress of that; the last one is "contracted".

    Args:
        connection: A connection outside a transaction, as the role that owns the tables.
        now: Do not wait for the end of the verification period.
        stopped: Asked while comparing; True ends it, and nothing is dropped.

    Raises:
        NormalizationRefused: not all profiles are converted, the verification period is not over, or something still
            uses a column.
        ValuesDiffer: with the first differences; nothing is dropped.
    """
    with connection.begin():
        found = status(connection)
    if found.phase in {"none", "contracted"}:
        return
    if found.phase in {"found", "expanded"}:
        raise NormalizationRefused(
            f"Not all profiles are converted yet; {found.columns + found.found} wide columns stay."
            " Run: profiles-schema normalize run"
        )
    if found.phase == "restoring":
        raise NormalizationRefused(
            "The wide columns are being restored. Finish that: profiles-schema normalize restore"
        )
    result = Verification()
    for result in verify(connection, stopped=stopped):
        yield result
    if result.state == "stopped":
        return
    if result.different:
        named = "\n".join(f"  {d.user_id}  {d.column}: {d.old!r}, JSON {d.new!r}" for d in result.differences[:20])
        raise ValuesDiffer(
            f"{result.different} values of {len(result.columns)} columns differ from the JSON; no column is dropped.\n{named}\n"
            "See all: profiles-schema normalize verify. Let the columns count: profiles-schema normalize run"
        )
    with connection.begin():
        ripe = now or found.due is None or bool(connection.scalar(text("select :due <= now()"), {"due": found.due}))
    if not ripe:
        raise NormalizationRefused(
            f"Columns and JSON agree in all {result.profiles} profiles, but the verification period lasts until"
            f" {found.due:%Y-%m-%d %H:%M %Z}; {found.columns} wide columns stay. Run this again then, or do not wait:"
            " profiles-schema normalize contract --now"
        )
    _patiently(connection, lambda: _change_columns(connection, "contract_traits"))
    result.state = "contracted"
    yield result


class _Profiles:
    """What both directions share: profiles in which column and JSON differ, by user id."""

    kind: str
    function: str
    undone: str
    """Of a group %1$I with the columns %2$s: a row that is still to be done. Rows of another kind are few."""

    def count(self, connection: Connection) -> int:
        undone = connection.scalar(
            text(
                "select string_agg(format(:undone, g.name, g.attributes), ' or ') from (select t.jsonb_column as name,"
                " string_agg(format('p.%I', t.attribute), ', ') as attributes from profiles_internal.traits_in_place() as t"
                " group by 1) as g"
            ),
            {"undone": self.undone},
        )
        return int(
            connection.exec_driver_sql(f"select count(*) from public.user_profiles as p where {undone}").scalar() or 0
        )

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        looked_at, up_to = _window(connection, after or _FIRST_ID, max(rows, window))
        if not looked_at:
            return [], None
        keys = [
            key
            for (key,) in connection.execute(
                text("select profiles_internal.differing_profiles(cast(:after as uuid), cast(:up_to as uuid), :rows)"),
                {"after": after or _FIRST_ID, "up_to": up_to, "rows": rows},
            )
        ]
        if len(keys) == rows:
            up_to = str(keys[-1])
        return [str(key) for key in keys], up_to

    def do(self, connection: Connection, keys: list[str]) -> int:
        return int(
            connection.scalar(text(f"select profiles_internal.{self.function}(cast(:keys as uuid[]))"), {"keys": keys})
            or 0
        )

    def skip(self, connection: Connection, key: str, code: str, what: str | None) -> None:
        connection.execute(
            text("select profiles_internal.record_events(cast(:users as uuid[]), 'failed', 'normalize', :code, :what)"),
            {"users": [key], "code": code, "what": what},
        )


class _Conversion(_Profiles):
    kind = "normalize"
    function = "convert_traits"
    undone = "(p.%1$I is null and num_nonnulls(%2$s) > 0)"


class _Restoration(_Profiles):
    kind = "restore"
    function = "restore_traits"
    undone = "(p.%1$I is not null and num_nonnulls(%2$s) = 0)"


def _window(connection: Connection, after: str, rows: int) -> tuple[int, str | None]:
    """How many of the next profiles there are, up to some number, and the last one's user id."""
    row = connection.execute(
        text(
            "select count(*), (array_agg(w.user_id order by w.user_id desc))[1]::text from (select p.user_id"
            " from public.user_profiles as p where p.user_id > cast(:after as uuid) order by p.user_id limit :rows) as w"
        ),
        {"after": after, "rows": rows},
    ).one()
    return row[0], row[1]


def _in_batches(
    connection: Connection, job: _Profiles, limits: Limits, stopped: Callable[[], bool]
) -> Iterator[Progress]:
    yield from run(lambda: connect(connection.engine), job, limits, stopped=stopped)
    _revive(connection)


def _bring_back(connection: Connection, stopped: Callable[[], bool]) -> None:
    """What an earlier downgrade kept comes back first: it may be all that a profile has, and then no column differs."""
    after = _FIRST_ID
    while not stopped():
        with connection.begin():
            users = connection.scalars(
                text(
                    "select distinct k.user_id::text from profiles_internal.kept_json as k where k.superseded_at is null"
                    " and k.user_id > cast(:after as uuid) order by 1 limit :rows"
                ),
                {"after": after, "rows": _KEPT_ROWS},
            ).all()
        if not users:
            return
        _patiently(connection, partial(_convert_users, connection, users))
        after = users[-1]


def _convert_users(connection: Connection, users: Sequence[str]) -> None:
    connection.execute(text("select profiles_internal.convert_traits(cast(:users as uuid[]))"), {"users": list(users)})


def _revive(connection: Connection) -> None:
    """Let a connection that was lost while the batches ran begin anew: they outlive that, and so must what follows."""
    give_up = time.monotonic() + RECONNECT_SECONDS
    while True:
        try:
            with connection.begin():
                connection.exec_driver_sql("select")
        except DBAPIError as error:
            if not is_disconnect(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.1)
        else:
            return


def _change_columns(connection: Connection, function: str) -> None:
    connection.execute(text(f"select profiles_internal.{function}()"))
    connection.exec_driver_sql(RELOAD_API)


def _expand(connection: Connection) -> None:
    if packs.install(connection, Where.WIDE_COLUMNS):
        connection.execute(text("select profiles_internal.expand_traits()"))


def _phase(connection: Connection) -> str:
    with connection.begin():
        return status(connection).phase


def _differs(connection: Connection) -> bool:
    with connection.begin():
        return bool(
            connection.scalar(text("select exists (select from profiles_internal.trait_differences(p_most => 1))"))
        )


def _begin_again(connection: Connection) -> None:
    """Something changed behind the trigger: every row is looked at anew."""
    connection.execute(
        text(
            "update profiles_internal.legacy_columns set state = 'expanded', converted_at = null"
            " where table_name = 'user_profiles' and state = 'converted'"
        )
    )
    connection.execute(text("select profiles_internal.install_dual_write()"))


def _patiently(connection: Connection, work: Callable[[], Any]) -> None:
    """Do something that locks the table for a moment: waits shortly, so that nobody waits behind us, and tries again.

    Raises:
        DBAPIError: the lock could not be had within a minute (55P03).
        NormalizationRefused: a function of ours refused, in its words.
    """
    give_up = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            with connection.begin():
                connection.exec_driver_sql("set local lock_timeout = '100ms'")
                work()
        except DBAPIError as error:
            code = sqlstate(error)
            if code in _REFUSALS:
                diagnosis = getattr(error.orig, "diag", None)
                message = str(getattr(diagnosis, "message_primary", "") or error.orig).strip()
                hint = str(getattr(diagnosis, "message_hint", "") or "").strip()
                if message.partition(" ")[0].isalpha():  # not the name of a table
                    message = f"{message[:1].upper()}{message[1:]}"
                raise NormalizationRefused(f"{message}. {hint}".strip()) from error
            if code not in _LOCK_ERRORS or time.monotonic() > give_up:
                raise
            time.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - jitter, no secret
        else:
            return
