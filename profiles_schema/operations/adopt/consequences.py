"""What statements and users of the application cannot do after an upgrade, said of the steps that change it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.operations.adopt.steps import PlanStep
from profiles_schema.settings import INTERNAL_SCHEMA

PROFILES: Final = "0006_create_user_profiles"

_SHAPE: Final = f"{INTERNAL_SCHEMA}.wanted_shape"
_OUTSIDE_ID: Final = (
    "The new user_id is the uuid of a user in auth.users. Statements that mean the old one have to name {new}, or to use"
    " schema profiles_compat (all but INSERT ... ON CONFLICT, which Prisma's upsert sends: docs/how-to/keep-old-statements-working.md, Prisma)."
)


def find_candidates(connection: Connection, steps: Sequence[PlanStep], done: frozenset[str]) -> Iterator[PlanStep]:
    """Tables under another name that may be the one of profiles; whether they are, only people know."""
    if PROFILES in done or any(step.revision == PROFILES and step.object.startswith("public.") for step in steps):
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
        yield PlanStep(
            seq=0, revision=PROFILES, phase="look", kind="tell", object=f"public.{name}", action="note",
            found="one row per user", wanted="left alone", lock=None, rows=None, seconds=None, statement=None, undo=None,
            remedy=f"If it is the table of profiles, it can be taken over: -x {shlex.quote(f'adopt-table={plain}')}",
        )  # fmt: skip


def find_consequences(connection: Connection, steps: Sequence[PlanStep]) -> Iterator[PlanStep]:
    """What statements, and what users by the rights and policies that go, cannot do afterwards."""
    yield from _renamed_columns(steps)
    yield from _lost_rights(connection, steps)
    yield from _stricter_rules(steps)
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


def _renamed_columns(steps: Sequence[PlanStep]) -> Iterator[PlanStep]:
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


def _lost_rights(connection: Connection, steps: Sequence[PlanStep]) -> Iterator[PlanStep]:
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


def _stricter_rules(steps: Sequence[PlanStep]) -> Iterator[PlanStep]:
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
        if step.kind == "drop_function" and step.revision > PROFILES and _is_taken(tables, PROFILES):
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


def _is_taken(tables: Mapping[str, PlanStep], revision: str) -> bool:
    return any(step.revision == revision for step in tables.values())


def _note(about: PlanStep, name: str, *, found: str, wanted: str, remedy: str) -> PlanStep:
    """What people have to know of a step; it stands where that one stands."""
    return replace(
        about, kind="tell", object=name, action="note", found=found, wanted=wanted, remedy=remedy, lock=None, rows=None,
        seconds=None, statement=None, undo=None, id=None, answers=None, asked=None, data=None,
    )  # fmt: skip
