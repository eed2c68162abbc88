"""adopt: what would an upgrade do to the tables that are there already?"""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from profiles_schema.cli.help import Verb, examples
from profiles_schema.cli.options import database, json_option, local_option, print_json, x_option
from profiles_schema.cli.style import styled
from profiles_schema.migrations.answers import one_line

if TYPE_CHECKING:
    from profiles_schema.operations.adopt import Plan, Step

_NARROWEST, _UNKNOWN, _WIDEST = 80, 100, 132
_HEADS = ("action", "object", "found", "wanted", "lock", "rows", "about")
_FLEXIBLE = (1, 2, 3)
_LEAST = 10
_GAP = "  "
_CELL_LINES = 4
_LOCKS = {
    "ACCESS EXCLUSIVE": ("all", "readers and writers wait"),
    "SHARE ROW EXCLUSIVE": ("writes", "writers wait, readers do not"),
    "SHARE UPDATE EXCLUSIVE": ("ddl", "nobody waits but other changes of the table's structure"),
}
_ABOUT_TO_RUN = re.compile(r"(.*?:) ((?:alter|create|drop|grant|revoke|profiles-schema|-x) .*)", re.DOTALL)
# (pattern, what a person reads instead) of definitions as the server writes them.
_SHORTER = (
    (r"^CREATE (UNIQUE )?INDEX \S+ ON (?:ONLY )?\S+ USING (?:btree )?", r"\1index "),
    (r"^CHECK \(\((.*)\)\)", r"CHECK \1"),
    (r"^(FOREIGN KEY \([^)]*\)) REFERENCES (?:public\.)?(.*)", r"\1 to \2"),
    (r"::text\b", ""),
)


@click.command(
    cls=Verb,
    epilog=examples(
        "profiles-schema adopt --dry-run",
        "profiles-schema adopt --dry-run -x adopt-table=members",
        "profiles-schema adopt --dry-run --write-answers adopt.toml",
        "profiles-schema adopt --dry-run --json | jq '.stoppers'",
    ),
)
@click.option("--dry-run", is_flag=True, help="Show the plan; nothing else is to be had here.")
@click.option(
    "--write-answers", metavar="FILE", help="Write the questions of the plan to a file, to be answered there."
)
@click.option("--force", is_flag=True, help="Write over a file that is there; its valid answers are kept.")
@local_option
@json_option
@x_option
def adopt(
    *, dry_run: bool, write_answers: str | None, force: bool, local: bool, as_json: bool, x: tuple[str, ...]
) -> int:
    """Show what `upgrade` would do to tables, functions, policies and triggers that are there already.

    Changes nothing: the work itself is `upgrade`, with the same -x options. Exit 1 if something stands in the way, or
    a question is open. The file of answers goes to the upgrade with -x answers=FILE.
    """
    from profiles_schema.errors import UsageError
    from profiles_schema.migrations import answers
    from profiles_schema.migrations.options import parse
    from profiles_schema.operations.adopt import plan

    options = parse(x)
    if not dry_run:
        raise UsageError("adopt only shows the plan (--dry-run); the work itself is: profiles-schema upgrade")
    if force and write_answers is None:
        raise UsageError("--force belongs to --write-answers FILE")
    given, asked = None, None
    if write_answers is not None:
        if not write_answers or Path(write_answers).is_dir():
            raise UsageError(f"--write-answers needs the name of a file, not {write_answers or 'an empty text'}")
        exists = Path(write_answers).exists()
        if exists and not force:
            raise UsageError(
                f"{write_answers} exists. With --force it is written anew, and its valid answers are kept."
            )
        source = options.values["answers"] or (write_answers if exists else "")
        given, asked = (answers.read(source), answers.read_asked(source)) if source else ({}, {})
    with database(local=local or options.local, writes=True) as connection:
        result = plan(connection, x=x, answers=given, asked=asked)
    if write_answers is not None and given is not None:
        _write_answers(write_answers, result, given)
    if as_json:
        print_json(result.as_dict())
    else:
        width = min(max(shutil.get_terminal_size((_UNKNOWN, 24)).columns, _NARROWEST), _WIDEST)
        for line in _told(result, width, x, local=local, file=write_answers):
            click.echo(line)
    return int(bool(result.stoppers or result.questions))


