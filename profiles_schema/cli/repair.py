"""repair: bring the database back to what this version declares."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from profiles_schema.cli.help import Verb, examples
from profiles_schema.cli.options import database, json_option, local_option, log_to_stderr, print_json

if TYPE_CHECKING:
    from profiles_schema.migrations.repairs import Repair


@click.command(cls=Verb, epilog=examples("profiles-schema repair --dry-run", "profiles-schema repair"))
@click.option("--dry-run", is_flag=True, help="Print the SQL, and change nothing.")
@click.option(
    "--recreate-dropped",
    is_flag=True,
    help="Also create dropped tables and columns again, empty. Only a backup restores their values.",
)
@local_option
@json_option
def repair(dry_run: bool, recreate_dropped: bool, local: bool, as_json: bool) -> int:
    """Bring the database back to what this version declares.

    Repairs triggers, functions and their owners, policies, rights, row level security, indexes, constraints, columns and
    comments; never what belongs to your application. Prints each SQL text before it runs, in a short transaction of its
    own. Connect as the role that owns the tables. Exit 1 if something needs a decision; the rest is repaired.
    """
    from profiles_schema.migrations.interrupts import interruptible
    from profiles_schema.operations import repair as operation

    shown: list[Repair] = []

    def show(each: Repair, sql: str) -> None:
        if as_json:
            return
        if not shown or shown[-1] != each:
            click.echo(f"-- {each.what}")
            shown.append(each)
        click.echo(f"{sql}\n")

    log_to_stderr()
    with database(local=local, writes=True) as connection, interruptible():
        result = operation.repair(connection, dry_run=dry_run, recreate_dropped=recreate_dropped, show=show)
    if as_json:
        repaired = [{"what": each.what, "sql": list(each.transactions)} for each in result.repaired]
        print_json({"dry_run": dry_run, "repaired": repaired, "left": [asdict(left) for left in result.left]})
        return int(bool(result.left))
    for left in result.left:
        click.echo(f"left       {left.what} {left.why}")
        click.echo(f"{'':10} next: {left.remedy}")
    if not (result.repaired or result.left):
        click.echo("Nothing to repair: the database is as this version declares it.")
    else:
        done = "would be repaired" if dry_run else "repaired"
        remaining = f", {len(result.left)} left" if result.left else ""
        click.echo(f"repair: {len(result.repaired)} {done}{remaining}")
    return int(bool(result.left))
