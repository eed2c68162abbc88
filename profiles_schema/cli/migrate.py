"""upgrade, downgrade, current, history, check: alembic on our history, also from an installed wheel."""

from __future__ import annotations

import re
from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING, Any

import click

from profiles_schema.cli.help import Verb, examples
from profiles_schema.cli.options import given_url, json_option, local_option, log_to_stderr, print_json, x_option
from profiles_schema.cli.style import styled

if TYPE_CHECKING:
    from alembic.config import Config

    from profiles_schema.migrations.summary import Outcome

sql_option = click.option("--sql", is_flag=True, help="Print the SQL instead of running it.")


class _RelativeRevision(Verb):
    """A command whose argument may be ``-1``, which click would take for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        relative = [word for word in args if re.fullmatch(r"-\d+", word)]
        if relative and "--" not in args:
            args = [*(word for word in args if word not in relative), "--", *relative]
        return super().parse_args(ctx, args)


class _WithMigrationOptions(Verb):
    """A command whose --help lists what may follow -x."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from profiles_schema.migrations.options import descriptions

        super().format_options(ctx, formatter)
        with formatter.section("Migration options, each after -x"):
            formatter.write_dl(descriptions())


@click.command(
    cls=_WithMigrationOptions,
    epilog=examples(
        "profiles-schema upgrade",
        "profiles-schema upgrade -x deadline=60 -x backfill=defer",
        "profiles-schema upgrade --sql > upgrade.sql",
        "profiles-schema upgrade --json | jq .after.missing",
    ),
)
@click.argument("revision", default="head")
@sql_option
@local_option
@json_option
@x_option
def upgrade(revision: str, sql: bool, local: bool, as_json: bool, x: tuple[str, ...]) -> None:
    """Bring the database to REVISION, by default the newest (head)."""
    from alembic import command

    _migrate(command.upgrade, "upgrade", revision, x, sql=sql, local=local, as_json=as_json)


@click.command(
    cls=_RelativeRevision,
    epilog=examples(
        "profiles-schema downgrade -1",
        "profiles-schema downgrade 0014_create_sign_up_triggers",
        "profiles-schema downgrade base -x allow-data-loss=yes",
    ),
)
@click.argument("revision")
@sql_option
@local_option
@json_option
@x_option
def downgrade(revision: str, sql: bool, local: bool, as_json: bool, x: tuple[str, ...]) -> None:
    """Take the database back to REVISION: a name, -1 for one step, or base to remove everything.

    Refuses to drop a table that holds rows, unless you give -x allow-data-loss=yes. `profiles-schema upgrade --help` lists
    all keys of -x.
    """
    from alembic import command

    from profiles_schema.errors import UsageError

    if revision.startswith("+"):
        raise UsageError(f"{revision} leads up, not down. Give -1 for one step, or a revision.")
    _migrate(command.downgrade, "downgrade", revision, x, sql=sql, local=local, as_json=as_json)


@click.command(cls=Verb, epilog=examples("profiles-schema current", "profiles-schema current --json | jq .at_head"))
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


@click.command(cls=Verb, epilog=examples("profiles-schema history"))
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


@click.command(cls=Verb, epilog=examples("profiles-schema check", "profiles-schema check --json | jq '.differences[]'"))
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
    from profiles_schema.migrations.runner import COMMAND, URL

    log_to_stderr()
    config = paths.config(x=[*x, "local=yes"] if local else x)
    config.attributes |= {COMMAND: verb, URL: given_url()}
    return config


def _migrate(
    command: Any, verb: str, revision: str, x: tuple[str, ...], *, sql: bool, local: bool, as_json: bool
) -> None:
    from profiles_schema.errors import UsageError
    from profiles_schema.migrations.runner import AT

    if sql and as_json:
        raise UsageError("--sql prints SQL and --json a result. Give one of them.")
    config = _config(x, local=local, verb=verb)
    _run(command, config, revision, sql=sql)
    if sql:
        return
    if as_json:
        print_json(config.attributes[AT].as_dict())
    else:
        _say_where(config.attributes[AT])


def _run(command: Any, config: Config, *arguments: Any, **options: Any) -> None:
    from alembic.util import CommandError

    from profiles_schema.errors import UsageError

    try:
        command(config, *arguments, **options)
    except CommandError as error:
        raise UsageError(f"{str(error).rstrip('.')}.") from error


def _say_where(outcome: Outcome) -> None:
    done = styled("Done:", "fine")
    where = ", ".join(outcome.went_to)
    if not where:
        click.echo(f"{done} the database holds none of this package's tables any more.")
    elif outcome.newest:
        click.echo(f"{done} the database is at the newest revision, {where}; {outcome.after}.")
    else:
        click.echo(f"{done} the database is at revision {where}; {outcome.after}.")
