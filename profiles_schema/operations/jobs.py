"""Jobs as people see them: which there are, what is wrong with them, and how they are held, let go and given up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import UsageError
from profiles_schema.operations.findings import Finding, notice, problem
from profiles_schema.operations.ledger import RUNNER_SESSION, STALE_SECONDS

QUIET_SECONDS = 300
"""A runner whose session is there, but that has given no sign of life for so long, is a problem."""
# A standby does not know the sessions of its primary.
_RUNS = f"(pg_is_in_recovery() or exists (select from pg_stat_activity as a where {RUNNER_SESSION}))"


@dataclass(frozen=True)
class JobRow:
    """A job as ``jobs list`` shows it.

    ``runner_runs`` is None where nobody has taken the job. ``seconds_quiet`` is the time since the last sign of life,
    ``rows_per_second`` the average since the start.
    """

    id: int
    kind: str
    state: str
    rows_done: int
    rows_total: int | None
    rows_failed: int
    runner: str | None
    runner_runs: bool | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    finished_at: datetime | None
    seconds_quiet: float | None
    rows_per_second: float | None


def list_jobs(connection: Connection) -> list[JobRow]:
    """List all jobs, newest first."""
    rows = connection.execute(
        text(
            "select j.id, j.kind, j.state, j.rows_done, j.rows_total, j.rows_failed, split_part(j.runner, ' ', 1) as runner,"
            f" case when j.runner is not null then {_RUNS} end as runner_runs, j.started_at, j.heartbeat_at, j.finished_at,"
            " extract(epoch from clock_timestamp() - j.heartbeat_at)::float as seconds_quiet,"
            " round((j.rows_done / nullif(extract(epoch from coalesce(j.finished_at, j.heartbeat_at) - j.started_at), 0))::numeric, 1)::float"
            "  as rows_per_second"
            " from profiles_internal.jobs as j order by j.id desc"
        )
    )
    return [JobRow(*row) for row in rows]


def examine_jobs(connection: Connection) -> Iterator[Finding]:
    """Jobs that are not done: those that wait are notices, those that nobody works on although they should be problems."""
    rows = connection.execute(
        text(
            f"select j.id, j.kind, j.state, j.state = 'running' and not {_RUNS} as gone,"
            " j.state = 'running' and j.heartbeat_at < now() - make_interval(secs => :quiet) as quiet"
            " from profiles_internal.jobs as j where j.state not in ('completed', 'cancelled') order by j.id"
        ),
        {"quiet": QUIET_SECONDS},
    )
    for job in rows:
        name = f"{job.id} ({job.kind})"
        remedy: str | None = command_of(job.kind)
        if job.gone:
            fact = f"The runner of job {name} is gone."
        elif job.quiet:
            fact = f"Job {name} is running, but shows no sign of life."
        else:
            fact = f"Job {name} is {job.state}."
            remedy = {"running": None, "paused": f"profiles-schema jobs resume {job.id}"}.get(job.state, remedy)
        if job.gone or job.quiet:
            yield problem("job", fact, remedy)
        else:
            yield notice("job", fact, remedy)


_COMMANDS = {
    "normalize": "normalize run",
    "restore": "normalize restore",
    "identity": "backfill",
    "purge_exports": "exports purge",
    "progress": "progress recount",
}


def command_of(kind: str) -> str:
    """The command that works on jobs of a kind."""
    return f"profiles-schema {_COMMANDS.get(kind, kind)}"


_MOVES = {
    "pause": (("pending", "running"), "paused"),
    "resume": (("paused",), "pending"),
    "cancel": (("pending", "running", "paused"), "cancelled"),
}


def move(connection: Connection, verb: str, job_id: int) -> str:
    """Pause, resume or cancel a job; returns its new state. A runner heeds it before its next batch.

    Raises:
        UsageError: no such job, or it is not in a state for that.
    """
    allowed, state = _MOVES[verb]
    with connection.begin():
        connection.exec_driver_sql("set local lock_timeout = '10s'")
        row = connection.execute(
            text(
                "select state, runner is not null"
                " and coalesce(heartbeat_at > now() - make_interval(secs => :stale), false) as fresh"
                " from profiles_internal.jobs where id = :id for update"
            ),
            {"id": job_id, "stale": STALE_SECONDS},
        ).one_or_none()
        if row is None:
            raise UsageError(f"There is no job {job_id}. List them with: profiles-schema jobs list")
        if row.state not in allowed:
            raise UsageError(f"Job {job_id} is {row.state}: there is nothing to {verb}.")
        if verb == "resume" and row.fresh:
            state = "running"  # its runner waits
        connection.execute(
            text(
                "update profiles_internal.jobs set state = :state,"
                " parameters = case when :state = 'cancelled' then parameters - 'left_out' else parameters end,"
                " finished_at = case when :state = 'cancelled' then now() end where id = :id"
            ),
            {"state": state, "id": job_id},
        )
    return state
