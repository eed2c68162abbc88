"""The work of `keys validate`: one key after the other, each in transactions of its own, none while a provider answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from profiles_schema.cli.options import database, print_json, require_migrated
from profiles_schema.cli.progress import run_job
from profiles_schema.cli.style import counted

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from profiles_schema.operations.batch_job import Progress
    from profiles_schema.services.api_keys import ApiKeyService

_PAGE_ROWS = 500
_KEYS = """
select k.user_id, k.provider, k.label
from (
  select r.user_id, v.provider, '' as label, r.validation -> v.provider as validation
  from public.user_api_keys as r
  cross join lateral (
    values ('anthropic', r.anthropic_api_key), ('openai', r.openai_api_key), ('unsplash', r.unsplash_api_key)
  ) as v (provider, envelope)
  where v.envelope is not null and r.is_active and r.validation #>> array[v.provider, 'disabled'] is distinct from 'true'
  union all
  select p.user_id, p.provider, p.label, p.validation from public.user_provider_keys as p where p.is_active
) as k
where k.provider = any (cast(:providers as text[]))
  and (cast(:user_id as uuid) is null or k.user_id = :user_id)
  and (
    cast(:days as double precision) is null or k.validation ->> 'checked_at' is null
    or k.validation ->> 'checked_at' < to_char(
      (now() - make_interval(secs => cast(:days as double precision) * 86400)) at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS'
    )
  )
"""


def validate_keys(
    *,
    provider: str | None,
    user_id: UUID | None,
    older_than: float | None,
    max_rate: float | None,
    disable_after: int,
    base_urls: tuple[str, ...],
    local: bool,
    as_json: bool,
) -> int:
    """Validate, print what came of it, and return the exit code."""
    from sqlalchemy.orm import sessionmaker

    from profiles_schema.services.api_keys import ApiKeyService
    from profiles_schema.services.key_validators import PROVIDERS

    addresses = dict(_address(each, [*PROVIDERS]) for each in base_urls)
    if provider is not None and provider not in PROVIDERS:
        raise click.UsageError(f'"{provider}" has no validator here. There are those of {", ".join(PROVIDERS)}.')
    filters = {"providers": [provider] if provider else [*PROVIDERS], "user_id": user_id, "days": older_than}
    with database(local=local, writes=True) as connection:
        require_migrated(connection)
        service = ApiKeyService(sessionmaker(connection.engine), base_urls=addresses, disable_after=disable_after)
        done = run_job(
            "keys validate",
            lambda stopped: _validated(connection, service, filters, max_rate, stopped),
            as_json=as_json,
            go_on="keys validate --older-than 1",
        )
    counts = {name: done.counts.get(name, 0) for name in ("valid", "refused", "disabled", "no_answer", "unreadable")}
    if as_json:
        print_json(counts)
    else:
        click.echo(f"{counted(counts['valid'], 'key')} valid, {counts['refused']} refused by their provider")
        for name, what in (
            ("disabled", "of those are disabled now"),
            ("no_answer", "got no answer, and stay as they are"),
            ("unreadable", "did not open: profiles-schema keys status"),
        ):
            if counts[name]:
                click.echo(f"{counted(counts[name], 'key')} {what}")
    return int(bool(counts["refused"] or counts["unreadable"]))


def _address(text: str, providers: list[str]) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    if not equals or name not in providers or not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--base-url is PROVIDER=URL, with a provider of {', '.join(providers)}.")
    return name, url


def _validated(
    connection: Connection,
    service: ApiKeyService,
    filters: dict[str, Any],
    max_rate: float | None,
    stopped: Callable[[], bool],
) -> Iterator[Progress]:
    from profiles_schema.errors import DecryptionFailed
    from profiles_schema.operations.batch_job import Progress

    progress = Progress("validate", "keys", total=_count(connection, filters))
    counts: Counter[str] = Counter()
    for place in _places(connection, filters):
        if stopped():
            progress.state = "stopped"
            yield progress
            return
        started = time.monotonic()
        try:
            check = service.validate(*place)
        except DecryptionFailed:
            counts["unreadable"] += 1
        else:
            if check is not None:
                counts[{True: "valid", False: "refused", None: "no_answer"}[check.valid]] += 1
                if check.valid is False and not _is_active(service, *place):
                    counts["disabled"] += 1
        progress.done += 1
        progress.counts = dict(counts)
        yield progress
        if max_rate:
            time.sleep(max(0.0, 1 / max_rate - (time.monotonic() - started)))
    progress.state = "completed"
    yield progress


def _is_active(service: ApiKeyService, user_id: UUID, provider: str, label: str) -> bool:
    return any(each.is_active for each in service.list(user_id) if (each.provider, each.label) == (provider, label))


def _count(connection: Connection, filters: dict[str, Any]) -> int:
    from sqlalchemy import text

    with connection.begin():
        return int(connection.scalar(text(f"select count(*) from ({_KEYS}) as k"), filters) or 0)


def _places(connection: Connection, filters: dict[str, Any]) -> Iterator[tuple[UUID, str, str]]:
    """The keys to validate, a page at a time, so that no transaction is open while a provider answers."""
    from sqlalchemy import text

    page = text(
        f"{_KEYS} and (cast(:after_user as uuid) is null or (k.user_id, k.provider, k.label)"
        " > (:after_user, :after_provider, :after_label)) order by 1, 2, 3 limit :rows"
    )
    after: tuple[UUID | None, str, str] = (None, "", "")
    while True:
        values = dict(zip(("after_user", "after_provider", "after_label"), after, strict=True))
        with connection.begin():
            rows = connection.execute(page, {**filters, **values, "rows": _PAGE_ROWS}).all()
        for row in rows:
            after = (row.user_id, row.provider, row.label)
            yield row.user_id, row.provider, row.label
        if len(rows) < _PAGE_ROWS:
            return
