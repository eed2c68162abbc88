"""Options that many verbs share."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import click

local_option = click.option("--local", is_flag=True, help="Work on the embedded PostgreSQL instead of DATABASE_URL.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
x_option = click.option("-x", "x", multiple=True, metavar="KEY=VALUE", help="A migration option; may be repeated.")


def print_json(value: Any) -> None:
    """The result of a verb, for programs: one JSON document on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def log_to_stderr() -> None:
    """Show this package's progress lines on stderr, unless logging is configured already."""
    logger = logging.getLogger("profiles_schema")
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
