"""Copy the live SQL files into the unreleased revisions that hold them: `make freeze`.

A revision carries a frozen copy of each object inside `op.execute`. Until the revision is released, that copy must
equal the live file; this script rewrites it, so that nobody edits twice. A revision up to RELEASED is never touched:
a change to an object that it holds needs a new revision (`make revision`).

`--check` changes nothing, prints what is stale, and exits with 1 if anything is.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

from profiles_schema.schema import objects
from profiles_schema.schema.objects import SqlObject

RELEASED: str | None = None
"""The newest revision that is part of a release; None before the first one."""

VERSIONS = Path(__file__).parents[1] / "alembic" / "versions"
_WRAPPED = re.compile(r"(?<=execute \$frozen\$\n).*?(?=\$frozen\$;)", re.DOTALL)


def literals(source: str) -> list[tuple[int, int]]:
    """Where the raw SQL literals of `op.execute` begin and end, without their quotes."""
    return [match.span(1) for match in re.finditer(r'op\.execute\(\s*r"""\n(.*?)"""', source, re.DOTALL)]


def opening(sql_object: SqlObject) -> str:
    """The words by which a copy of an object is recognised, also when its parameters have changed."""
    code = re.sub(r"\A(--[^\n]*\n)+", "", sql_object.text).splitlines()[0]
    return code.partition("(")[0]


def freeze(source: str, sql_object: SqlObject) -> str | None:
    """A revision's source with the live text of an object; None if the revision does not hold it."""
    for start, end in literals(source):
        block = source[start:end]
        for inner in [*_WRAPPED.finditer(block), None]:
            first, last = (start + inner.start(), start + inner.end()) if inner else (start, end)
            code = re.sub(r"\A(--[^\n]*\n)+", "", source[first:last])
            if code.startswith(opening(sql_object)) and not re.match(r"\w", code[len(opening(sql_object)) :]):
                return source[:first] + sql_object.text + source[last:]
    return None


def main() -> int:
    """Rewrite the stale copies, or only name them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a copy is stale")
    check = parser.parse_args().check
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(VERSIONS.glob("*.py"))}
    failed = False
    for sql_object in objects.inventory():
        newest = next(((p, s) for p in reversed(sources) if (s := freeze(sources[p], sql_object)) is not None), None)
        if newest is None:
            print(f"{sql_object}: no revision creates it. Add an op.execute block, or run `make revision`.")
            failed = True
            continue
        path, wanted = newest
        if wanted == sources[path]:
            continue
        if RELEASED is not None and path.stem <= RELEASED:
            print(f"{sql_object}: {path.stem} is released. Write a new revision: make revision m='...'")
            failed = True
            continue
        print(f"{sql_object}: {'stale in' if check else 'copied into'} {path.stem}")
        failed |= check
        sources[path] = wanted
        ast.parse(wanted)
        if not check:
            path.write_text(wanted, encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
