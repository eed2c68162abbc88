"""What an upgrade would do to tables that are there already: the plan, and nothing else.

The plan is one function, `profiles_internal.adoption_plan`, by which the upgrade refuses and works, too. Where it does not
exist yet, it is made in a transaction that is rolled back.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import InsufficientPrivilege, MigrationLockTimeout
from profiles_schema.migrations.answers import one_line
from profiles_schema.migrations.interrupts import interruptible
from profiles_schema.migrations.locking import LOCK_CLASS, LOCK_OBJECT
from profiles_schema.migrations.options import parse
from profiles_schema.migrations.paths import config, script_location
from profiles_schema.migrations.session import notice_a_dead_client, settings
from profiles_schema.operations.health import current_revision
from profiles_schema.schema import objects
from profiles_schema.settings import INTERNAL_SCHEMA

LOCK_TIMEOUT_MS: Final = 5_000
_POLL_SECONDS = 0.2
_PROFILES = "0006_create_user_profiles"
_LAST = "0014_create_sign_up_triggers"
_PLAN: Final = f"{INTERNAL_SCHEMA}.adoption_plan"
_SHAPE: Final = f"{INTERNAL_SCHEMA}.wanted_shape"
_CALLED = re.compile(rf"\b{INTERNAL_SCHEMA}\.\w+(?=\()")
_CHANGES_ROWS = frozenset({"add", "convert", "create", "fit"})
# What a note says that is "wanted" where every statement means the same afterwards.
_CHANGES_NOTHING = frozenset({"kept by name", "left alone", "not verified", "prepared anew", "stays"})
_ASKED = frozenset({"stop", "question", "answered"})
_REASONS = 3


_OUTSIDE_ID: Final = (
    "The new user_id is the uuid of a user in auth.users. Statements that mean the old one have to name {new}, or to use"
    " schema profiles_compat (all but INSERT ... ON CONFLICT, which Prisma's upsert sends: docs/how-to/keep-old-statements-working.md, Prisma)."
)


@dataclass(frozen=True)
class Step:
    """One row of the plan; ``statement`` does it, ``undo`` takes it back, ``remedy`` is for people.

    Steps without a statement say what another one does, row by row.
    """

    seq: int
    """Its place in the plan."""
    revision: str
    phase: str
    """When it is done within its revision: `alembic/adoption/adoption_phases.sql` has them all, in their order."""
    kind: str
    """What it does: ``rename_column``, ``drop_policy``, ..."""
    object: str
    found: str | None
    wanted: str | None
    action: str
    lock: str | None
    rows: int | None
    seconds: float | None
    statement: str | None
    undo: str | None
    remedy: str | None
    id: str | None = None
    """Of a question, answered or not: the name by which the file of answers gives its answer."""
    answers: dict[str, str] | None = None
    """Its possible answers, and what each leads to; lines after the first are for the file of answers."""
    asked: str | None = None
    """Of a question: a fingerprint of what is asked about, by which an answer to something else is known."""
    data: dict[str, Any] | None = None
    """The details of its kind, for programs: of ``keep_rights``, the rights."""

    @property
    def table(self) -> str | None:
        """The table that the rows are counted in."""
        name = self.object.rpartition(" on ")[2]
        return ".".join(name.split(".")[:2]) if re.match(r"\w+\.\S+$", name) else None

    @property
    def takes_over(self) -> bool:
        """Whether it only records that a table, of so many rows, is taken over."""
        return self.kind == "take_over"


@dataclass(frozen=True)
class Plan:
    """The whole plan. With any stopper or question, the upgrade stops before the first change."""

    stoppers: list[Step] = field(default_factory=list)
    questions: list[Step] = field(default_factory=list)
    answered: list[Step] = field(default_factory=list)
    """Questions that have been answered; ``wanted`` is the answer."""
    steps: list[Step] = field(default_factory=list)
    notes: list[Step] = field(default_factory=list)
    finished: bool = False
    """Whether all revisions that take anything over are behind this database."""

    @property
    def verdict(self) -> str:
        """Whether the upgrade would go on, in one of three sentences."""
        if self.stoppers:
            reasons = [f"{step.object}: {step.found}" for step in self.stoppers[:_REASONS]]
            more = len(self.stoppers) - len(reasons)
            return f"Cannot be taken over, because {'; '.join(reasons)}{f'; and {more} more' if more else ''}."
        if self.questions:
            number = len(self.questions)
            ids = ", ".join(one_line(step.id or "") for step in self.questions)
            return f"Answer {'this question' if number == 1 else f'these {number} questions'}: {ids}."
        notes = len([step for step in self.worth_knowing if step.wanted not in _CHANGES_NOTHING])
        rows = sum(step.rows or 0 for step in self.steps if step.action == "fit" and step.statement is None)
        changes = [
            *[f'statements of yours ({notes} under "Worth knowing")'] * bool(notes),
            *[f"values that break a rule ({rows:,})"] * bool(rows),
            *[f"rows that cannot stay ({self.quarantined:,}, to quarantine)"] * bool(self.quarantined),
        ]
        if changes:
            return (
                f"Can be taken over{', by your answers' if self.answered else ''}; this changes {', '.join(changes)}."
            )
        return f"Nothing changes meaning{' beyond the answers' if self.answered else ''}."

    @property
    def worth_knowing(self) -> list[Step]:
        """What people have to know, each with its remedy."""
        return [step for step in (*self.notes, *self.steps) if step.remedy]

    @property
    def tables(self) -> dict[str, int]:
        """The tables that are taken over, by the names they will have, and their rows."""
        return {step.object: step.rows or 0 for step in self.steps if step.takes_over}

    @property
    def rows(self) -> int:
        """Rows that change: of each table as many as the largest of its steps touches, those in quarantine aside."""
        most: dict[str, int] = {}
        for step in self.steps:
            if step.rows and step.table and step.action in _CHANGES_ROWS:
                most[step.table] = max(most.get(step.table, 0), step.rows)
        return sum(most.values())

    @property
    def quarantined(self) -> int:
        """Rows that cannot stay."""
        return sum(step.rows or 0 for step in self.steps if step.action == "quarantine" and step.statement is not None)

    @property
    def seconds(self) -> float:
        """About how long all of it takes."""
        return sum(step.seconds or 0.0 for step in self.steps)

    @property
    def locked_seconds(self) -> dict[str, float]:
        """About how long each table is locked. A revision is a transaction: what it locks, it keeps to its end."""
        by_revision: dict[str, float] = {}
        for step in self.steps:
            by_revision[step.revision] = by_revision.get(step.revision, 0.0) + (step.seconds or 0.0)
        return {step.object: by_revision[step.revision] for step in self.steps if step.takes_over}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "rows": self.rows,
            "quarantined": self.quarantined,
            "seconds": round(self.seconds, 3),
            "verdict": self.verdict,
        }


def plan(
    connection: Connection,
    *,
    x: Sequence[str] = (),
    answers: Mapping[str, str] | None = None,
    asked: Mapping[str, str] | None = None,
) -> Plan:
    """What `upgrade` with the same options would do to the tables it finds.

    Everything happens in one transaction that is rolled back. Tables are read, under ACCESS SHARE locks.

    Args:
        connection: One of the role that would upgrade.
        x: ``KEY=VALUE`` options, as for the upgrade.
        answers: Instead of the file that ``x`` names; those that no question needs are passed over.
        asked: Of these, the fingerprints of what was asked.

    Raises:
        UsageError: an option is unknown, or its value not of its form.
        InsufficientPrivilege: the role may not create what the plan needs.
        MigrationLockTimeout: a migration runs.
    """
    wanted = settings(parse(x)) | {"lock_timeout": f"{LOCK_TIMEOUT_MS}ms", "profiles_schema.dry_run": "yes"}
    if answers is not None:
        wanted["profiles_schema.answers"] = json.dumps(answers)
        wanted["profiles_schema.asked"] = json.dumps(dict(asked or {}))
    connection.rollback()
    with interruptible():
        found = _plan(connection, wanted)
    if answers is not None:
        found = replace(found, stoppers=[step for step in found.stoppers if step.id is None])
    return found


def _plan(connection: Connection, wanted: Mapping[str, str]) -> Plan:
    try:
        for name, value in wanted.items():
            connection.execute(text("select set_config(:name, :value, true)"), {"name": name, "value": value})
        notice_a_dead_client(connection)
        done = _done(connection)
        if _LAST in done:
            return Plan(finished=True)
        if connection.scalar(text("select to_regproc(:name) is null"), {"name": _PLAN}):
            _prepare(connection)
        else:
            connection.exec_driver_sql("set transaction read only")
        rows = connection.execute(text(f"select p.* from {_PLAN}() as p order by p.seq")).mappings()
        # What ran will not run again, whatever was added since.
        steps = [step for step in _steps(rows) if step.revision not in done]
        steps += [*_candidates(connection, steps, done), *_consequences(connection, steps)]
    finally:
        if not (connection.closed or connection.invalidated):
            connection.rollback()
    return Plan(
        stoppers=[step for step in steps if step.action == "stop"],
        questions=[step for step in steps if step.action == "question"],
        answered=[step for step in steps if step.action == "answered"],
        steps=[step for step in steps if step.action not in _ASKED and (step.action != "note" or step.takes_over)],
        notes=[step for step in steps if step.action == "note" and not step.takes_over],
        finished=_LAST in done,
    )


def _steps(rows: Any) -> Iterator[Step]:
    for row in rows:
        values: Mapping[str, Any] = row
        yield Step(**{name: values[name] for name in Step.__dataclass_fields__})


def _note(about: Step, name: str, *, found: str, wanted: str, remedy: str) -> Step:
    """What people have to know of a step; it stands where that one stands."""
    return replace(
        about, kind="tell", object=name, action="note", found=found, wanted=wanted, remedy=remedy, lock=None, rows=None,
        seconds=None, statement=None, undo=None, id=None, answers=None, asked=None, data=None,
    )  # fmt: skip


def _candidates(connection: Connection, steps: Sequence[Step], done: frozenset[str]) -> Iterator[Step]:
    """Tables under another name that may be the one of profiles; whether they are, only people know."""
    if _PROFILES in done or any(step.revision == _PROFILES and step.object.startswith("public.") for step in steps):
        return
    names = connection.execute(
        text(
            "select quote_ident(c.relname), c.relname from pg_class as c join pg_constraint as p on p.conrelid = c.oid and p.contype = 'p'"
            " join pg_constraint as f on f.conrelid = c.oid and f.contype = 'f' and f.conkey = p.conkey"
            " where f.confrelid = to_regclass('auth.users') and c.relkind = 'r' and c.relnamespace = 'public'::regnamespace"
            f" and c.relname not in (select w.table_name from {_SHAPE}() as w) and c.relname <> 'sessions' order by 1"
        )
    )
    for name, plain in names:
        yield Step(
            seq=0, revision=_PROFILES, phase="look", kind="tell", object=f"public.{name}", action="note",
            found="one row per user", wanted="left alone", lock=None, rows=None, seconds=None, statement=None, undo=None,
            remedy=f"If it is the table of profiles, it can be taken over: -x {shlex.quote(f'adopt-table={plain}')}",
        )  # fmt: skip


def _consequences(connection: Connection, steps: Sequence[Step]) -> Iterator[Step]:
    """What statements, and what users by the rights and policies that go, cannot do afterwards."""
    yield from _other_columns(steps)
    yield from _unwritable(connection, steps)
    yield from _other_rules(steps)
    # Those that a change of type would trip over go earlier, for a while.
    policies = [step for step in steps if step.kind == "drop_policy" and step.phase == "replace_objects"]
    if policies:
        tables = ", ".join(sorted({step.object.rpartition(" on ")[2] for step in policies}))
        yield _note(
            policies[0],
            f"{len(policies)} {'policy' if len(policies) == 1 else 'policies'} on {tables}",
            found="of the application",
            wanted="set aside",
            remedy="By ours, users see and change their own rows only. Of others' profiles they read what get_public_profile"
            " gives; what else they could do by these needs a policy and rights of its own, after the upgrade.",
        )


def _other_columns(steps: Sequence[Step]) -> Iterator[Step]:
    """Columns that statements of the application know under another name, or as another type."""
    renamed = {step.wanted for step in steps if step.kind == "rename_table"}
    outside_ids = any(step.kind == "rename_column" and step.wanted == "external_id" for step in steps)
    through_a_view = set() if outside_ids else renamed
    for step in steps:
        if step.table is None:
            continue
        column = step.object.rpartition(".")[2]
        if step.kind == "rename_column" and step.table not in through_a_view:
            yield _note(
                step,
                step.object,
                found=f"{column} {step.found}",
                wanted=f"{step.wanted} {step.found}",
                remedy=(
                    _OUTSIDE_ID if column == "user_id" else "Statements that name {old} have to name {new}."
                ).format(old=column, new=step.wanted),
            )
        # A view of the old name shows the new types, too.
        elif step.kind == "retype_columns":
            yield _note(
                step,
                step.object,
                found=step.found or "",
                wanted=step.wanted or "",
                remedy="Statements that write these columns, or compare them, as the old type have to be changed. What the old"
                " type refused, such as a longer text or an unknown word, only our rules refuse afterwards.",
            )


def _unwritable(connection: Connection, steps: Sequence[Step]) -> Iterator[Step]:
    """Columns of ours that users may write today, and not afterwards."""
    for step in steps:
        if not step.takes_over:
            continue
        renamed = next((s.found for s in steps if s.kind == "rename_table" and s.wanted == step.object), None)
        # What is kept besides (adoption_rights).
        kept = next((s.data for s in steps if s.kind == "keep_rights" and s.object == step.object), None) or {}
        ours = [right for right in kept.get("rights", ()) if right["ours"] and right["role"] == "authenticated"]
        updates, inserts = (
            {*_writable(connection, step.object, name), *(each["column"] for each in ours if each["right"] == name)}
            for name in ("update", "insert")
        )
        may_insert = kept.get("inserts", False) or bool(_writable(connection, step.object, "insert"))
        if kept.get("inserts"):  # schema/sql/policies/user_profiles.sql
            owner = (step.data or {}).get("owner")
            inserts |= {*_writable(connection, step.object, "update"), "user_id", "updated_at", owner}
        columns = connection.execute(
            text(
                "select quote_ident(a.attname) as name, has_column_privilege(r.oid, a.attrelid, a.attnum, 'insert') as insert,"
                "  has_column_privilege(r.oid, a.attrelid, a.attnum, 'update') as update"
                " from pg_attribute as a join pg_roles as r on r.rolname = 'authenticated'"
                " where a.attrelid = to_regclass(:table) and a.attnum > 0 and not a.attisdropped"
                f"  and a.attname in (select w.name from {_SHAPE}() as w where w.kind = 'column' and 'public.' || w.table_name = :ours)"
                " order by a.attnum"
            ),
            {"table": renamed or step.object, "ours": step.object},
        ).all()
        lost = [c.name for c in columns if c.update and c.name not in updates]
        if lost:
            yield _note(
                step,
                step.object,
                found=f"users write {', '.join(lost)}",
                wanted="written by triggers and by servers",
                remedy="An UPDATE by authenticated that sets one of these fails (42501), even to the value it has: leave them out."
                " updated_at is kept by a trigger.",
            )
        uninserted = [c.name for c in columns if c.insert and c.name not in inserts]
        if may_insert and uninserted:
            yield _note(
                step,
                step.object,
                found=f"users insert {', '.join(uninserted)}",
                wanted="written by triggers and by servers",
                remedy="An INSERT by authenticated that names one of these fails (42501), and so does an upsert: leave them out.",
            )
        if not may_insert and uninserted:
            yield _note(
                step,
                step.object,
                found="users insert rows",
                wanted="made by triggers and by servers",
                remedy="An INSERT by authenticated fails (42501), and so does an upsert. A profile is there from the sign-up on: update it.",
            )


def _writable(connection: Connection, table: str, right: str) -> list[str]:
    """The columns that our rights let users write."""
    columns: list[str] = connection.execute(
        text(f"select {INTERNAL_SCHEMA}.writable_columns(:table, :right)"),
        {"table": table.removeprefix("public."), "right": right},
    ).scalar_one()
    return columns


def _other_rules(steps: Sequence[Step]) -> Iterator[Step]:
    """What fails for a while, or by rules that a table did not have."""
    tables = {step.object: step for step in steps if step.takes_over}
    if tables:
        first = next(iter(tables.values()))
        yield _note(
            first,
            ", ".join(tables),
            found="prepared statements of open connections",
            wanted="prepared anew",
            remedy="What reads all columns (*) or compares one that changes its type fails (0A000, 42883) until it is prepared anew:"
            " restart the application, or its pool, after the upgrade.",
        )
    for step in steps:
        if step.kind == "drop_function" and step.revision > _PROFILES and _is_taken(tables, _PROFILES):
            yield _note(
                step,
                step.object,
                found="called while the upgrade runs",
                wanted="ours, from this revision on",
                remedy="Between the taking over of user_profiles and here it meets a table that it does not know: a call may fail"
                " (23502, 42703, 42804), and works when it is tried again later.",
            )
        if step.kind == "rename_column" and step.object.endswith(".user_id") and step.wanted == "external_id":
            was = next(
                (s.found for s in steps if s.kind == "rename_table" and s.wanted == "public.user_profiles"), None
            )
            view = f"profiles_compat.{(was or 'public.user_profiles').removeprefix('public.')}"
            gone = f"{was} is gone: it is public.user_profiles now. " if was else ""
            yield _note(
                step,
                view,
                found="statements that mean the old user_id" + (f", or name {was}" if was else ""),
                wanted="a view that they read and write unchanged",
                remedy=f"{gone}Let them find the view first: set search_path = profiles_compat, public. A statement that says public"
                " itself has to be changed. The view is there at the end of the upgrade; from the taking over of the table until then they fail"
                f" ({'42P01, ' if was else ''}22P02, 42883). Stop the application for that long, or let it try again.",
            )
    if "public.export_history" in tables:
        step = tables["public.export_history"]
        yield _note(
            step,
            step.object,
            found="any change of status",
            wanted="pending, processing, completed or failed, expired",
            remedy="A status that leaves this order out fails (23514): an export begins as pending, and is processing before it is"
            " completed.",
        )


def _is_taken(tables: Mapping[str, Step], revision: str) -> bool:
    return any(step.revision == revision for step in tables.values())


def _done(connection: Connection) -> frozenset[str]:
    """The revisions that this database has behind it."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(config())
    ours = [each.revision for each in script.walk_revisions()]  # newest first
    recorded = set((current_revision(connection) or "").split(", "))
    for place, revision in enumerate(ours):
        if revision in recorded:
            return frozenset(ours[place:])
    # An application that keeps one history with ours records its own revisions; the log knows ours.
    if connection.scalar(text(f"select to_regclass('{INTERNAL_SCHEMA}.migration_log') is null")):
        return frozenset()
    last = connection.execute(
        text(
            f"select distinct on (l.revision) l.revision, l.direction from {INTERNAL_SCHEMA}.migration_log as l"
            " where l.outcome = 'done' order by l.revision, l.id desc"
        )
    )
    return frozenset(row.revision for row in last if row.direction == "upgrade")


