"""upgrade, downgrade, current, history, check: alembic on our history, also from an installed wheel."""

from __future__ import annotations

import re
from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING, Any

import click

from profiles_schema.cli.options import json_option, local_option, log_to_stderr, print_json, x_option

if TYPE_CHECKING:
    from alembic.config import Config

sql_option = click.option("--sql", is_flag=True, help="Print the SQL instead of running it.")


class _RelativeRevision(click.Command):
    """A command whose argument may be ``-1``, which click would take for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        relative = [word for word in args if re.fullmatch(r"-\d+", word)]
        if relative and "--" not in args:
            args = [*(word for word in args if word not in relative), "--", *relative]
        return super().parse_args(ctx, args)


@click.command()
@click.argument("revision", default="head")
@sql_option
@local_option
@x_option
def upgrade(revision: str, sql: bool, local: bool, x: tuple[str, ...]) -> None:
    """Bring the database to REVISION, by default the newest (head)."""
    from alembic import command

    config = _config(x, local=local, verb="upgrade")
    _run(command.upgrade, config, revision, sql=sql)
    if not sql:
        _say_where(config)


@click.command(cls=_RelativeRevision)
@click.argument("revision")
@sql_option
@local_option
@x_option
def downgrade(revision: str, sql: bool, local: bool, x: tuple[str, ...]) -> None:
    """Take the database back to REVISION: a name, -1 for one step, or base for before everything."""
    from alembic import command

    config = _config(x, local=local, verb="downgrade")
    _run(command.downgrade, config, revision, sql=sql)
    if not sql:
        _say_where(config)


@click.command()
@local_option
@json_option
@x_option
def current(local: bool, as_json: bool, x: tuple[str, ...]) -> None:
    """Say which revision the database is at."""
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = _config(x, local=local, verb="current")
    script = ScriptDirectory.from_config(config)
    found: list[str] = []

    def look(heads: tuple[str, ...], _context: Any) -> list[Any]:
        script.get_revisions(heads)  # fails where the database is ahead of this package
        found.extend(sorted(heads))
        return []

    with EnvironmentContext(config, script, fn=look, dont_mutate=True):
        script.run_env()
    newest = sorted(script.get_heads())
    if as_json:
        print_json({"current": found, "head": newest, "at_head": found == newest})
    else:
        click.echo(f"{', '.join(found) or 'base'}{' (head)' if found == newest else ''}")


@click.command()
@json_option
def history(as_json: bool) -> None:
    """List the revisions, newest first. Needs no database."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_config((), local=False, verb="history"))
    revisions = [
        {"revision": item.revision, "down_revision": item.down_revision, "title": item.doc, "head": item.is_head}
        for item in script.walk_revisions()
    ]
    if as_json:
        print_json(revisions)
        return
    for item in revisions:
        click.echo(f"{item['revision']}{' (head)' if item['head'] else ''}: {item['title']}")


@click.command()
@local_option
@json_option
@x_option
def check(local: bool, as_json: bool, x: tuple[str, ...]) -> int:
    """Compare the database with what this version declares; exit 1 if they differ."""
    from alembic import command

    from profiles_schema.errors import SchemaDrift

    config = _config(x, local=local, verb="check")
    config.stdout = StringIO()  # alembic's own sentence; the verb prints one of its own
    try:
        _run(command.check, config)
    except SchemaDrift as drift:
        if not as_json:
            raise
        print_json({"clean": False, "differences": drift.differences})
        return drift.exit_code
    if as_json:
        print_json({"clean": True, "differences": []})
    else:
        click.echo("The database is as this version declares it.")
    return 0


def _config(x: Iterable[str], *, local: bool, verb: str) -> Config:
    from profiles_schema.migrations import paths
    from profiles_schema.migrations.runner import COMMAND

    log_to_stderr()
    config = paths.config(x=[*x, "local=yes"] if local else x)
    config.attributes[COMMAND] = verb
    return config


def _run(command: Any, config: Config, *arguments: Any, **options: Any) -> None:
    from alembic.util import CommandError

    from profiles_schema.errors import UsageError

    try:
        command(config, *arguments, **options)
    except CommandError as error:
        raise UsageError(f"{str(error).rstrip('.')}.") from error


def _say_where(config: Config) -> None:
    from profiles_schema.migrations.runner import AT

    where, newest, counts = config.attributes[AT]
    if where == "base":
        click.echo("Done: the database holds none of this package's tables any more.")
    elif newest:
        click.echo(f"Done: the database is at the newest revision, {where}; {counts}.")
    else:
        click.echo(f"Done: the database is at revision {where}; {counts}.")
