"""The file of answers to the questions of the plan: TOML, a line per question, ``"id" = "answer"``.

At its end stands a table ``asked``: of each question a fingerprint of what was asked. Where a policy has the same name and
another text by now, its answer is none, and it is asked again. Who writes a file by hand leaves the table away.
"""

from __future__ import annotations

import json
import shlex
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from profiles_schema.errors import UsageError

ASKED = "asked"
_WIDTH = 100


class Question(Protocol):
    """A step of the plan that asks."""

    @property
    def id(self) -> str | None: ...
    @property
    def object(self) -> str: ...
    @property
    def found(self) -> str | None: ...
    @property
    def answers(self) -> Mapping[str, str] | None: ...
    @property
    def asked(self) -> str | None: ...


def read(path: str) -> dict[str, str]:
    """The answers by the id of their question; those left empty are not among them.

    Raises:
        UsageError: the file cannot be read, is no TOML, or says anything but texts.
    """
    return {key: value for key, value in _load(path).items() if value and isinstance(value, str)}


def read_asked(path: str) -> dict[str, str]:
    """The fingerprints of what was asked when the file was written, by the id of the question.

    Raises:
        UsageError: as `read`.
    """
    found = _load(path).get(ASKED)
    return dict(found) if isinstance(found, dict) else {}


def _load(path: str) -> dict[str, str | dict[str, str]]:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"The file of answers {path} cannot be read: {error.strerror or error}.") from error
    try:
        text = raw.decode("utf-8-sig")  # Windows likes to begin a file with a mark
        found = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError(f"The file of answers {path} is not in UTF-8 (line {line}).") from error
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 1000 brackets
        raise UsageError(f"The file of answers {path} is no TOML: {error}.") from error
    asked = found.get(ASKED)
    is_asked = isinstance(asked, dict) and all(
        isinstance(each, str) and "\0" not in key + each for key, each in asked.items()
    )
    for key, value in found.items():
        if key == ASKED and is_asked:
            continue
        if not isinstance(value, str) or "\0" in key + value:
            line = next((n for n, each in enumerate(text.splitlines(), start=1) if _begins(each, key)), 1)
            raise UsageError(
                f'The file of answers {path} holds no answer in line {line}. Write the id in quotes: "ID" = "ANSWER".'
            )
    return found


def render(questions: Iterable[Question], given: Mapping[str, str], *, name: str) -> str:
    """The text of a file with every question: its evidence, its possible answers, and the given one.

    In the order of their ids, so that two files are compared easily.
    """
    shown = shlex.quote(name)
    lines = [
        *_comment("What an upgrade asks before it takes over the tables that exist. Written by:"),
        f"#   profiles-schema adopt --dry-run --write-answers {shown}",
        *_comment(
            "Write one of the possible answers between the quotes. An empty answer leaves the question open, and the"
            " upgrade stops. Then give the file to the dry run, which may have further questions, and to the upgrade:"
        ),
        f"#   profiles-schema upgrade -x {shlex.quote(f'answers={name}')}",
    ]
    ordered = sorted(questions, key=lambda each: each.id or "")
    for question in ordered:
        possible = question.answers or {}
        lines += ["", *_comment(f"{question.object}: {question.found}")]
        for answer, consequence in possible.items():
            first, *details = consequence.splitlines() or [""]
            lines += _comment(f"  {quoted(answer)}: {first}", indent="    ")
            for detail in details:
                lines += _comment(f"    {detail}", indent="    ")
        answer = given.get(question.id or "", "")
        lines.append(f"{quoted(question.id or '')} = {quoted(answer if answer in possible else '')}")
    asked = [f"{quoted(each.id or '')} = {quoted(each.asked)}" for each in ordered if each.asked]
    if asked:
        lines += [
            "",
            *_comment(
                "What was asked, in short. Leave it as it is: a question whose object has changed since is asked again."
            ),
            f"[{ASKED}]",
            *asked,
        ]
    return "\n".join(lines) + "\n"


def quoted(value: str) -> str:
    """A text as TOML writes it."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def one_line(name: str) -> str:
    """An id as a person reads it; in quotes, as the file has it, where its end or a character would not be seen."""
    plain = name.isprintable() and name == name.strip() and "  " not in name
    return name if plain else quoted(name)


def _comment(text: str, indent: str = "") -> list[str]:
    lines = textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent=f"# {indent}",
        break_long_words=False,
        break_on_hyphens=False,
    )
    # What TOML allows in no comment.
    return ["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines]


def _begins(line: str, key: str) -> bool:
    return line.lstrip(' \t["').startswith((key, quoted(key)[1:-1]))