def _prepare(connection: Connection) -> None:
    """Make the functions of the plan; whoever calls this rolls back."""
    database, role, exists, may_create_schema, may_create = connection.execute(
        text(
            "select quote_ident(current_database()), quote_ident(current_user), n.oid is not null,"
            " has_database_privilege(current_database(), 'create'), coalesce(has_schema_privilege(n.oid, 'create'), true)"
            " from (select to_regnamespace(:schema)::oid as oid) as n"
        ),
        {"schema": INTERNAL_SCHEMA},
    ).one()
    if not exists and not may_create_schema:
        raise InsufficientPrivilege(
            f"Role {role} may not create schema {INTERNAL_SCHEMA} in database {database}, which the plan and the upgrade need. "
            f"Let an administrator run: grant create on database {database} to {role};"
        )
    if not may_create:
        raise InsufficientPrivilege(
            f"Role {role} may not create functions in schema {INTERNAL_SCHEMA}. Connect as the role that upgrades."
        )
    _exclude_migrators(connection)
    if not exists:
        connection.exec_driver_sql(f"create schema {INTERNAL_SCHEMA}")
    # A body may name what only the upgrade makes.
    connection.exec_driver_sql("set local check_function_bodies = off")
    for function in functions():
        connection.exec_driver_sql(function.replace("%", "%%"))


