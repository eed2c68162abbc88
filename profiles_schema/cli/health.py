"""health: is every user's profile there, and is everything in place that makes the next one?"""

from __future__ import annotations

import click

from profiles_schema.cli.help import Verb, examples
from profiles_schema.cli.options import database, json_option, local_option, print_json
from profiles_schema.cli.style import styled


@click.command(
    cls=Verb,
    epilog=examples(
        "profiles-schema health",
        "profiles-schema health --full --fail-under 0.999",
        "profiles-schema health --app-role app",
        "profiles-schema health --json | jq '.findings[].remedy'",
    ),
)
@click.option("--full", is_flag=True, help="Look at all users instead of some.")
@click.option(
    "--fail-under",
    type=click.FloatRange(0.0, 1.0),
    default=1.0,
    show_default=True,
    metavar="SHARE",
    help="The smallest share of users with a profile that is no problem.",
)
@click.option(
    "--app-role",
    "app_roles",
    multiple=True,
    metavar="ROLE",
    help="A role that your application logs in as: a problem if row level security does not bind it. Repeatable.",
)
@local_option
@json_option
def health(full: bool, fail_under: float, app_roles: tuple[str, ...], local: bool, as_json: bool) -> int:
    """Find users without a profile, and other problems. Only reads; exit 1 if there is a problem."""
    from profiles_schema.operations.health import examine

    with database(local=local) as connection:
        result = examine(connection, full=full, fail_under=fail_under, application_roles=app_roles)
    if as_json:
        print_json(result.as_dict())
        return int(bool(result.problems))

    if result.revision is not None:
        installed = sum(state == "INSTALLED" for state in result.triggers.values())
        click.echo(f"revision   {result.revision}")
        click.echo(
            f"users      {result.users} looked at{' (all)' if full else ''}, {result.missing} without profile or progress"
        )
        click.echo(f"triggers   {installed} of {len(result.triggers)} installed")
    for finding in result.findings:
        click.echo(f"{styled(f'{finding.severity:10}', finding.severity)} {finding.message}")
        if finding.remedy:
            click.echo(f"{'':10} next: {styled(finding.remedy, 'strong')}")
    if result.problems:
        click.echo(styled(f"health: {len(result.problems)} to look after", "problem"))
    else:
        click.echo(styled("health: fine", "fine"))
    return int(bool(result.problems))
