"""rehearse: what would an upgrade do to this database?"""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import click

from profiles_schema.cli.help import Verb, examples
from profiles_schema.cli.options import json_option, log_to_stderr, print_json, x_option
from profiles_schema.cli.progress import console
from profiles_schema.cli.style import styled

if TYPE_CHECKING:
    from profiles_schema.operations.rehearse import Rehearsal

_SHOWN = 20
_WIDTH = 120


@click.command(
    cls=Verb,
    epilog=examples(
        "PROFILES_REHEARSE_SOURCE=postgresql://user:password@host/db profiles-schema rehearse",
        "profiles-schema rehearse --source local --keep -x backfill=inline",
        "profiles-schema rehearse --source local --probe feed.sql --probe admin.sql -x adopt-table=profiles",
    ),
)
@click.option(
    "--source",
    required=True,
    envvar="PROFILES_REHEARSE_SOURCE",
    show_envvar=True,
    metavar="URL",
    help="The database to copy, written like DATABASE_URL. Prefer the variable: the list of processes shows a command line.",
)
@click.option(
    "--probe",
    "probes",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="SQL statements of the application. They run before and after the upgrade, as the roles that comments in the file"
    " name; what differs needs attention. May be repeated.",
)
@click.option(
    "--mask",
    is_flag=True,
    help="Blank personal values in the copy before anything else happens; the report names what it left.",
)
@click.option("--keep", is_flag=True, help="Keep the upgraded copy, and say how to connect to it and remove it.")
@click.option("--verbose", is_flag=True, help="Show every revision and message on stderr, a line each.")
@json_option
@x_option
def rehearse(
    *, source: str, probes: tuple[Path, ...], mask: bool, keep: bool, verbose: bool, as_json: bool, x: tuple[str, ...]
) -> int:
    """Upgrade a copy of a database, verify it, downgrade it, compare, upgrade it again; exit 1 if something needs attention.

    The source is only read. The copy is in an embedded PostgreSQL of its own, and is removed afterwards.
    """
    from profiles_schema.operations.rehearse import rehearse as operation

    try:
        with _shown(verbose=verbose):
            result = operation(source, x=x, keep=keep, probe=probes, mask=mask)
    except (KeyboardInterrupt, SystemExit):
        click.echo("The copy is removed; the source was only read.", err=True)
        raise
    if as_json:
        print_json({"verdict": result.verdict, "ok": not result.findings, **asdict(result)})
    else:
        _tell(result)
    return int(bool(result.findings))


@contextmanager
def _shown(*, verbose: bool) -> Iterator[None]:
    """On a terminal the latest message, in one line that is gone at the end; elsewhere one line as each step begins and ends."""
    package = logging.getLogger("profiles_schema")
    if verbose or package.handlers or logging.getLogger().handlers:
        log_to_stderr()
        yield
        return
    on_terminal = sys.stderr.isatty()
    logger = package if on_terminal else logging.getLogger("profiles_schema.rehearse")
    handler = _LineHandler() if on_terminal else logging.StreamHandler(sys.stderr)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


class _LineHandler(logging.Handler):
    """One line of the terminal, written again and again."""

    def __init__(self) -> None:
        from rich.live import Live

        super().__init__(logging.INFO)
        self.live = Live(console=console(), transient=True, auto_refresh=False)
        self.live.start()

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        line = Text(record.getMessage().partition("\n")[0], no_wrap=True, overflow="ellipsis")
        self.live.update(line, refresh=True)

    def close(self) -> None:
        self.live.stop()
        super().close()


def _tell(result: Rehearsal) -> None:
    source = result.source
    click.echo(f"source         database {source['database']} {source['where']} (PostgreSQL {source['version']})")
    click.echo(f"schemas        {', '.join([*source['schemas'], *source['further']]) or 'none'}")
    click.echo(f"upgraded as    {result.role}")
    for step in result.steps:
        outcome = "" if step.outcome == "done" else f"{styled(step.outcome.upper(), 'FAIL')}  "
        click.echo(f"{step.name:14} {step.seconds:8.2f} s  {outcome}{step.detail}")
        revisions = step.data.get("revisions", ()) if step.name == "upgrade" else ()
        for row in revisions:
            click.echo(f"  {row['revision']:32} {row['seconds']:8.2f} s")
    _list("not copied", result.not_copied)
    _list("note", result.notes)
    _list("attention", [f"{finding.step}: {finding.message}" for finding in result.findings])
    for difference in result.differences[:_SHOWN]:
        click.echo(f"{'probe':14} {difference.probe}")
        for line in _side_by_side(*difference.sides(), shutil.get_terminal_size((_WIDTH, 24)).columns):
            click.echo(line)
    if result.kept is not None:
        click.echo(f"kept           psql '{result.kept['url']}'")
        click.echo(f"               in {result.kept['directory']}; remove it with:")
        click.echo(
            f"               PROFILES_LOCAL_DIR='{result.kept['directory']}' profiles-schema local stop;"
            f" rm -r '{result.kept['directory']}'"
        )
    click.echo(styled(result.verdict, "problem" if result.findings else "fine"))


def _side_by_side(before: list[str], after: list[str], width: int) -> Iterator[str]:
    """Two columns: what a probe returned before, and what it returns after."""
    half = max((width - 18) // 2, 20)
    for pair in zip_longest(["before:", *before], ["after:", *after], fillvalue=""):
        left, right = (textwrap.wrap(cell, half, subsequent_indent="  ") for cell in pair)
        for line in zip_longest(left, right, fillvalue=""):
            yield f"{'':15}{line[0]:{half}} | {line[1]}".rstrip()


def _list(label: str, lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        indented = line.replace("\n", f"\n{'':15}")
        click.echo(f"{styled(f'{label:14}', label)} {indented}")
    if len(lines) > _SHOWN:
        click.echo(f"{label:14} and {len(lines) - _SHOWN} more: see --json")
