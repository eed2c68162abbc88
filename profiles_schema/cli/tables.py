"""Tables and paragraphs on stdout."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence

import click

_UNLIMITED = 10_000


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for people, as wide as its cells: a line of it can be copied whole."""
    for line in table_lines(columns, rows):
        click.echo(line)


def table_lines(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, width: int = _UNLIMITED, numbers: Collection[str] = ()
) -> list[str]:
    """The lines of a table; cells are wrapped where it would be wider than ``width``, columns of numbers are not."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in numbers else "left",
            no_wrap=name in numbers,
            min_width=len(name),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, width=width)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def wrap(line: str, width: int, *, indent: str = "") -> list[str]:
    """The lines of a paragraph. No word is broken, so that a name or a command can be copied."""
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
