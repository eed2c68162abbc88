"""The command line: ``profiles-schema VERB``. A verb's module is imported when the verb is called."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence

import click

from profiles_schema._version import __version__
from profiles_schema.errors import ProfilesSchemaError
from profiles_schema.settings import debug

_INTERRUPTED = 130

# Verb: "module:attribute" of its click command, and one line for --help (which must not import them all).
VERBS: Mapping[str, tuple[str, str]] = {
    "upgrade": ("profiles_schema.cli.migrate:upgrade", "Bring the database to a revision, by default the newest."),
    "downgrade": ("profiles_schema.cli.migrate:downgrade", "Take the database back to an older revision."),
    "current": ("profiles_schema.cli.migrate:current", "Say which revision the database is at."),
    "history": ("profiles_schema.cli.migrate:history", "List the revisions, newest first."),
    "check": ("profiles_schema.cli.migrate:check", "Compare the database with what this version declares."),
    "health": ("profiles_schema.cli.health:health", "Look for users without a profile, and for what else is wrong."),
    "smoke": ("profiles_schema.cli.smoke:smoke", "Try a sign-up and every function, in a transaction rolled back."),
    "backfill": ("profiles_schema.cli.backfill:backfill", "Create the profiles that are missing."),
    "normalize": (
        "profiles_schema.cli.normalize:normalize",
        "Move wide columns into JSON, prove it, drop them, bring them back.",
    ),
    "adopt": (
        "profiles_schema.cli.adopt:adopt",
        "Show what an upgrade would do to tables that are there already.",
    ),
    "rehearse": (
        "profiles_schema.cli.rehearse:rehearse",
        "Upgrade a copy of a database, and say what would happen.",
    ),
    "jobs": ("profiles_schema.cli.jobs:jobs", "List, pause, resume and cancel work in batches."),
    "keys": ("profiles_schema.cli.keys:keys", "Encrypt the API keys of users, and see which are."),
    "settings": (
        "profiles_schema.cli.settings:settings",
        "Read and change the feature flag, the audit level, and what health accepts.",
    ),
    "local": ("profiles_schema.cli.local:local", "Start, stop or show the embedded PostgreSQL."),
}


class _Verbs(click.Group):
    """A group that knows its verbs by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="profiles-schema")
def profiles_schema() -> None:
    """User profiles on PostgreSQL that sign-ups cannot trip over.

    DATABASE_URL names the database; --local is the embedded PostgreSQL. Exit codes: 0 fine, 1 finding or refusal,
    2 usage, 3 no database.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code; errors are one message on stderr."""
    try:
        result = profiles_schema.main(
            args=None if argv is None else list(argv), prog_name="profiles-schema", standalone_mode=False
        )
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr)  # noqa: T201 - this is the command line
        return _INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ProfilesSchemaError as error:
        if debug():
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except OSError as error:  # a full disk, a closed pipe
        print(f"error: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        return 1
    return result if isinstance(result, int) else 0
