"""The command line: ``profiles-schema VERB``. A verb's module is imported when the verb is called."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from profiles_schema._version import __version__
from profiles_schema.cli.help import Verbs, examples
from profiles_schema.cli.options import DATABASE_URL_OPTION
from profiles_schema.cli.style import colour, print_error
from profiles_schema.errors import ProfilesSchemaError
from profiles_schema.migrations.interrupts import TERMINATED
from profiles_schema.settings import DATABASE_URL, debug

_INTERRUPTED = 130

# Section of --help: its verbs, each with "module:attribute" of the click command and one line (--help imports none of them).
_SECTIONS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Migrate": {
        "upgrade": ("profiles_schema.cli.migrate:upgrade", "Bring the database to a revision, by default the newest."),
        "downgrade": ("profiles_schema.cli.migrate:downgrade", "Take the database back to an older revision."),
        "current": ("profiles_schema.cli.migrate:current", "Say which revision the database is at."),
        "history": ("profiles_schema.cli.migrate:history", "List the revisions, newest first."),
        "check": ("profiles_schema.cli.migrate:check", "Compare the database with what this version declares."),
    },
    "Watch": {
        "health": (
            "profiles_schema.cli.health:health",
            "Find users without a profile, and other problems.",
        ),
        "smoke": ("profiles_schema.cli.smoke:smoke", "Try a sign-up and every function, and roll everything back."),
    },
    "Repair": {
        "backfill": ("profiles_schema.cli.backfill:backfill", "Create missing profiles."),
        "progress": ("profiles_schema.cli.recount:progress", "Count progress again if it differs from the sessions."),
        "repair": ("profiles_schema.cli.repair:repair", "Bring the database back to what this version declares."),
        "stamp": ("profiles_schema.cli.stamp:stamp", "Record the newest revision, if the catalog proves it."),
        "jobs": ("profiles_schema.cli.jobs:jobs", "List, pause, resume and cancel work in batches."),
    },
    "Personal data": {
        "exports": (
            "profiles_schema.cli.exports:exports",
            "Write the exports of users, list them, remove expired ones.",
        ),
        "users": ("profiles_schema.cli.users:users", "Hand over what is a person's, or erase it."),
        "audit": ("profiles_schema.cli.audit:audit", "Remove rows of the audit log that are older than its retention."),
    },
    "Adopt": {
        "adopt": (
            "profiles_schema.cli.adopt:adopt",
            "Show what an upgrade would do to existing tables.",
        ),
        "rehearse": (
            "profiles_schema.cli.rehearse:rehearse",
            "Upgrade a copy of a database, and report what happens.",
        ),
        "normalize": (
            "profiles_schema.cli.normalize:normalize",
            "Move wide columns to JSON; verify, drop and restore them.",
        ),
    },
    "Keys and settings": {
        "keys": ("profiles_schema.cli.keys:keys", "Encrypt the API keys of users, and see which are encrypted."),
        "settings": (
            "profiles_schema.cli.settings:settings",
            "Read and change the feature flag, the audit level, and what health accepts.",
        ),
    },
    "Server": {
        "local": ("profiles_schema.cli.local:local", "Start, stop or show the embedded PostgreSQL."),
    },
}
VERBS: Mapping[str, tuple[str, str]] = {name: verb for section in _SECTIONS.values() for name, verb in section.items()}


class _Verbs(Verbs):
    """The verbs by name; one is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def sections(self, ctx: click.Context) -> Iterable[tuple[str, list[tuple[str, str]]]]:  # noqa: ARG002
        for title, section in _SECTIONS.items():
            yield title, [(name, line) for name, (_, line) in section.items()]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ProfilesSchemaError as error:
            if DATABASE_URL_OPTION in ctx.meta:  # the sentence names what the person wrote
                error.args = (str(error).replace(DATABASE_URL, "--database-url"),)
            raise


@click.group(
    cls=_Verbs,
    context_settings={"max_content_width": 100},
    epilog=examples(
        "profiles-schema upgrade --local        # try it on the embedded PostgreSQL",
        "profiles-schema upgrade && profiles-schema health",
        "profiles-schema VERB --help            # options and examples of one verb",
        'eval "$(_PROFILES_SCHEMA_COMPLETE=bash_source profiles-schema)"    # Tab completes; zsh_source, fish_source',
    ),
)
@click.version_option(__version__, prog_name="profiles-schema")
def profiles_schema() -> None:
    """User profiles for PostgreSQL whose triggers can never break a sign-up.

    DATABASE_URL names the database; --local is the embedded PostgreSQL. Exit codes: 0 fine, 1 finding or refusal,
    2 usage, 3 no database.
    """


def _report(error: click.ClickException) -> int:
    """Show what is wrong with a command line; returns the exit code."""
    # Without a verb, the message is the help. click before 8.2 prints that itself.
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        click.echo(error.format_message(), err=True)
        return error.exit_code
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Try '{error.ctx.command_path} --help' for help.\n", err=True)
    print_error(error.format_message())
    return error.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code; errors are one message on stderr."""
    try:
        result = profiles_schema.main(
            args=None if argv is None else list(argv),
            prog_name="profiles-schema",
            standalone_mode=False,
            color=colour(),
        )
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (click.Abort, KeyboardInterrupt):
        print_error("interrupted")
        return _INTERRUPTED
    except SystemExit as leave:
        if leave.code == TERMINATED:
            print_error("terminated")
        raise
    except click.ClickException as error:
        return _report(error)
    except ProfilesSchemaError as error:
        if debug():
            traceback.print_exc()
        print_error(str(error))
        return error.exit_code
    except OSError as error:  # a full disk, a closed pipe
        print_error(error.strerror or str(error))
        return 1
    return result if isinstance(result, int) else 0
