"""Wide columns of ``user_profiles`` become JSON: run, verify, contract, and all of it back.

The rules are functions in the database (``expand_traits``, ``convert_traits``, ``trait_differences``, …), the same that the
revisions call; what is done here is to call them in batches, and to say where things stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema.database import connect
from profiles_schema.driver import diagnosis, retry_on_lock, server_message, sqlstate
from profiles_schema.errors import NormalizationRefused, ValuesDiffer
from profiles_schema.migrations import packs
from profiles_schema.migrations.drift import dual_write_is_broken
from profiles_schema.operations.batch_job import FIRST_ROWS, Job, Limits, Progress, Stopped, next_page
from profiles_schema.operations.batches import run, trial
from profiles_schema.operations.settings import VERIFICATION_DAYS
from profiles_schema.schema.objects import Where
from profiles_schema.schema.traits import trait_columns
from profiles_schema.settings import RELOAD_API

LOCKS = "ROW EXCLUSIVE on user_profiles; a batch at a time, committed each"
_FIRST_ID = "00000000-0000-0000-0000-000000000000"
_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_NAMED = 1_000
_LOCK_SECONDS = 60.0
_REFUSALS = {"55000", "2BP01", "42701", "0A000"}
_KEPT = "profiles_internal.kept_json as k where k.superseded_at is null"


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
class Differences:
    """What a comparison found: the first differences, and how many there are by column."""

    named: list[Difference] = field(default_factory=list)
    columns: dict[str, int] = field(default_factory=dict)


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


def forecast(connection: Connection, *, batch_rows: int = FIRST_ROWS) -> dict[str, Any]:
    """What ``convert`` would do: columns, profiles (to look at), seconds (least, most), locks."""
    found = status(connection)
    result: dict[str, Any] = {
        "columns": found.columns + found.found, "profiles": 0, "seconds": [0.0, 0.0], "locks": LOCKS,
    }  # fmt: skip
    if found.phase in {"none", "contracted"}:
        return result
    savepoint = connection.begin_nested()
    _expand(connection)
    with trial(connection, _Conversion(), batch_rows) as batch:
        result |= {"profiles": batch.total, "seconds": list(batch.seconds)}
    savepoint.rollback()
    return result


def convert(
    connection: Connection, *, limits: Limits | None = None, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """Record the wide columns that are there, and copy their values into the JSON groups, yielding the progress.

    It counts profiles ``converted``. Where something has changed behind the trigger since an earlier run, the columns count;
    a JSON value that disagrees is kept in profiles_internal.kept_json. Arguments as for ``backfill``; yields nothing where
    there is nothing to do.

    Raises:
        NormalizationRefused: a column has a type that cannot go and come back, or columns are being restored.
        AnotherRunner, RunnerReplaced, JobCancelled: see ``batches.run``.
        Stopped: before the first report.
    """
    if _phase(connection) == "restoring":
        raise NormalizationRefused(
            "The wide columns are being restored. Finish that: profiles-schema normalize restore"
        )
    _alter(connection, _expand, stopped)
    phase = _phase(connection)
    if phase not in {"expanded", "converted"}:
        return
    if phase == "converted":
        with connection.begin():
            sound = connection.scalar(text("select profiles_internal.dual_write_is_whole()")) and not _differs(
                connection
            )
        if sound:
            return
        _alter(connection, _begin_again, stopped)
    with _own_words():
        yield from run(connection.engine, [_Kept(), _Conversion()], limits, stopped=stopped)


def restore(
    connection: Connection, *, limits: Limits | None = None, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """Bring the dropped columns back, filled from the JSON, yielding the progress.

    It counts profiles ``restored``. The columns get their names once all of them are complete. Arguments as for ``backfill``;
    yields nothing where no column was dropped.

    Raises:
        NormalizationRefused: the table has columns of those names again, or a row could not be restored.
        AnotherRunner, RunnerReplaced, JobCancelled: see ``batches.run``.
        Stopped: before the first report.
    """
    if _phase(connection) == "none":
        return
    _alter(connection, partial(_call, "begin_trait_restore"), stopped)
    if _phase(connection) != "restoring":
        return
    with connection.begin():
        whole = connection.scalar(text("select profiles_internal.dual_write_is_whole()"))
    if not whole:
        _alter(connection, partial(_call, "install_dual_write"), stopped)
    with _own_words():
        yield from run(connection.engine, [_Restoration()], limits, stopped=stopped)


def verify(
    connection: Connection,
    *,
    differences: Differences | None = None,
    limits: Limits | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Compare every wide column with the JSON, profile by profile, yielding the progress at least once.

    It counts values that are ``different``. Locks nothing; a batch of profiles at a time, each as it is at one moment.

    Args:
        connection: Says which database and role; the work has a connection of its own.
        differences: Is filled with what was found.
        limits: Sizes and rates.
        stopped: Asked between batches; True ends it.
    """
    with connection.begin():
        anything = packs.is_installed(connection, Where.WIDE_COLUMNS) and connection.scalar(
            text("select exists (select from profiles_internal.traits_in_place())")
        )
    comparison = _Comparison(differences or Differences(), anything=bool(anything))
    yield from run(connection.engine, [comparison], limits, stopped=stopped)


