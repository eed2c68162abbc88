"""smoke: does it work, here and now?"""

from __future__ import annotations

from dataclasses import asdict

import click

from profiles_schema.cli.help import Verb, examples
from profiles_schema.cli.options import database, json_option, local_option, print_json, require_migrated
from profiles_schema.cli.style import styled


@click.command(
    cls=Verb,
    epilog=examples("profiles-schema smoke", "profiles-schema smoke --json | jq '.steps[] | select(.passed | not)'"),
)
@local_option
@json_option
def smoke(local: bool, as_json: bool) -> int:
    """Sign a made-up user up, call every function, attempt what must be denied; all of it is rolled back."""
    from profiles_schema.operations.smoke import smoke as try_everything

    steps = []
    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        for step in try_everything(connection):
            steps.append(step)
            if not as_json:
                outcome = "pass" if step.passed else "FAIL"
                click.echo(f"{styled(outcome, outcome)}  {step.name}{': ' + step.detail if step.detail else ''}")
    failed = sum(not step.passed for step in steps)
    if as_json:
        print_json({"passed": not failed, "steps": [asdict(step) for step in steps]})
    else:
        verdict = f"smoke: {len(steps) - failed} of {len(steps)} passed"
        click.echo(f"{styled(verdict, 'problem' if failed else 'fine')}; nothing was kept")
    return int(bool(failed))