def _write_answers(path: str, result: Plan, given: Mapping[str, str]) -> None:
    from profiles_schema.errors import UsageError
    from profiles_schema.migrations import answers

    asked = [*result.questions, *result.answered]
    # An upgrade that was interrupted remembers answers that no file may hold; one to what has changed since is none.
    kept = {step.id or "": step.wanted or "" for step in result.answered}
    try:
        Path(path).write_text(answers.render(asked, kept, name=path), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    click.echo(f"{path}: {_counted(len(asked), 'question')}, {len(result.questions)} open", err=True)
    for name in sorted(given.keys() - {step.id for step in asked}):
        click.echo(f"{path}: left out, since no question needs it: {one_line(name)}", err=True)


def _told(result: Plan, width: int, x: Sequence[str], *, local: bool, file: str | None) -> Iterator[str]:
    if result.stoppers:
        yield styled(_counted(len(result.stoppers), "thing stands", "things stand") + " in the way:", "problem")
        for number, stopper in enumerate(result.stoppers, start=1):
            yield ""
            yield from _stopper(number, stopper, width)
        yield ""
    if result.questions:
        yield styled(_counted(len(result.questions), "question is", "questions are") + " open:", "problem")
        for number, question in enumerate(result.questions, start=1):
            yield ""
            yield from _question(number, question, width)
        yield ""
    if result.answered:
        yield "Answered:"
        for question in result.answered:
            consequence = (question.answers or {}).get(question.wanted or "", "").partition("\n")[0]
            yield from _wrapped(
                f"  {one_line(question.id or '')} = {question.wanted}: {consequence}", width, indent="    "
            )
        yield ""
    if result.steps:
        yield from _sections(result, width)
    yield from _notes(result, width)
    yield from _wrapped(_sum(result), width)
    yield from _next(result, x, local=local, file=file)
    # Ids are not broken: they are copied.
    yield from [result.verdict] if result.stoppers or result.questions else _wrapped(result.verdict, width)


def _stopper(number: int, stopper: Step, width: int) -> Iterator[str]:
    rows = f", {_counted(stopper.rows, 'row')}" if stopper.rows else ""
    yield from _wrapped(
        f"{number:2}. {stopper.object}: {stopper.found}{rows}; wanted: {stopper.wanted}.", width, indent="    "
    )
    yield from _advice(stopper.remedy or "", width, indent="    ")


def _question(number: int, question: Step, width: int) -> Iterator[str]:
    yield from _wrapped(f"{number:2}. {question.object}: {question.found}.", width, indent="    ")
    yield f"    id: {one_line(question.id or '')}"
    for answer, consequence in (question.answers or {}).items():
        short = consequence.partition("\n")[0]
        yield from _wrapped(f"    {answer}: {short}", width, indent="      ")


def _advice(advice: str, width: int, *, indent: str) -> Iterator[str]:
    """Words are wrapped; a command stands on a line of its own, whole, to be copied."""
    words, command = advice, ""
    if runs := _ABOUT_TO_RUN.fullmatch(advice):
        words, command = runs.groups()
    yield from _wrapped(f"{indent}{words}", width, indent=indent)
    if command:
        yield f"{indent}  {command}"


def _sections(result: Plan, width: int) -> Iterator[str]:
    rows, titles = [], []
    for revision in dict.fromkeys(step.revision for step in result.steps):
        steps = [step for step in result.steps if step.revision == revision]
        table = next((step for step in steps if step.takes_over), None)
        name = table.object if table else ""
        titles.append(_title(result, revision, table))
        rows.append([_cells(step, name) for step in _merged(_summaries_left_out(steps), name)])
    widths = _widths([cells for section in rows for cells in section], width)
    for title, section in zip(titles, rows, strict=True):
        yield from _wrapped(title, width)
        yield from _row(_HEADS, widths)
        yield _GAP.join("-" * each for each in widths)
        for cells in section:
            yield from _row(cells, widths)
        yield ""
    used = {step.lock or "" for step in result.steps}
    for lock, (short, meaning) in _LOCKS.items():
        if any(each.startswith(lock) for each in used):
            yield f"lock {short}: {lock}, {meaning}"
    yield ""


def _title(result: Plan, revision: str, table: Step | None) -> str:
    if table is None:
        taking = [step.revision for step in result.steps if step.takes_over]
        when = "Afterwards, in" if any(each < revision for each in taking) else "First, in" if taking else "In"
        return f"{when} {revision}:"
    return (
        f"{table.object}, {_counted(table.rows or 0, 'row')}, in {revision};"
        f" locked for {_about(result.locked_seconds[table.object])}:"
    )


def _summaries_left_out(steps: Iterable[Step]) -> list[Step]:
    """Without the steps that carry out what those right before them say one by one; these get the lock instead."""
    result: list[Step] = []
    said: list[Step] = []
    for step in steps:
        if step.statement is None:
            said.append(step)
        elif not step.takes_over:
            sums_up = bool(said) and step.object == step.table
            result += [replace(each, lock=step.lock) if sums_up else each for each in said]
            result += [] if sums_up else [step]
            said = []
    return [*result, *said]


def _merged(steps: Iterable[Step], table: str) -> list[Step]:
    """Steps that differ only in the object become one."""
    groups: dict[tuple[str | None, ...], list[Step]] = {}
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


def _cells(step: Step, table: str) -> list[str]:
    short, where = "", ""
    for lock, (word, _) in _LOCKS.items():
        if (step.lock or "").startswith(lock):
            short, where = word, (step.lock or "").removeprefix(lock)
    wanted = _shorter(step.wanted, table)
    if step.action == "add" and "," in wanted:
        wanted = f"{wanted.count(',') + 1} columns: {wanted}"
    return [
        step.action,
        step.object,
        _shorter(step.found, table),
        wanted,
        short + where.replace(" on ", ", ", 1).replace(", too", ""),
        "" if step.rows is None else f"{step.rows:,}",
        "" if step.seconds is None else _seconds(step.seconds),
    ]


def _shorter(definition: str | None, table: str) -> str:
    shown = definition or ""
    for pattern, instead in _SHORTER:
        shown = re.sub(pattern, instead, shown)
    return shown.replace(f"{table}(", f"{table.removeprefix('public.')}(")


def _widths(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    natural = [max(len(cells[i]) for cells in [_HEADS, *rows]) for i in range(len(_HEADS))]
    natural[4] = max(len(word) for cells in [_HEADS, *rows] for word in cells[4].split())
    free = width - len(_GAP) * (len(_HEADS) - 1) - sum(natural[i] for i in range(len(_HEADS)) if i not in _FLEXIBLE)
    # The rest is shared out in even parts; what one does not need, the others get.
    for place, column in enumerate(sorted(_FLEXIBLE, key=lambda i: natural[i])):
        natural[column] = max(min(natural[column], free // (len(_FLEXIBLE) - place)), _LEAST)
        free -= natural[column]
    return natural


def _row(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    wrapped = [_cell(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for line in range(max(map(len, wrapped))):
        parts = [lines[line] if line < len(lines) else "" for lines in wrapped]
        aligned = [
            part.rjust(width) if i > max(_FLEXIBLE) + 1 else part.ljust(width)
            for i, (part, width) in enumerate(zip(parts, widths, strict=True))
        ]
        yield _GAP.join(aligned).rstrip()


def _cell(cell: str, width: int) -> list[str]:
    """Lines of at most this width; only a word that is longer is broken, after underscores and the like."""
    lines = [""]
    for word in cell.split():
        pieces = [word] if len(word) <= width else re.findall(r"[^_.,(]*[_.,(]|[^_.,(]+", word)
        for i, piece in enumerate(pieces):
            blank = " " if i == 0 and lines[-1] else ""
            if len(lines[-1]) + len(blank) + len(piece) <= width:
                lines[-1] += blank + piece
            else:
                lines += [piece[at : at + width] for at in range(0, len(piece), width)]
    if not lines[0]:
        lines = lines[1:] or [""]
    if len(lines) > _CELL_LINES:
        lines = [*lines[: _CELL_LINES - 1], f"{lines[_CELL_LINES - 1][: width - 2]} …"]
    return lines


def _notes(result: Plan, width: int) -> Iterator[str]:
    if not result.worth_knowing:
        return
    yield "Worth knowing:"
    for note in result.worth_knowing:
        about = "; ".join(filter(None, [note.found, note.wanted])) if note.action == "note" else note.action
        yield from _wrapped(f"  {note.object} ({about})", width, indent="    ")
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
    parts = [f"{_counted(result.quarantined, 'row')} to profiles_internal.quarantine"] if result.quarantined else []
    parts += [_counted(steps, "step"), f"{_counted(result.rows, 'row')} to change"]
    parts.append(f"{_about(result.seconds)} in all")
    if result.locked_seconds:
        table, seconds = max(result.locked_seconds.items(), key=lambda item: item[1])
        parts.append(f"{table} locked for {_about(seconds)} of it (ACCESS EXCLUSIVE)")
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


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _about(seconds: float) -> str:
    shown = _seconds(seconds)
    return f"less than {shown[1:]}" if shown.startswith("<") else f"about {shown}"


def _seconds(seconds: float) -> str:
    tenth, minute, hour = 0.1, 90, 5400
    if seconds < tenth:
        return "<0.1 s"
    if seconds < minute:
        return f"{seconds:.1f} s" if seconds < minute / 9 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < hour else f"{seconds / 3600:.1f} h"


def _wrapped(line: str, width: int, *, indent: str = "") -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