def contract(
    connection: Connection, *, now: bool = False, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """Drop the wide columns, after every row was compared, yielding the progress of that; the last one is "contracted".

    Args:
        connection: A connection outside a transaction, as the role that owns the tables.
        now: Do not wait for the end of the verification period.
        stopped: Asked while comparing; True ends it, and nothing is dropped.

    Raises:
        NormalizationRefused: not all profiles are converted, the verification period is not over, something still uses a
            column, or a profile could not be compared.
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
    differences = Differences()
    for progress in verify(connection, differences=differences, stopped=stopped):
        yield progress
    if progress.state == "stopped":
        return
    if progress.failed:
        raise NormalizationRefused(
            f"{sum(progress.failed.values())} profiles cannot be compared (SQLSTATE {', '.join(progress.failed)}); no column"
            " is dropped."
        )
    if differences.columns:
        named = "\n".join(f"  {d.user_id}  {d.column}: {d.old!r}, JSON {d.new!r}" for d in differences.named[:20])
        raise ValuesDiffer(
            f"{progress.counts['different']} values of {len(differences.columns)} columns differ from the JSON; no column is"
            f" dropped.\n{named}\n"
            "See all: profiles-schema normalize verify. Let the columns count: profiles-schema normalize run"
        )
    # The comparison outlives a lost connection; so has what follows.
    with connect(connection.engine) as fresh:
        _contract(fresh, found, progress, now=now, stopped=stopped)
    progress.state = "contracted"
    yield progress


def _contract(
    connection: Connection, found: Status, progress: Progress, *, now: bool, stopped: Callable[[], bool]
) -> None:
    """Drop the columns, if the verification period is over."""
    with connection.begin():
        ripe = now or found.due is None or bool(connection.scalar(text("select :due <= now()"), {"due": found.due}))
    if not ripe:
        raise NormalizationRefused(
            f"Columns and JSON agree in all {progress.done} profiles, but the verification period lasts until"
            f" {found.due:%Y-%m-%d %H:%M %Z}; {found.columns} wide columns stay. Run this again then, or do not wait:"
            " profiles-schema normalize contract --now"
        )
    _alter(connection, partial(_change_columns, "contract_traits"), stopped)


class _Differing(Job):
    """What both directions share: profiles in which column and JSON differ, by user id."""

    unit = "profiles"
    function: str
    word: str
    """What it counts."""
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
        values = {"after": after or _FIRST_ID, "window": max(rows, window) - 1, "rows": rows}
        reached: str | None = connection.scalar(
            text(
                "select p.user_id::text from public.user_profiles as p where p.user_id > cast(:after as uuid)"
                " order by p.user_id offset :window limit 1"
            ),
            values,
        )
        differing = text(
            "select profiles_internal.differing_profiles(cast(:after as uuid), cast(:up_to as uuid), :rows)"
        )
        keys = [str(key) for key in connection.scalars(differing, values | {"up_to": reached or _LAST_ID})]
        return keys, keys[-1] if len(keys) == rows else reached

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        changed = connection.scalar(
            text(f"select profiles_internal.{self.function}(cast(:keys as uuid[]))"), {"keys": keys}
        )
        return {self.word: changed or 0}

    def skip(self, connection: Connection, key: str, code: str, what: str | None) -> None:
        connection.execute(
            text("select profiles_internal.record_events(cast(:users as uuid[]), 'failed', 'normalize', :code, :what)"),
            {"users": [key], "code": code, "what": what},
        )


class _Conversion(_Differing):
    """Into the JSON."""

    kind = "normalize"
    function = "convert_traits"
    word = "converted"
    undone = "(p.%1$I is null and num_nonnulls(%2$s) > 0)"

    def finish(self, connection: Connection, failed: Mapping[str, int]) -> None:
        # The last pass has found nothing, unless profiles were left out.
        if not (failed and _differs(connection)):
            _call("finish_conversion", connection)


class _Restoration(_Differing):
    """Back into the columns."""

    kind = "restore"
    function = "restore_traits"
    word = "restored"
    undone = "(p.%1$I is not null and num_nonnulls(%2$s) = 0)"

    def finish(self, connection: Connection, failed: Mapping[str, int]) -> None:  # noqa: ARG002
        _change_columns("finish_trait_restore", connection)


class _Kept(Job):
    """What an earlier downgrade kept comes back first: it may be all that a profile has, and then no column differs."""

    kind = "kept"
    unit = "profiles"
    recorded = False
    repeats = False

    def count(self, connection: Connection) -> int:
        return connection.scalar(text(f"select count(distinct k.user_id) from {_KEPT}")) or 0

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        statement = (
            f"select distinct k.user_id from {_KEPT} and k.user_id > cast(:after as uuid) order by 1 limit :rows"
        )
        return next_page(connection, statement, after, min(rows, window))

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        connection.execute(text("select profiles_internal.convert_traits(cast(:users as uuid[]))"), {"users": keys})
        return {}


class _Comparison(Job):
    """Columns against JSON, profile by profile."""

    kind = "verify"
    unit = "profiles"
    recorded = False
    repeats = False

    def __init__(self, differences: Differences, *, anything: bool) -> None:
        self.differences = differences
        self.anything = anything
        self.after: str | None = None
        self.found: list[Difference] = []
        """Of the last batch, which may be done again: after a lost connection, say."""

    def count(self, connection: Connection) -> int:
        return connection.scalar(text("select count(*) from public.user_profiles")) or 0

    def next_keys(
        self, connection: Connection, after: str | None, rows: int, window: int
    ) -> tuple[list[str], str | None]:
        if not self.anything:
            return [], None
        if after != self.after:
            self._keep()
        self.after, self.found = after, []
        statement = "select p.user_id from public.user_profiles as p where p.user_id > cast(:after as uuid)"
        return next_page(connection, f"{statement} order by p.user_id limit :rows", after, min(rows, window))

    def do(self, connection: Connection, keys: list[str]) -> dict[str, int]:
        found = connection.execute(
            text(
                "select user_id::text, column_name, old_value, new_value from"
                " profiles_internal.trait_differences(cast(:after as uuid), cast(:up_to as uuid))"
            ),
            {"after": str(UUID(int=max(UUID(keys[0]).int - 1, 0))), "up_to": keys[-1]},
        ).all()
        self.found += [Difference(*row) for row in found]
        return {"different": len(found)}

    def finish(self, connection: Connection, failed: Mapping[str, int]) -> None:  # noqa: ARG002
        self._keep()

    def _keep(self) -> None:
        columns, named = self.differences.columns, self.differences.named
        for each in self.found:
            columns[each.column] = columns.get(each.column, 0) + 1
        named += self.found[: max(0, _NAMED - len(named))]
        self.found = []


def _call(function: str, connection: Connection) -> None:
    connection.execute(text(f"select profiles_internal.{function}()"))


def _change_columns(function: str, connection: Connection) -> None:
    _call(function, connection)
    connection.exec_driver_sql(RELOAD_API)


def _expand(connection: Connection) -> None:
    if packs.install(connection, Where.WIDE_COLUMNS):
        _call("expand_traits", connection)


def _phase(connection: Connection) -> str:
    with connection.begin():
        return status(connection).phase


def _differs(connection: Connection) -> bool:
    return bool(connection.scalar(text("select exists (select from profiles_internal.trait_differences(p_most => 1))")))


def _begin_again(connection: Connection) -> None:
    """Something changed behind the trigger: every row is looked at anew."""
    connection.execute(
        text(
            "update profiles_internal.legacy_columns set state = 'expanded', converted_at = null"
            " where table_name = 'user_profiles' and state = 'converted'"
        )
    )
    connection.execute(text("select profiles_internal.install_dual_write()"))


def _alter(connection: Connection, change: Callable[[Connection], None], stopped: Callable[[], bool]) -> None:
    """Change the table, which locks it for a moment: waits shortly, so that nobody waits behind us, and tries again.

    Raises:
        DBAPIError: the lock could not be had within a minute (55P03).
        Stopped: somebody asked for an end.
        NormalizationRefused: a function of ours refused, in its words.
    """

    def attempt() -> None:
        with connection.begin():
            connection.exec_driver_sql("set local lock_timeout = '100ms'")
            change(connection)

    def heed_stop(_error: DBAPIError, _remaining: float) -> None:
        if stopped():
            raise Stopped

    with _own_words():
        retry_on_lock(connection, attempt, _LOCK_SECONDS, on_failure=heed_stop)


@contextmanager
def _own_words() -> Iterator[None]:
    """What a function of ours refuses becomes an error in its words."""
    try:
        yield
    except DBAPIError as error:
        if sqlstate(error) not in _REFUSALS:
            raise
        message, hint = server_message(error).strip(), (diagnosis(error, "message_hint") or "").strip()
        if message.partition(" ")[0].isalpha():  # not the name of a table
            message = f"{message[:1].upper()}{message[1:]}"
        raise NormalizationRefused(f"{message}. {hint}".strip()) from error
