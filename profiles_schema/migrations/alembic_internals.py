"""The private parts of Alembic on which the runner leans, all of them, so that a new version is tried in one place.

tests/test_alembic_internals.py holds each of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory


def environment_behind(context: Any) -> EnvironmentContext:
    """The environment that ``alembic.context`` stands for; an environment itself as it is."""
    environment: EnvironmentContext = getattr(context, "_proxy", context)
    return environment


def asked(environment: EnvironmentContext | None) -> dict[str, Any]:
    """What the command put into its environment. Only this tells what the command is."""
    options: dict[str, Any] = getattr(environment, "context_opts", {})
    return options


def is_command(function: Any, name: str) -> bool:
    """Whether the function that a command runs is its inner one of this name, such as ``do_ensure_version``."""
    return getattr(function, "__name__", "") == name


def forget_transaction(context: MigrationContext) -> None:
    """A failure inside ``autocommit_block`` leaves a transaction that is no more, and the next attempt would use it."""
    context._transaction = None  # noqa: SLF001


def has_newer(script: ScriptDirectory, heads: tuple[str, ...]) -> bool:
    """Whether an upgrade to the newest revisions has a step to do."""
    return bool(script._upgrade_revs("heads", heads))  # type: ignore[arg-type] # noqa: SLF001


def version_locations(script: ScriptDirectory) -> list[Path]:
    """The directories of revisions."""
    return [Path(place) for place in script._version_locations]  # noqa: SLF001