def _exclude_migrators(connection: Connection) -> None:
    """An upgrade that begins meanwhile waits, and says for whom, instead of failing on a schema that is about to vanish."""
    give_up = time.monotonic() + LOCK_TIMEOUT_MS / 1000
    while not connection.scalar(text(f"select pg_try_advisory_xact_lock({LOCK_CLASS}, {LOCK_OBJECT})")):
        if time.monotonic() > give_up:
            raise MigrationLockTimeout(
                "A migration is running, or another plan of one. Wait until it has finished, then run this again."
            )
        time.sleep(_POLL_SECONDS)


def functions() -> list[str]:
    """The texts of the planner, from the files that the revisions read, and of the functions that it calls.

    Without the rights, which name roles that may not exist yet.
    """
    texts = {each.name: each.text for each in objects.FUNCTIONS if each.name.startswith(f"{INTERNAL_SCHEMA}.")}
    planner = {
        f"{INTERNAL_SCHEMA}.{path.stem}": path.read_text(encoding="utf-8")
        for path in sorted((script_location() / "adoption").glob("*.sql"))
    }
    needed, waiting = set[str](), [_PLAN]
    texts |= planner
    while waiting:
        name = waiting.pop()
        if name in texts and name not in needed:
            needed.add(name)
            waiting += _CALLED.findall(texts[name])
    return [body[: body.rindex("$;") + 2] for name, body in texts.items() if name in needed]
