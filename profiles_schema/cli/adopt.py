"""adopt: what would an upgrade do to the tables that are there already?"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from profiles_schema.cli.help import Verb, examples
from profiles_schema.cli.options import database, json_option, local_option, print_json, x_option
from profiles_schema.cli.plan_text import describe_plan
from profiles_schema.cli.style import counted
from profiles_schema.migrations.answers import one_line

if TYPE_CHECKING:
    from profiles_schema.operations.adopt import Plan

_NARROWEST, _UNKNOWN, _WIDEST = 80, 100, 132


@click.command(
    cls=Verb,
    epilog=examples(
        "profiles-schema adopt --dry-run",
        "profiles-schema adopt --dry-run -x adopt-table=members",
        "profiles-schema adopt --dry-run --write-answers adopt.toml",
        "profiles-schema adopt --dry-run --json | jq '.stoppers'",
    ),
)
@click.option("--dry-run", is_flag=True, help="Show the plan. adopt does nothing else.")
@click.option(
    "--write-answers", metavar="FILE", help="Write the questions of the plan to a file, in which you answer them."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file, and keep its valid answers.")
@local_option
@json_option
@x_option
def adopt(
    *, dry_run: bool, write_answers: str | None, force: bool, local: bool, as_json: bool, x: tuple[str, ...]
) -> int:
    """Show what `upgrade` would do to existing tables, functions, policies and triggers.

    Changes nothing: `upgrade` does the work, with the same -x options. Exit 1 if something blocks the adoption, or a
    question is open. Give the file of answers to the upgrade: -x answers=FILE.
    """
    from profiles_schema.errors import UsageError
    from profiles_schema.migrations import answers
    from profiles_schema.migrations.options import parse
    from profiles_schema.operations.adopt import plan

    options = parse(x)
    if not dry_run:
        raise UsageError("adopt only shows the plan (--dry-run); the work itself is: profiles-schema upgrade")
    if force and write_answers is None:
        raise UsageError("--force belongs to --write-answers FILE")
    given, asked = None, None
    if write_answers is not None:
        if not write_answers or Path(write_answers).is_dir():
            raise UsageError(f"--write-answers needs the name of a file, not {write_answers or 'an empty text'}")
        exists = Path(write_answers).exists()
        if exists and not force:
            raise UsageError(f"{write_answers} exists. --force writes it again, and keeps its valid answers.")
        source = options.values["answers"] or (write_answers if exists else "")
        given, asked = (answers.read(source), answers.read_asked(source)) if source else ({}, {})
    with database(local=local or options.local, writes=True) as connection:
        result = plan(connection, x=x, answers=given, asked=asked)
    if write_answers is not None and given is not None:
        _write_answers(write_answers, result, given)
    if as_json:
        print_json(result.as_dict())
    else:
        width = min(max(shutil.get_terminal_size((_UNKNOWN, 24)).columns, _NARROWEST), _WIDEST)
        for line in describe_plan(result, width, x, local=local, file=write_answers):
            click.echo(line)
    return int(bool(result.stoppers or result.questions))


def _write_answers(path: str, result: Plan, given: Mapping[str, str]) -> None:
    from profiles_schema.errors import UsageError
    from profiles_schema.migrations import answers

    asked = [*result.questions, *result.answered]
    # An upgrade that was interrupted remembers answers that no file may hold; one to what has changed since is none.
    kept = {step.id or "": step.wanted or "" for step in result.answered}
    try:
        Path(path).write_text(answers.render(asked, kept, name=path), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    click.echo(f"{path}: {counted(len(asked), 'question')}, {len(result.questions)} open", err=True)
    for name in sorted(given.keys() - {step.id for step in asked}):
        click.echo(f"{path}: left out, since no question needs it: {one_line(name)}", err=True)
