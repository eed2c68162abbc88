"""What a rehearsal has seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from profiles_schema.operations.rehearse.probes import Difference


@dataclass
class RehearsalStep:
    """One step: ``outcome`` is done, failed or skipped; ``data`` depends on the step."""

    name: str
    seconds: float = 0.0
    outcome: str = "done"
    detail: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RehearsalFinding:
    """Something that needs attention before the real upgrade: in which step, and what."""

    step: str
    message: str


@dataclass
class Rehearsal:
    """All that was seen. ``notes`` are worth knowing and no reason to hesitate."""

    source: dict[str, Any] = field(default_factory=dict)
    role: str = ""
    revision: str | None = None
    not_copied: list[str] = field(default_factory=list)
    steps: list[RehearsalStep] = field(default_factory=list)
    findings: list[RehearsalFinding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    """Probes that mean something else after the upgrade, with what they returned: values of the application's rows."""
    questions: list[str] = field(default_factory=list)
    """The questions of the plan that stopped the upgrade, by their ids."""
    kept: dict[str, str] | None = None

    @property
    def verdict(self) -> str:
        """One line; also what adoption would change in rows of the application, and which rows it would move away."""
        if self.questions:
            number = len(self.questions)
            return f"rehearsal: would need {'an answer' if number == 1 else f'{number} answers'}: {', '.join(self.questions)}"
        number = len(self.findings)
        verdict = f"rehearsal: would need attention: {number}" if number else "rehearsal: would go well"
        return "; ".join([verdict, *(f"{table}: {what}" for table, what in self._changed_rows())])

    def _changed_rows(self) -> Iterator[tuple[str, str]]:
        upgrade = self.step("upgrade")
        for table in upgrade.data.get("adopted", ()) if upgrade else ():
            parts = [
                f"{table[key]} {word if table[key] == 1 else word + 's'} {what}"
                for key, word, what in (("quarantined", "row", "to quarantine"), ("changed", "value", "changed"))
                if table[key]
            ]
            if parts:
                yield table["table"], ", ".join(parts)

    def step(self, name: str) -> RehearsalStep | None:
        """The last step of a name."""
        return next((step for step in reversed(self.steps) if step.name == name), None)
