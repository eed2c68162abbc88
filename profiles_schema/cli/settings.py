"""settings: the feature flag and the audit level."""

from __future__ import annotations

import json

import click

from profiles_schema.cli.help import Verbs, examples
from profiles_schema.cli.options import database, json_option, local_option, print_json, require_migrated


@click.group(
    cls=Verbs,
    epilog=examples("profiles-schema settings get", "profiles-schema settings set audit_level changes"),
)
def settings() -> None:
    """Read and change the settings that the database itself reads.

    auto_create_profiles (true, false): whether sign-ups get a profile; off, they still succeed.
    audit_level (failures, changes, all): what of the changes of profiles is recorded.
    """


@settings.command("get", epilog=examples("profiles-schema settings get", "profiles-schema settings get audit_level"))
@click.argument("key", required=False)
@local_option
@json_option
def get_setting(key: str | None, local: bool, as_json: bool) -> None:
    """Print one setting, or all."""
    from profiles_schema.errors import UsageError
    from profiles_schema.operations.settings import KNOWN, get_settings

    if key is not None and key not in KNOWN:
        raise UsageError(f'There is no setting "{key}". Settings: {", ".join(KNOWN)}.')
    with database(local=local) as connection:
        require_migrated(connection)
        found = get_settings(connection)
    if as_json:
        print_json(found if key is None else {key: found.get(key)})
    elif key is not None:
        click.echo(_plain(found.get(key)))
    else:
        for name, value in found.items():
            click.echo(f"{name} {_plain(value)}")


@settings.command(
    "set",
    epilog=examples(
        "profiles-schema settings set auto_create_profiles false", "profiles-schema settings set audit_level all"
    ),
)
@click.argument("key")
@click.argument("value")
@local_option
@json_option
def set_setting(key: str, value: str, local: bool, as_json: bool) -> None:
    """Change one setting; it holds from the next statement on."""
    from profiles_schema.operations import settings as operation

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        new = operation.set_setting(connection, key, value)
        connection.commit()
    if as_json:
        print_json({key: new})
    else:
        click.echo(f"{key} {_plain(new)}")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
