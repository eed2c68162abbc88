"""Colour and bold for the words that a reader looks for; on a terminal only, and not where NO_COLOR is set."""

from __future__ import annotations

import os
from collections.abc import Mapping

import click

_COLOURS = {
    "problem": "red",
    "attention": "red",
    "FAIL": "red",
    "error": "red",
    "notice": "yellow",
    "pass": "green",
    "fine": "green",
}
_BOLD = frozenset({"problem", "attention", "FAIL", "error", "fine", "strong"})


def styled(text: str, meaning: str) -> str:
    """The text in the style of a meaning: problem, notice, pass and so on; ``click.echo`` drops it off a terminal."""
    return click.style(text, fg=_COLOURS.get(meaning), bold=meaning in _BOLD or None)


def colour() -> bool | None:
    """What click is told about colour: never, or None, which means on a terminal only."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def print_error(message: str) -> None:
    """One message on stderr, after ``error:``."""
    click.echo(f"{styled('error:', 'error')} {message}", err=True, color=colour())


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun: 1 profile, 2,000 profiles."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def print_failures(failed: Mapping[str, int], one: str) -> None:
    """What was left out, by SQLSTATE."""
    for code, number in failed.items():
        click.echo(f"{styled('failed', 'problem')} for {counted(number, one)}: SQLSTATE {code}")
