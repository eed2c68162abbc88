"""stamp: record the newest revision, if the catalog proves that the database is there."""

from __future__ import annotations

import click

from profiles_schema.cli.help import Verb, examples
from profiles_schema.cli.options import database, json_option, local_option, log_to_stderr, print_json


@click.command(cls=Verb, epilog=examples("profiles-schema stamp --verify", "profiles-schema stamp"))
@click.option("--verify", is_flag=True, help="Only say whether the catalog proves it; change nothing.")
@local_option
@json_option
def stamp(verify: bool, local: bool, as_json: bool) -> int:
    """Record the newest revision, if the version row was lost and the catalog proves that the database is at it.

    Compares every table, column, constraint, index, function, trigger, policy and right of this package with this version's
    fingerprints. An older revision cannot be proven. Exit 1, with the differences, if something differs.
    """
    from profiles_schema.operations.stamp import proven_head

    with database(local=local, writes=not verify) as connection:
        head, recorded = proven_head(connection)
        connection.rollback()
        written = recorded != head and not verify
        if written:
            from alembic import command

            from profiles_schema.migrations import paths
            from profiles_schema.migrations.runner import COMMAND

            log_to_stderr()
            config = paths.config()
            config.attributes |= {"connection": connection, COMMAND: "stamp"}
            command.stamp(config, head, purge=recorded is not None)
    if as_json:
        print_json({"revision": head, "recorded": recorded, "proven": True, "written": written})
    elif written:
        click.echo(f"The catalog proves {head}; it is recorded now.")
    elif recorded == head:
        click.echo(f"The catalog proves {head}, which is recorded.")
    else:
        click.echo(
            f"The catalog proves {head}; {recorded or 'nothing'} is recorded. Record it with: profiles-schema stamp"
        )
    return 0
