"""The file of answers to the questions of the plan: TOML, a line per question, ``"id" = "answer"``."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from profiles_schema.errors import UsageError


def read(path: str) -> dict[str, str]:
    """The answers by the id of their question; those left empty are not among them.

    Raises:
        UsageError: the file cannot be read, is no TOML, or says anything but texts.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"The file of answers {path} cannot be read: {error.strerror or error}.") from error
    try:
        text = raw.decode("utf-8")
        found = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError(f"The file of answers {path} is not in UTF-8 (line {line}).") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The file of answers {path} is no TOML: {error}.") from error
    for key, value in found.items():
        if not isinstance(value, str) or "\0" in key + value:
            line = next((n for n, each in enumerate(text.splitlines(), start=1) if _begins(each, key)), 1)
            raise UsageError(
                f'The file of answers {path} holds no answer in line {line}. Write the id in quotes: "ID" = "ANSWER".'
            )
    return {key: value for key, value in found.items() if value}


def quoted(value: str) -> str:
    """A text as TOML writes it."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _begins(line: str, key: str) -> bool:
    return line.lstrip(' \t["').startswith((key, quoted(key)[1:-1]))
