"""rehearse: what would an upgrade do to this database?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from profiles_schema.cli.options import json_option, log_to_stderr, print_json, x_option

if TYPE_CHECKING:
    from profiles_schema.operations.rehearse import Rehearsal

_SHOWN = 20


@click.command()
@click.option(
    "--source",
    required=True,
    envvar="PROFILES_REHEARSE_SOURCE",
    show_envvar=True,
    metavar="URL",
    help="The database to copy, as in DATABASE_URL; the variable keeps a password out of the list of processes.",
)
@click.option("--keep", is_flag=True, help="Leave the upgraded copy for a look, and say how to connect and remove it.")
@json_option
@x_option
def rehearse(source: str, keep: bool, as_json: bool, x: tuple[str, ...]) -> int:
    """Upgrade a copy of a database, verify it, downgrade it, compare, upgrade it again; exit 1 if something needs attention.

    The source is only read. The copy lives in an embedded PostgreSQL of its own, and is removed afterwards.
    """
    from profiles_schema.operations.rehearse import rehearse as operation

    log_to_stderr()
    try:
        result = operation(source, x=x, keep=keep)
    except (KeyboardInterrupt, SystemExit):
        click.echo("The copy is removed; the source was only read.", err=True)
        raise
    if as_json:
        print_json({"verdict": result.verdict, "ok": not result.findings, **asdict(result)})
    else:
        _tell(result)
    return int(bool(result.findings))


def _tell(result: Rehearsal) -> None:
    source = result.source
    click.echo(f"source         database {source['database']} {source['where']} (PostgreSQL {source['version']})")
    click.echo(f"schemas        {', '.join([*source['schemas'], *source['further']]) or 'none'}")
    click.echo(f"upgraded as    {result.role}")
    for step in result.steps:
        outcome = "" if step.outcome == "done" else f"{step.outcome.upper()}  "
        click.echo(f"{step.name:14} {step.seconds:8.2f} s  {outcome}{step.detail}")
        revisions = step.data.get("revisions", ()) if step.name == "upgrade" else ()
        for row in revisions:
            click.echo(f"  {row['revision']:32} {row['seconds']:8.2f} s")
    _list("not copied", result.not_copied)
    _list("note", result.notes)
    _list("attention", [f"{finding.step}: {finding.message}" for finding in result.findings])
    if result.kept is not None:
        click.echo(f"kept           psql '{result.kept['url']}'")
        click.echo(f"               in {result.kept['directory']}; remove it with:")
        click.echo(
            f"               PROFILES_LOCAL_DIR='{result.kept['directory']}' profiles-schema local stop;"
            f" rm -r '{result.kept['directory']}'"
        )
    click.echo(result.verdict)


def _list(label: str, lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        indented = line.replace("\n", f"\n{'':15}")
        click.echo(f"{label:14} {indented}")
    if len(lines) > _SHOWN:
        click.echo(f"{label:14} and {len(lines) - _SHOWN} more: see --json")
