"""jobs: look at long work, hold it, let it go on, give it up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from profiles_schema.cli.help import Verb, Verbs, examples
from profiles_schema.cli.options import (
    database,
    json_option,
    local_option,
    print_json,
    require_migrated,
)
from profiles_schema.cli.tables import print_table

if TYPE_CHECKING:
    from profiles_schema.operations.jobs import JobRow


@click.group(
    cls=Verbs,
    epilog=examples("profiles-schema jobs list", "profiles-schema jobs pause 3", "profiles-schema jobs resume 3"),
)
def jobs() -> None:
    """List, pause, resume and cancel work in batches. Takes effect before the next batch."""


@jobs.command("list", epilog=examples("profiles-schema jobs list", "profiles-schema jobs list --json"))
@local_option
@json_option
def list_them(local: bool, as_json: bool) -> None:
    """List all jobs, newest first."""
    from profiles_schema.operations.jobs import list_jobs

    with database(local=local) as connection:
        require_migrated(connection)
        found = list_jobs(connection)
    if as_json:
        print_json([asdict(job) for job in found])
        return
    if not found:
        click.echo("no jobs")
        return
    print_table(_HEADER, map(_cells, found))
    for job in found:
        for remark in _remarks(job):
            click.echo(f"job {job.id}: {remark}")


_HEADER = ("id", "job", "state", "rows", "rows/s", "started", "sign of life")


def _cells(job: JobRow) -> tuple[str, ...]:
    return (
        str(job.id),
        job.kind,
        job.state,
        str(job.rows_done) + (f"/{job.rows_total}" if job.rows_total is not None else ""),
        "-" if job.rows_per_second is None else f"{job.rows_per_second:.0f}",
        f"{job.started_at.astimezone():%Y-%m-%d %H:%M}" if job.started_at else "-",
        "-" if job.seconds_quiet is None else f"{_age(job.seconds_quiet)} ago",
    )


def _remarks(job: JobRow) -> Iterator[str]:
    from profiles_schema.operations.jobs import command_of

    if job.rows_failed:
        yield f"{job.rows_failed} rows left out"
    if job.state == "running" and not job.runner_runs:
        yield f"its runner is gone; go on with: {command_of(job.kind)}"
    elif job.runner and job.state in {"running", "paused"}:
        yield f"by {job.runner}"
    if job.state == "paused":
        yield f"go on with: profiles-schema jobs resume {job.id}"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _mover(verb: str, summary: str) -> click.Command:
    @click.command(verb, cls=Verb, help=summary, epilog=examples(f"profiles-schema jobs {verb} 3"))
    @click.argument("job_id", type=int, metavar="ID")
    @local_option
    @json_option
    def command(job_id: int, local: bool, as_json: bool) -> None:
        from profiles_schema.operations.jobs import command_of, list_jobs, move

        with database(local=local, writes=True) as connection:
            require_migrated(connection)
            state = move(connection, verb, job_id)
            kind = next(job.kind for job in list_jobs(connection) if job.id == job_id)
        if as_json:
            print_json({"id": job_id, "state": state})
        elif state == "pending":
            click.echo(f"job {job_id} is pending, and no process works on it: go on with: {command_of(kind)}")
        else:
            click.echo(f"job {job_id} is {state}")

    return command


jobs.add_command(_mover("pause", "Hold a job; its runner waits, and nothing is lost."))
jobs.add_command(_mover("resume", "Let a paused job go on where it was."))
jobs.add_command(_mover("cancel", "Give a job up; what is done stands."))
