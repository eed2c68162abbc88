"""An adoption plan in words: what is in the way, what is asked, what is worth knowing, what to do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from profiles_schema.cli.plan_steps import describe_steps, duration
from profiles_schema.cli.style import counted, styled
from profiles_schema.cli.tables import wrap
from profiles_schema.migrations.answers import one_line

if TYPE_CHECKING:
    from profiles_schema.operations.adopt import Plan, PlanStep

_ABOUT_TO_RUN = re.compile(r"(.*?:) ((?:alter|create|drop|grant|revoke|profiles-schema|-x) .*)", re.DOTALL)


def describe_plan(result: Plan, width: int, x: Sequence[str], *, local: bool, file: str | None) -> Iterator[str]:
    """The lines that a person reads of a plan.

    Args:
        result: The plan.
        width: Characters in a line; commands and ids are never broken.
        x: The -x options that were given, for the next command.
        local: Whether it was made on the embedded PostgreSQL.
        file: The file of answers that was written.
    """
    if result.stoppers:
        yield styled(counted(len(result.stoppers), "thing stands", "things stand") + " in the way:", "problem")
        for number, stopper in enumerate(result.stoppers, start=1):
            yield ""
            yield from _stopper(number, stopper, width)
        yield ""
    if result.questions:
        yield styled(counted(len(result.questions), "question is", "questions are") + " open:", "problem")
        for number, question in enumerate(result.questions, start=1):
            yield ""
            yield from _question(number, question, width)
        yield ""
    if result.answered:
        yield "Answered:"
        for question in result.answered:
            consequence = (question.answers or {}).get(question.wanted or "", "").partition("\n")[0]
            yield from wrap(f"  {one_line(question.id or '')} = {question.wanted}: {consequence}", width, indent="    ")
        yield ""
    if result.steps:
        yield from describe_steps(result, width)
    yield from _notes(result, width)
    yield from wrap(_sum(result), width)
    yield from _next(result, x, local=local, file=file)
    # Ids are not broken: they are copied.
    yield from [result.verdict] if result.stoppers or result.questions else wrap(result.verdict, width)


def _stopper(number: int, stopper: PlanStep, width: int) -> Iterator[str]:
    rows = f", {counted(stopper.rows, 'row')}" if stopper.rows else ""
    yield from wrap(
        f"{number:2}. {stopper.object}: {stopper.found}{rows}; wanted: {stopper.wanted}.", width, indent="    "
    )
    yield from _advice(stopper.remedy or "", width, indent="    ")


def _question(number: int, question: PlanStep, width: int) -> Iterator[str]:
    yield from wrap(f"{number:2}. {question.object}: {question.found}.", width, indent="    ")
    yield f"    id: {one_line(question.id or '')}"
    for answer, consequence in (question.answers or {}).items():
        short = consequence.partition("\n")[0]
        yield from wrap(f"    {answer}: {short}", width, indent="      ")


def _advice(advice: str, width: int, *, indent: str) -> Iterator[str]:
    """Words are wrapped; a command stands on a line of its own, whole, to be copied."""
    words, command = advice, ""
    if runs := _ABOUT_TO_RUN.fullmatch(advice):
        words, command = runs.groups()
    yield from wrap(f"{indent}{words}", width, indent=indent)
    if command:
        yield f"{indent}  {command}"


def _notes(result: Plan, width: int) -> Iterator[str]:
    if not result.worth_knowing:
        return
    yield "Worth knowing:"
    for note in result.worth_knowing:
        about = "; ".join(filter(None, [note.found, note.wanted])) if note.action == "note" else note.action
        yield from wrap(f"  {note.object} ({about})", width, indent="    ")
        yield from _advice(note.remedy or "", width, indent="    ")
    yield ""


def _sum(result: Plan) -> str:
    if result.finished:
        return "There is nothing to adopt: this database is past the revisions that take tables over."
    if not (result.steps or result.stoppers or result.questions):
        return "There is nothing to adopt: nothing here stands where the upgrade puts its own."
    if result.stoppers or result.questions:
        return "Nothing is changed as long as that is so; the rest of the plan may be incomplete."
    steps = sum(step.statement is not None and not step.takes_over for step in result.steps)
    parts = [f"{counted(result.quarantined, 'row')} to profiles_internal.quarantine"] if result.quarantined else []
    parts += [counted(steps, "step"), f"{counted(result.rows, 'row')} to change"]
    parts.append(f"{duration(result.seconds)} in all")
    if result.locked_seconds:
        table, seconds = max(result.locked_seconds.items(), key=lambda item: item[1])
        parts.append(f"{table} locked for {duration(seconds)} of it (ACCESS EXCLUSIVE)")
    return f"{', '.join(parts)}. Nothing was changed."


def _next(result: Plan, x: Sequence[str], *, local: bool, file: str | None) -> Iterator[str]:
    if file and not any(pair.startswith("answers=") for pair in x) and not result.questions:
        x = [*x, f"answers={file}"]
    options = " ".join([*(f"-x {shlex.quote(pair)}" for pair in x), *(["--local"] if local else [])])
    if result.stoppers:
        yield f"next: mend that, then profiles-schema adopt --dry-run {options}".rstrip()
        return
    if result.questions:
        path = file or next((pair.removeprefix("answers=") for pair in x if pair.startswith("answers=")), "")
        first = f"write the answers into {shlex.quote(file)}, then " if file else ""
        target = f"{shlex.quote(path)} --force" if path else "adopt.toml"
        yield f"next: {first}profiles-schema adopt --dry-run --write-answers {target} {options}".rstrip()
        return
    if result.finished:
        yield f"next: profiles-schema health {'--local' if local else ''}".rstrip()
        return
    if result.steps and not local:
        yield f"try it on a copy: profiles-schema rehearse --source URL {options}".rstrip()
    yield f"next: profiles-schema upgrade {options}".rstrip()
