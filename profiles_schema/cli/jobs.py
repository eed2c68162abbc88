"""jobs: look at long work, hold it, let it go on, give it up."""

from __future__ import annotations

from dataclasses import asdict

import click

from profiles_schema.cli.help import Verb, Verbs, examples
from profiles_schema.cli.options import database, json_option, local_option, print_json, require_migrated


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
    """All jobs, newest first."""
    from profiles_schema.operations.batches import list_jobs

    with database(local=local) as connection:
        require_migrated(connection)
        found = list_jobs(connection)
    if as_json:
        print_json([asdict(job) for job in found])
        return
    for job in found:
        total = f" of {job.rows_total}" if job.rows_total is not None else ""
        failed = f", {job.rows_failed} left out" if job.rows_failed else ""
        runner = f", by {job.runner}" if job.runner else ""
        click.echo(f"{job.id}  {job.kind}  {job.state}  {job.rows_done}{total} rows{failed}{runner}")
    if not found:
        click.echo("no jobs")


def _mover(verb: str, summary: str) -> click.Command:
    @click.command(verb, cls=Verb, help=summary, epilog=examples(f"profiles-schema jobs {verb} 3"))
    @click.argument("job_id", type=int, metavar="ID")
    @local_option
    @json_option
    def command(job_id: int, local: bool, as_json: bool) -> None:
        from profiles_schema.operations.batches import command_of, list_jobs, move

        with database(local=local, writes=True) as connection:
            require_migrated(connection)
            state = move(connection, verb, job_id)
            kind = next(job.kind for job in list_jobs(connection) if job.id == job_id)
        if as_json:
            print_json({"id": job_id, "state": state})
        elif state == "pending":
            click.echo(f"job {job_id} is pending; nobody works on it: go on with: {command_of(kind)}")
        else:
            click.echo(f"job {job_id} is {state}")

    return command


jobs.add_command(_mover("pause", "Hold a job; its runner waits, and nothing is lost."))
jobs.add_command(_mover("resume", "Let a paused job go on where it was."))
jobs.add_command(_mover("cancel", "Give a job up; what is done stands."))
