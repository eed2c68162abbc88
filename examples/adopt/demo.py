"""Adopt the tables of a small application: before the upgrade, the plan, and after it. `make demo-adopt` runs this.

It works on an embedded PostgreSQL of its own, and always removes it at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, text

from profiles_schema import local
from profiles_schema.database import normalize_url
from profiles_schema.driver import execute_literally
from profiles_schema.errors import ProfilesSchemaError
from profiles_schema.migrations.interrupts import interruptible

HERE = Path(__file__).parent
LEFTOVER = "adopt-demo"
_ANSWERS = {
    "policy:public.user_profiles:Profiles are for everybody": "keep",
    "quarantine:public.user_profiles": "quarantine",
}

_PROFILES_BEFORE = """
select '…' || right(id::text, 4) as id, left(username, 24) as username, left(bio, 16) as bio, profile_visibility as visibility,
  favourite_colour as colour
from public.user_profiles as p order by p.id
"""
_PROFILES_AFTER = _PROFILES_BEFORE.replace(" as id,", " as id, '…' || right(user_id::text, 4) as user_id,")
_BYLINES = "select post, left(username, 24) as username, body from public.bylines order by post"
_CHANGED = """
select '…' || right(a.data ->> 'key', 4) as id, replace(a.object_name, 'public.user_profiles.', '') as "column",
  case when length(o.value) > 36 then left(o.value, 18) || '… (' || length(o.value) || ')' else o.value end as old,
  case when length(n.value) > 36 then left(n.value, 18) || '… (' || length(n.value) || ')' else n.value end as new
from profiles_internal.adopted as a
cross join lateral (select a.data ->> 'old' as value) as o
cross join lateral (select a.data ->> 'new' as value) as n
where a.object_type in ('value', 'found value')
order by a.id
"""
_SET_ASIDE = """
select a.revision as "in revision", a.object_name as object from profiles_internal.adopted as a
where a.object_type = 'set aside' and a.object_name ~ '^(policy|trigger|function) ' order by a.id
"""
_QUARANTINE = """
select q.table_name as "table", q.reason, '…' || right(q.row_data ->> 'id', 4) as id, q.row_data ->> 'username' as username
from profiles_internal.quarantine as q order by q.id
"""


def main() -> int:
    """Show it all; the exit code."""
    # In one stream with what the commands print.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        with interruptible(), local.temporary(LEFTOVER) as place:
            return _shown(place.server.url(), place.directory)
    except ProfilesSchemaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the server of the demo is removed", file=sys.stderr)
        return 130


def _shown(url: str, directory: Path) -> int:
    engine = create_engine(normalize_url(url), poolclass=NullPool)
    with engine.begin() as connection:
        for name in ("auth_server.sql", "application.sql"):
            execute_literally(connection, (HERE / name).read_text(encoding="utf-8"))

    _head(
        "1. What is there", "An application with its own profiles, posts and policies: examples/adopt/application.sql."
    )
    print("Its profiles. The names of 1 and 2 differ only in case. Our rules allow none of the names 3 to 5.")
    print("User 6 has no profile. The user of profile 9 no longer exists:\n")
    _table(engine, _PROFILES_BEFORE)
    print("\nIts posts, through a view of the application that joins them with the profiles:\n")
    _table(engine, _BYLINES)

    _head("2. The plan", "What an upgrade would do to these tables, and what it asks. The plan changes nothing.")
    answers = directory / "adopt.toml"
    _run(url, "adopt", "--dry-run", "--write-answers", str(answers))

    _head(
        "3. The answers",
        "The application shows its profiles to everyone: this is intended and stays. The profile without an account\n"
        "may go to quarantine:",
    )
    text = answers.read_text(encoding="utf-8")
    for question, answer in _ANSWERS.items():
        text = text.replace(f'"{question}" = ""', f'"{question}" = "{answer}"')
    answers.write_text(text, encoding="utf-8")
    print(answers.read_text(encoding="utf-8"))

    _head("4. The upgrade", "One transaction per revision. 0006 adopts the table.")
    if _run(url, "upgrade", "-x", f"answers={answers}"):
        return 1

    _head("5. The same profiles", "The id is still a uuid. A column user_id was added. User 6 has a profile.")
    _table(engine, _PROFILES_AFTER)
    print(
        "\nThe view was not touched. Post 3 is still in its table, but its profile is in quarantine, so the view does not show it.\n"
        "The foreign key is NOT VALID:\n"
    )
    _table(engine, _BYLINES)

    _head("6. What was changed", "Values that break a rule. The old values are kept, and a downgrade restores them.")
    _table(engine, _CHANGED)

    _head(
        "7. What was set aside",
        "Objects that would do the same as ours. Their definitions are kept, and a downgrade restores them.",
    )
    _table(engine, _SET_ASIDE)

    _head("8. What is in quarantine", "Complete rows that cannot stay, each with the reason.")
    _table(engine, _QUARANTINE)

    _head("9. Health", "What needs a look afterwards.")
    _run(url, "health", "--full")

    _head("10. Your own database", "Try it on a copy first. The source is only read:")
    print("  profiles-schema rehearse --source postgresql://user:password@host:5432/database")
    print("\nHow it works: docs/how-to/adopt-existing-tables.md")
    return 0


def _head(title: str, what: str) -> None:
    print(f"\n{title}\n{'=' * len(title)}\n{what}\n")


def _run(url: str, *arguments: str) -> int:
    """Run our command as a person would."""
    print(f"$ profiles-schema {' '.join(arguments)}")
    environment = os.environ | {"DATABASE_URL": url}
    command = [sys.executable, "-m", "profiles_schema", *arguments]
    return subprocess.run(command, env=environment, stderr=subprocess.STDOUT, check=False).returncode  # noqa: S603


def _table(engine: Engine, query: str) -> None:
    with engine.connect() as connection:
        result = connection.execute(text(query))
        rows = [list(result.keys()), *([("" if value is None else str(value)) for value in row] for row in result)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
