"""settings: the feature flag, the audit level, and what health accepts."""

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
    """Read and change the settings that the database itself reads, and those of health.

    auto_create_profiles (true, false): whether sign-ups get a profile; off, they still succeed.

    audit_level (failures, changes, all): which changes of profiles are recorded.

    audit_key_reads (true, false): whether reading an API key is recorded.

    audit_keep_days (1 to 36500): how long audit purge keeps a row.

    username_hold_days (0 to 3650): how long a username that somebody gave up is held for them.

    normalize_verification_days (0 to 3650): how long wide columns stay after their conversion.

    accepted_policies: policies of your own on our tables that health accepts. A name as health prints it is added; a JSON
    list replaces all of them.

    accepted_openings: the same for views, functions, rules and rights to execute.
    """


@settings.command("get", epilog=examples("profiles-schema settings get", "profiles-schema settings get audit_level"))
@click.argument("key", required=False)
@local_option
@json_option
def get_setting(key: str | None, local: bool, as_json: bool) -> None:
    """Print one setting, or all."""
    from profiles_schema.errors import UsageError
    from profiles_schema.operations.settings import DEFAULTS, get_settings

    if key is not None and key not in DEFAULTS:
        raise UsageError(f'There is no setting "{key}". Settings: {", ".join(DEFAULTS)}.')
    with database(local=local) as connection:
        require_migrated(connection)
        found = get_settings(connection)
    shown = {**DEFAULTS, **found}
    if as_json:
        print_json(shown if key is None else {key: shown[key]})
        return
    for name in sorted(shown) if key is None else [key]:
        prefix = f"{name} " if key is None else ""
        click.echo(f"{prefix}{_plain(shown[name])}{'' if name in found else ' (default)'}")


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
    """Change one setting. It takes effect with the next statement."""
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
