"""The plan as its reader gets it: steps, and what they add up to."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from profiles_schema.migrations.answers import one_line

_CHANGES_ROWS = frozenset({"add", "convert", "create", "fit"})
# What a note says that is "wanted" where every statement means the same afterwards.
_CHANGES_NOTHING = frozenset({"kept by name", "left alone", "not verified", "prepared anew", "stays"})
_REASONS = 3


@dataclass(frozen=True)
class PlanStep:
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

    stoppers: list[PlanStep] = field(default_factory=list)
    questions: list[PlanStep] = field(default_factory=list)
    answered: list[PlanStep] = field(default_factory=list)
    """Questions that have been answered; ``wanted`` is the answer."""
    steps: list[PlanStep] = field(default_factory=list)
    notes: list[PlanStep] = field(default_factory=list)
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
    def worth_knowing(self) -> list[PlanStep]:
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
