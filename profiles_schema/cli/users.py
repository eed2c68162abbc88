"""users: hand over what is a person's, erase it, and say what the application's tables hold of them."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profiles_schema.cli.help import Verbs, examples
from profiles_schema.cli.options import (
    batch_options,
    database,
    json_option,
    local_option,
    print_json,
    require_migrated,
)
from profiles_schema.cli.progress import run_job
from profiles_schema.cli.storage import open_storage
from profiles_schema.cli.style import counted, print_error, print_failures
from profiles_schema.settings import EXPORT_STORAGE

if TYPE_CHECKING:
    from profiles_schema.operations.prune import Plan as PrunePlan
    from profiles_schema.operations.users import Erasure, Unregistered
    from profiles_schema.storage import Storage


_storage_option = click.option(
    "--storage", envvar=EXPORT_STORAGE, metavar="DIRECTORY", show_envvar=True,
    help="Where the files of exports are: a directory, or s3://BUCKET/PREFIX. Needed where there are any.",
)  # fmt: skip


@click.group(
    cls=Verbs,
    epilog=examples(
        "profiles-schema users export 7d1f0a52-6b0e-4a53-9c55-0f6f8f8a1a10 --out ada.json",
        "profiles-schema users erase --check",
        "profiles-schema users erase 7d1f0a52-6b0e-4a53-9c55-0f6f8f8a1a10",
        "profiles-schema users erase --pending",
    ),
)
def users() -> None:
    """Export or erase the data of a person, in our tables and in those of the application."""


@users.command(
    "export",
    epilog=examples(
        "profiles-schema users export 7d1f0a52-6b0e-4a53-9c55-0f6f8f8a1a10 --out ada.json",
        "profiles-schema users export 7d1f0a52-6b0e-4a53-9c55-0f6f8f8a1a10 | gpg --encrypt -r ada@example.org > ada.gpg",
    ),
)
@click.argument("user_id", metavar="ID", type=click.UUID)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write there instead of stdout."
)
@local_option
def export(user_id: uuid.UUID, out: Path | None, local: bool) -> None:
    """Write all data of a person as JSON, from one snapshot, and record the export in export_history.

    docs/reference/user-export.schema.json describes the file. Tables of the application are in it if they are registered.
    """
    from profiles_schema.operations import user_exports as operation

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        with operation.opened(out) as file:
            done = operation.export(connection, user_id, file)
    click.echo(f"exported {counted(done.rows, 'row')} of {counted(done.tables, 'table')}", err=True)
    _print_unregistered(done.unregistered, "is not in the export")


@users.command(
    "erase",
    epilog=examples(
        "profiles-schema users erase 7d1f0a52-6b0e-4a53-9c55-0f6f8f8a1a10 --check",
        "profiles-schema users erase 7d1f0a52-6b0e-4a53-9c55-0f6f8f8a1a10",
        "profiles-schema users erase --check       # in a deploy: is every table registered?",
        "profiles-schema users erase --pending     # from a scheduler: those who asked for it",
    ),
)
@click.argument("user_id", metavar="[ID]", type=click.UUID, required=False)
@click.option(
    "--check", "only_look", is_flag=True, help="Say what would be erased and what would stay, and change nothing."
)
@click.option("--pending", is_flag=True, help="Erase users who asked for it, and finish interrupted erasures.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_storage_option
@local_option
@json_option
def erase(  # noqa: PLR0917 - click passes them by name
    user_id: uuid.UUID | None,
    only_look: bool,
    pending: bool,
    yes: bool,
    storage: str | None,
    local: bool,
    as_json: bool,
) -> int:
    """Erase a person: our tables, the registered ones of the application, and the files of exports. It cannot be undone.

    It can be repeated, also after an interruption. What must stay belongs to no person: an empty profile, so that foreign keys
    keep their target, and the audit log without ids. Exit 1 if something is left, or with --check if a table that refers to
    users is not registered.
    """
    from profiles_schema.operations import users as operation

    if pending and (user_id or only_look):
        raise click.UsageError("--pending goes with neither an ID nor --check.")
    if not pending and user_id is None and not only_look:
        raise click.UsageError("Say whom: an ID, or --pending.")
    files = open_storage(storage) if storage else None
    with database(local=local, writes=not only_look) as connection:
        require_migrated(connection)
        if only_look:
            found = operation.look(connection, user_id) if user_id else operation.look_at_tables(connection)
            connection.rollback()
            return _print_check(found, as_json=as_json)
        if user_id:
            waiting = [user_id]
            with connection.begin():
                found = operation.look(connection, user_id)
            # No transaction is open while a person thinks.
            _ask(found, yes=yes)
        else:
            with connection.begin():
                waiting = operation.pending(connection)
        return _erase_all(connection, waiting, files, as_json=as_json, several=pending)


def _ask(found: Erasure, *, yes: bool) -> None:
    """On a terminal ask, elsewhere refuse; --yes answers."""
    if yes:
        return
    rows = sum(part.rows for part in found.parts)
    name = f'"{found.username}" ({found.user_id})' if found.username else str(found.user_id)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"This would erase {counted(rows, 'row')} of {name}. Without a terminal, say --yes.")
    _print_parts(found, err=True)
    click.confirm(f"Erase {name}? This cannot be undone.", abort=True, err=True)


def _erase_all(
    connection: Any, waiting: Sequence[uuid.UUID], files: Storage | None, *, as_json: bool, several: bool
) -> int:
    from profiles_schema.errors import ProfilesSchemaError
    from profiles_schema.operations import users as operation

    done: list[Erasure] = []
    failed = 0
    for each in waiting:
        try:
            done.append(operation.erase(connection, each, files))
        except (ProfilesSchemaError, OSError) as error:
            if not several:
                raise
            # The next one can be erased all the same.
            print_error(f"{each}: {error}")
            failed += 1
    if as_json:
        shown = [_as_json(each) for each in done]
        print_json(shown if several else shown[0])
    elif several and not waiting:
        click.echo("no user waits for an erasure")
    else:
        for erasure in done:
            _print_proof(erasure)
    return int(failed > 0 or any(_is_left(each) for each in done))


def _is_left(erasure: Erasure) -> bool:
    return bool(erasure.stale or erasure.left)


def _as_json(erasure: Erasure) -> dict[str, Any]:
    return asdict(erasure) | {"unregistered": [str(each) for each in erasure.unregistered]}


def _print_parts(erasure: Erasure, *, err: bool = False) -> None:
    for part in erasure.parts:
        reason = f" ({part.reason.removeprefix('keep: ')})" if part.reason else ""
        click.echo(f"  {part.table:<40} {counted(part.rows, 'row'):>12} {part.what}{reason}", err=err)


def _print_proof(erasure: Erasure) -> None:
    click.echo(f"erased {erasure.user_id}")
    _print_parts(erasure)
    if erasure.objects:
        click.echo(f"  {'files of exports':<40} {counted(erasure.objects, 'file'):>12} removed")
    for line in erasure.stale:
        click.echo(f"left: a registration does not fit any more: {line}")
    for line in erasure.left:
        click.echo(f"left: {line}")
    for name in erasure.materialized_views:
        click.echo(f"next: refresh materialized view {name};  (it may hold what it read before)")
    if erasure.auth_server:
        click.echo(f"next: {erasure.auth_server}")
    if erasure.finished_at:
        click.echo(f"finished {erasure.finished_at:%Y-%m-%d %H:%M:%S %Z}, on record in profiles_internal.erasures")


def _print_check(found: Erasure, *, as_json: bool) -> int:
    if as_json:
        print_json(_as_json(found))
    else:
        _print_parts(found)
        for line in found.stale:
            click.echo(f"a registration does not fit any more: {line}")
        if found.auth_server:
            click.echo(f"next: {found.auth_server}")
        _print_unregistered(found.unregistered, "would be left", err=False)
        if not (found.parts or found.stale or found.unregistered):
            click.echo("every table that refers to users is registered")
    return int(bool(found.unregistered or found.stale))


def _print_unregistered(found: Sequence[Unregistered], what: str, *, err: bool = True) -> None:
    for each in found:
        if each.ours:
            click.echo(
                f"{each} {what}: it is a column of the application. Register it: profiles-schema users register"
                f" {each.table} --user-column user_id --on-erase {each.column}=null",
                err=err,
            )
        else:
            click.echo(
                f"{each.table} {what}: it refers to users by {each.column}. Register it: profiles-schema users register"
                f" {each.table} --user-column {each.column} --on-erase delete",
                err=err,
            )


_AGE = re.compile(r"([1-9]\d{0,4})([dwmy])")
_DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}


def _age(_ctx: click.Context, _param: click.Parameter, value: str | None) -> timedelta | None:
    """A time span: 30d, 12w, 6m (of 30 days), 3y (of 365 days)."""
    if value is None:
        return None
    found = _AGE.fullmatch(value)
    if not found:
        raise click.BadParameter(f'"{value}" is no age. Write it as 30d, 12w, 6m or 3y.')
    return timedelta(days=int(found[1]) * _DAYS[found[2]])


@users.command(
    "prune",
    epilog=examples(
        "profiles-schema users prune --anonymous --older-than 30d --dry-run",
        "profiles-schema users prune --anonymous --older-than 30d --yes",
        "profiles-schema users prune --inactive-since 3y",
    ),
)
@click.option("--anonymous", is_flag=True, help="Anonymous users; with --older-than.")
@click.option(
    "--older-than", callback=_age, metavar="AGE", help="Made so long ago, and not seen since: 30d, 12w, 6m, 3y."
)
@click.option("--inactive-since", callback=_age, metavar="AGE", help="Any users who were not seen for so long.")
@click.option("--dry-run", is_flag=True, help="Say how many users that are; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_storage_option
@batch_options("users", "a sign-up waits 250 ms for a lock")
@local_option
@json_option
def prune(  # noqa: PLR0917 - click passes them by name
    anonymous: bool,
    older_than: timedelta | None,
    inactive_since: timedelta | None,
    dry_run: bool,
    yes: bool,
    storage: str | None,
    batch_size: int,
    target_ms: int,
    max_rate: float | None,
    local: bool,
    as_json: bool,
) -> int:
    """Erase users of whom nothing was seen for long, as `users erase` does. It cannot be undone.

    Seen is who was made, signed in, changed the profile, or made progress. Users with a role other than "user" stay. Can be
    interrupted and run again; exit 1 if a user could not be erased.
    """
    from profiles_schema.operations import prune as operation
    from profiles_schema.operations.batch_job import Limits

    age = older_than if anonymous else inactive_since
    if age is None or (anonymous and inactive_since) or (older_than and not anonymous):
        raise click.UsageError("Say which users: --anonymous --older-than AGE, or --inactive-since AGE.")
    unseen = operation.Unseen(age, anonymous)
    files = open_storage(storage) if storage else None
    with database(local=local, writes=not dry_run) as connection:
        require_migrated(connection)
        with connection.begin():
            plan = operation.plan(connection, unseen)
        if dry_run:
            return _print_prune_plan(plan, as_json=as_json)
        if not yes:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise click.UsageError(
                    f"This would erase {counted(plan.users, 'user')}. Without a terminal, say --yes."
                )
            click.confirm(f"Erase {counted(plan.users, 'user')}? This cannot be undone.", abort=True, err=True)
        limits = Limits(batch_size, target_ms, max_rate)
        done = run_job(
            "users prune",
            lambda stopped: operation.prune(connection, unseen, files, limits=limits, stopped=stopped),
            as_json=as_json,
            go_on="users erase --pending",
        )
    counts = {name: done.counts.get(name, 0) for name in ("erased", "files")}
    if as_json:
        print_json({**counts, "failed": done.failed})
    else:
        click.echo(f"erased {counted(counts['erased'], 'user')}, removed {counted(counts['files'], 'file')}")
        print_failures(done.failed, "user")
    return int(bool(done.failed))


def _print_prune_plan(plan: PrunePlan, *, as_json: bool) -> int:
    if as_json:
        print_json(asdict(plan))
    else:
        click.echo(f"{counted(plan.users, 'user')} would be erased; nothing was changed")
        for each in plan.sample:
            click.echo(f"  {each}")
        for name in plan.unregistered:
            click.echo(f"{name} is not registered; a prune would not begin")
    return int(bool(plan.unregistered))


@users.command(
    "register",
    epilog=examples(
        "profiles-schema users register posts --user-column author_id --export title --export body --on-erase delete",
        "profiles-schema users register orders --user-column buyer --export total --on-erase 'keep: tax law, ten years'",
        "profiles-schema users register user_profiles --user-column user_id --export birthday --on-erase birthday=null",
    ),
)
@click.argument("table")
@click.option("--user-column", required=True, metavar="COLUMN", help="The column that says whose a row is.")
@click.option("--export", "exported", multiple=True, metavar="COLUMN", help="A column to hand over; may be repeated.")
@click.option(
    "--on-erase", required=True, multiple=True, metavar="WHAT",
    help="delete, null or 'keep: REASON' for the rows; COLUMN=null or COLUMN='keep: REASON' for single columns, repeated.",
)  # fmt: skip
@local_option
def register(table: str, user_column: str, exported: tuple[str, ...], on_erase: tuple[str, ...], local: bool) -> None:
    """Register a table of the application that holds data of persons. The database keeps that.

    A second call for the same user column replaces the first. If the rows are of two persons, register each column.

    In a revision of the application: profiles_schema.data_rights.register, which says the same.
    """
    from profiles_schema import data_rights

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        with connection.begin():
            data_rights.register(table, user_column, exported, _words(on_erase), bind=connection)
    click.echo(f"registered {table}")


def _words(on_erase: tuple[str, ...]) -> str | dict[str, str]:
    """What --on-erase says: one word for the rows, or COLUMN=WORD for each column."""
    whole = [each for each in on_erase if each in {"delete", "null"} or each.startswith("keep:") or "=" not in each]
    if whole and len(on_erase) > 1:
        raise click.UsageError("--on-erase says one thing of the rows, or COLUMN=… of each column.")
    if whole:
        return whole[0]
    return {column: word for column, _, word in (each.partition("=") for each in on_erase)}


@users.command("unregister", epilog=examples("profiles-schema users unregister posts"))
@click.argument("table")
@click.option("--user-column", metavar="COLUMN", help="Only the registration by this column.")
@local_option
def unregister(table: str, user_column: str | None, local: bool) -> None:
    """Remove the registrations of a table: exports and erasures no longer touch it."""
    from profiles_schema import data_rights

    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        with connection.begin():
            data_rights.unregister(table, user_column, bind=connection)
    click.echo(f"unregistered {table}")
