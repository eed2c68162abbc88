"""The steps of an adoption plan as tables, one for each revision."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from profiles_schema.cli.style import counted
from profiles_schema.cli.tables import table_lines, wrap

if TYPE_CHECKING:
    from profiles_schema.operations.adopt import Plan, PlanStep

_HEADS = ("action", "object", "found", "wanted", "lock", "rows", "about")
_NUMBERS = ("rows", "about")
_CELL_CHARACTERS = 120
_LOCKS = {
    "ACCESS EXCLUSIVE": ("all", "readers and writers wait"),
    "SHARE ROW EXCLUSIVE": ("writes", "writers wait, readers do not"),
    "SHARE UPDATE EXCLUSIVE": ("ddl", "only other changes of the table's structure wait"),
}
# (pattern, what a person reads instead) of definitions as the server writes them.
_SHORTER = (
    (r"^CREATE (UNIQUE )?INDEX \S+ ON (?:ONLY )?\S+ USING (?:btree )?", r"\1index "),
    (r"^CHECK \(\((.*)\)\)", r"CHECK \1"),
    (r"^(FOREIGN KEY \([^)]*\)) REFERENCES (?:public\.)?(.*)", r"\1 to \2"),
    (r"::text\b", ""),
)


def describe_steps(plan: Plan, width: int) -> Iterator[str]:
    """A title and a table for each revision, then what the locks mean."""
    for revision in dict.fromkeys(step.revision for step in plan.steps):
        steps = [step for step in plan.steps if step.revision == revision]
        table = next((step for step in steps if step.takes_over), None)
        name = table.object if table else ""
        yield from wrap(_title(plan, revision, table), width)
        rows = [_cells(step, name) for step in merge_alike(without_summaries(steps), name)]
        yield from table_lines(_HEADS, rows, width=width, numbers=_NUMBERS)
        yield ""
    used = {step.lock or "" for step in plan.steps}
    for lock, (short, meaning) in _LOCKS.items():
        if any(each.startswith(lock) for each in used):
            yield f"lock {short}: {lock}, {meaning}"
    yield ""


def duration(seconds: float) -> str:
    """About so long, in words."""
    shown = _seconds(seconds)
    return f"less than {shown[1:]}" if shown.startswith("<") else f"about {shown}"


def _title(plan: Plan, revision: str, table: PlanStep | None) -> str:
    if table is None:
        taking = [step.revision for step in plan.steps if step.takes_over]
        when = "Afterwards, in" if any(each < revision for each in taking) else "First, in" if taking else "In"
        return f"{when} {revision}:"
    return (
        f"{table.object}, {counted(table.rows or 0, 'row')}, in {revision};"
        f" locked for {duration(plan.locked_seconds[table.object])}:"
    )


def without_summaries(steps: Iterable[PlanStep]) -> list[PlanStep]:
    """Without the steps that carry out what those right before them say one by one; these get the lock instead."""
    result: list[PlanStep] = []
    said: list[PlanStep] = []
    for step in steps:
        if step.statement is None:
            said.append(step)
        elif not step.takes_over:
            sums_up = bool(said) and step.object == step.table
            result += [replace(each, lock=step.lock) if sums_up else each for each in said]
            result += [] if sums_up else [step]
            said = []
    return [*result, *said]


def merge_alike(steps: Iterable[PlanStep], table: str) -> list[PlanStep]:
    """Steps that differ only in the object become one."""
    groups: dict[tuple[str | None, ...], list[PlanStep]] = {}
    for step in steps:
        kind = step.wanted
        if step.action == "create" and step.found is None and kind:
            kind = re.split(r"(?<=INDEX) | \(", kind, maxsplit=1)[0]
        key = (step.action, step.found, kind, step.lock, str(step.rows))
        groups.setdefault(key, []).append(replace(step, object=_named(step.object, table)))
    result = []
    for (_, _, kind, _, _), group in groups.items():
        first = group[0]
        seconds = sum(step.seconds or 0.0 for step in group) or None
        if len(group) == 1:
            result.append(first)
        elif kind == first.wanted:
            result.append(replace(first, object=_listed([step.object for step in group]), seconds=seconds))
        else:
            names = f"{len(group)} {'indexes' if 'INDEX' in str(kind) else 'constraints'}"
            shown = str(kind).replace("CREATE ", "").replace("INDEX", "index")
            result.append(replace(first, object=names, wanted=shown, seconds=seconds))
    return result


def _listed(names: Sequence[str]) -> str:
    """Names, a word that all begin with said once, with their number."""
    for one, many in (("policy ", "policies"), ("function ", "functions"), ("trigger ", "triggers")):
        if all(name.startswith(one) for name in names):
            return f"{len(names)} {many}: {', '.join(name.removeprefix(one) for name in names)}"
    return ", ".join(names)


def _named(name: str, table: str) -> str:
    if name == table:
        return "the table"
    return name.removeprefix(f"{table}.").removesuffix(f" on {table}").replace("public.", "")


def _cells(step: PlanStep, table: str) -> list[str]:
    short, where = "", ""
    for lock, (word, _) in _LOCKS.items():
        if (step.lock or "").startswith(lock):
            short, where = word, (step.lock or "").removeprefix(lock)
    wanted = _shorter(step.wanted, table)
    if step.action == "add" and "," in wanted:
        wanted = f"{wanted.count(',') + 1} columns: {wanted}"
    return [
        step.action,
        _limited(step.object),
        _limited(_shorter(step.found, table)),
        _limited(wanted),
        short + where.replace(" on ", ", ", 1).replace(", too", ""),
        "" if step.rows is None else f"{step.rows:,}",
        "" if step.seconds is None else _seconds(step.seconds),
    ]


def _shorter(definition: str | None, table: str) -> str:
    shown = definition or ""
    for pattern, instead in _SHORTER:
        shown = re.sub(pattern, instead, shown)
    return shown.replace(f"{table}(", f"{table.removeprefix('public.')}(")


def _limited(cell: str) -> str:
    return cell if len(cell) <= _CELL_CHARACTERS else f"{cell[:_CELL_CHARACTERS].rpartition(' ')[0]} …"


def _seconds(seconds: float) -> str:
    tenth, minute, hour = 0.1, 90, 5400
    if seconds < tenth:
        return "<0.1 s"
    if seconds < minute:
        return f"{seconds:.1f} s" if seconds < minute / 9 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < hour else f"{seconds / 3600:.1f} h"
