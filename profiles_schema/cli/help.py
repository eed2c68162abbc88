"""How the command line explains itself: verbs in sections, whole sentences, examples, a guess for a misspelt verb."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import click

from profiles_schema.cli.style import styled


def examples(*lines: str) -> str:
    """The end of a verb's ``--help``: commands to copy."""
    return "\n".join(lines)


class _Formatter(click.HelpFormatter):
    def write_heading(self, heading: str) -> None:
        super().write_heading(styled(heading, "strong"))


class _Context(click.Context):
    formatter_class = _Formatter


class Verb(click.Command):
    """A verb whose ``--help`` ends with a section of examples, which are not wrapped."""

    context_class = _Context

    def get_help_option_names(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Here and not in the settings of the first context: click keeps the option that a command got there."""
        return ["-h", "--help"]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the examples."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Verbs(Verb, click.Group):
    """A group of verbs that lists them with whole sentences and guesses what a misspelt one was to be."""

    command_class = Verb

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order in which they are used, not by the alphabet."""
        return list(self.commands)

    def sections(self, ctx: click.Context) -> Iterable[tuple[str, list[tuple[str, str]]]]:
        """Titles, each with its verbs and what they do."""
        # As long as it takes: click would cut the sentence off.
        whole = 1_000
        names = self.list_commands(ctx)
        verbs = [(name, self.get_command(ctx, name)) for name in names]
        yield "Verbs", [(name, verb.get_short_help_str(whole)) for name, verb in verbs if verb is not None]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, all with the same width of the first column."""
        sections = list(self.sections(ctx))
        width = max(len(name) for _, rows in sections for name, _ in rows)
        for title, rows in sections:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, line in rows])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a guess."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = get_close_matches(name, self.list_commands(ctx))
            guess = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f'There is no verb "{name}".{guess}', ctx)
        return super().resolve_command(ctx, args)
