"""Probes: the application's own statements, run before and after an upgrade, and compared.

A file of probes is plain SQL. Comment lines before a statement say who runs it:

    -- as authenticated 11111111-1111-4111-8111-111111111111
    -- name: Ada reads what her friends wrote
    select id, title from posts;

Every statement runs in a transaction of its own that is rolled back. What it returned is personal data: it goes to the caller,
never to a log.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from profiles_schema.errors import UsageError

OWNER: Final = "owner"
API_ROLES: Final = ("anon", "authenticated", "service_role")

_SHOWN_ROWS: Final = 10
_RAISED: Final = "P0001"
_TOKEN = re.compile(
    r"""
      (?P<line> --[^\n]* )
    | (?P<block> /\* )
    | (?P<dollar> \$(?:[^\W\d]\w*)?\$ )
    | (?P<escape> [eE]'(?:[^'\\]|\\.|'')*' )
    | (?P<string> '(?:[^']|'')*' )
    | (?P<quoted> "(?:[^"]|"")*" )
    | (?P<unclosed> '|" )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<number> \d[\w.]* )
    | (?P<space> \s+ )
    | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_DIRECTIVE = re.compile(r"--\s*(?:(?P<as>as)\s+(?P<who>.*)|name:\s*(?P<name>.*))", re.IGNORECASE)
_WHO = re.compile(r"(?P<role>\w+)(?:\s+(?P<user>[^\s{]\S*))?(?:\s+(?P<claims>\{.*\}))?")
# Their work would outlast the transaction, or they need more than a statement.
_REFUSED = frozenset({"abort", "begin", "commit", "copy", "end", "release", "rollback", "savepoint", "start"})
# How a value arrives in JSON; everything else is text there.
_KINDS = {
    **dict.fromkeys((20, 21, 23, 700, 701, 1700), "number"), 16: "boolean", **dict.fromkeys((114, 3802), "json"),
}  # fmt: skip
_SETTINGS: Final = {
    "timezone": "UTC", "datestyle": "ISO, YMD", "intervalstyle": "postgres", "bytea_output": "hex", "extra_float_digits": "1",
}  # fmt: skip
_SEQUENCES: Final = """
select format('%I.%I', schemaname, sequencename) as name, last_value, start_value from pg_sequences
"""
_OWN_PATH: Final = """
select substr(entry, length('search_path=') + 1) from pg_db_role_setting as s, unnest(s.setconfig) as u (entry)
where s.setrole = (select oid from pg_roles where rolname = :owner) and entry like 'search_path=%'
  and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
order by s.setdatabase desc limit 1
"""


@dataclass(frozen=True)
class Probe:
    """One statement, who runs it, and where it comes from."""

    place: str
    statement: str
    role: str = OWNER
    user: str | None = None
    claims: str | None = None
    """The claims of the request, as JSON; None for the owner, who comes without a request."""
    name: str = ""
    ordered: bool = False
    """Whether it says in which order its rows come."""

    def __str__(self) -> str:
        who = f"{self.role} {self.user}" if self.user else self.role
        return " ".join(filter(None, [self.place, self.name, f"as {who}"]))


@dataclass(frozen=True)
class Outcome:
    """What a probe returned: rows with all values as text, a number of rows, or an error."""

    probe: Probe
    columns: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    count: int = 0
    sqlstate: str | None = None
    message: str | None = None

    @property
    def summary(self) -> str:
        """One line without values of rows."""
        if self.sqlstate is not None:
            return f"error {self.sqlstate}: {self.message}"
        return f"{self.count} {'row' if self.count == 1 else 'rows'}"


@dataclass(frozen=True)
class Difference:
    """A probe that means something else after the upgrade."""

    before: Outcome
    after: Outcome
    columns: str = ""
    """Which columns are gone, or arrive as another kind of JSON value."""

    @property
    def probe(self) -> Probe:
        """The probe."""
        return self.after.probe

    def __str__(self) -> str:
        return f"{self.probe}: {self.before.summary} before, {self.after.summary} after" + (
            f"; {self.columns}" if self.columns else ""
        )

    def sides(self) -> tuple[list[str], list[str]]:
        """What was before and what is after, a line each. Rows on both sides are left out, unless only their order differs."""
        before, after = _comparable(self.before, self.after)
        alike = Counter(before) & Counter(after)
        if Counter(before) == Counter(after):
            alike = Counter()
        left, right = (
            [side.summary, *_few([_line(row) for row in (Counter(rows) - alike).elements()])]
            for side, rows in ((self.before, before), (self.after, after))
        )
        return left, right


# Files


def read(paths: Sequence[Path]) -> list[Probe]:
    """The probes of some files.

    Raises:
        UsageError: a file cannot be read, holds no statement, or names somebody unknown.
    """
    probes: list[Probe] = []
    for path in paths:
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UsageError(f"The probes in {path} cannot be read: {reason}.") from None
        probes += parse(content, path.name)
    return probes


def parse(content: str, source: str) -> list[Probe]:
    """The probes of a file's content; ``source`` is what it is called.

    Raises:
        UsageError: there is no statement, a comment names somebody unknown, a quote is not closed, or a statement would leave
            its transaction.
    """
    probes: list[Probe] = []
    who: dict[str, Any] = {"role": OWNER}
    name = ""
    for start, tokens in _statements(content, source):
        place = f"{source}:{content.count(chr(10), 0, start) + 1}"
        words = [(kind, value.lower()) for kind, value, _ in tokens if kind not in {"line", "block", "space"}]
        for kind, value, at in tokens:
            directive = _DIRECTIVE.match(value) if kind == "line" else None
            line = f"{source}:{content.count(chr(10), 0, at) + 1}"
            if directive and at > start and words:
                raise UsageError(f'{line}: "{value.strip()}" is inside a statement. Is a semicolon missing before it?')
            if directive and directive["as"]:
                who = _who(directive["who"].strip(), line)
            elif directive:
                name = directive["name"].strip()
        if not words:
            continue
        if words[0][1] in _REFUSED or (words[0][1], words[-1][1]) == ("prepare", "transaction"):
            raise UsageError(
                f"{place}: {words[0][1].upper()} cannot be a probe: each statement runs in a transaction of its own."
            )
        statement = content[start : tokens[-1][2] + len(tokens[-1][1])].strip()
        probes.append(Probe(place, statement, **who, name=name, ordered=_orders(words)))
        name = ""
    if not probes:
        raise UsageError(f"{source} holds no statement to probe with.")
    return probes


_Token = tuple[str, str, int]


def _statements(content: str, source: str) -> Iterator[tuple[int, list[_Token]]]:
    """The tokens between semicolons, and where the first that is no comment begins."""
    tokens: list[_Token] = []
    for token in _tokens(content, source):
        if token[1] == ";" and token[0] == "sign":
            yield _start(tokens), tokens
            tokens = []
        else:
            tokens.append(token)
    if tokens:
        yield _start(tokens), tokens


def _start(tokens: list[_Token]) -> int:
    return next(
        (at for kind, _, at in tokens if kind not in {"line", "block", "space"}), tokens[-1][2] if tokens else 0
    )


def _tokens(content: str, source: str) -> Iterator[_Token]:
    position = 0
    while match := _TOKEN.match(content, position):
        kind, at, end = str(match.lastgroup), match.start(), match.end()
        if kind == "block":
            end = _after_comment(content, at)
        elif kind == "dollar":
            end = content.find(match[0], end) + len(match[0])
            end = end if end > match.end() else -1
        if kind == "unclosed" or end < 0:
            line = content.count("\n", 0, at) + 1
            raise UsageError(f"{source}:{line}: {match[0]} is not closed.")
        yield kind, content[at:end], at
        position = end


def _after_comment(content: str, at: int) -> int:
    """Where a comment ends that may hold comments; -1 if it does not."""
    depth = 0
    for match in re.finditer(r"/\*|\*/", content[at:]):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return at + match.end()
    return -1


def _who(said: str, line: str) -> dict[str, Any]:
    match = _WHO.fullmatch(said)
    role = match["role"].lower() if match else ""
    user, more = (match["user"], match["claims"]) if match else (None, None)
    if role not in {OWNER, *API_ROLES}:
        raise UsageError(f'{line}: "-- as {said}" names no known role. Known: {OWNER}, {", ".join(API_ROLES)}.')
    if (role == "authenticated") != (user is not None):
        wanted = "needs the id of a user" if role == "authenticated" else "takes no user"
        raise UsageError(f'{line}: "-- as {said}": {role} {wanted}.')
    if role == OWNER:
        if more:
            raise UsageError(f'{line}: "-- as {said}": {OWNER} takes no claims.')
        return {"role": OWNER}
    try:
        further = json.loads(more) if more else {}
    except ValueError:
        raise UsageError(f'{line}: "-- as {said}": the claims are no JSON object.') from None
    claims = {"role": role, **({"sub": user, "aud": role} if user else {}), **further}
    return {"role": role, "user": user, "claims": json.dumps(claims)}


def _orders(words: list[tuple[str, str]]) -> bool:
    """Whether ORDER BY stands outside all parentheses."""
    depth, last = 0, ""
    for _, word in words:
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth == 0 and (last, word) == ("order", "by"):
            return True
        last = word
    return False


# Running


def run(connection: Connection, probes: Sequence[Probe], *, owner: str | None = None) -> list[Outcome]:
    """Run every probe and roll it back; sequences are set back, too.

    Args:
        connection: One of a role that may become those that the probes name: best a superuser's.
        probes: What to run.
        owner: Whom ``-- as owner`` means; by default the role of the connection.
    """
    return [_run(connection, probe, owner) for probe in probes]


def _run(connection: Connection, probe: Probe, owner: str | None) -> Outcome:
    connection.rollback()
    sequences = {row.name: row for row in connection.execute(text(_SEQUENCES))}
    try:
        return _outcome(connection, probe, owner)
    finally:
        if not (connection.closed or connection.invalidated):
            connection.rollback()
            _set_back(connection, sequences)
            connection.commit()


def _set_back(connection: Connection, sequences: dict[str, Any]) -> None:
    for name, value, _ in connection.execute(text(_SEQUENCES)).all():
        then = sequences.get(name)
        if then is not None and then.last_value != value:
            called = then.last_value is not None
            connection.execute(
                text("select setval(cast(:name as regclass), :value, :called)"),
                {"name": name, "value": then.last_value if called else then.start_value, "called": called},
            )


def _outcome(connection: Connection, probe: Probe, owner: str | None) -> Outcome:
    import psycopg2

    _settle(connection, probe, owner)
    role = owner if probe.role == OWNER else probe.role
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        known = (*psycopg2.extensions.string_types, *driver.string_types)
        psycopg2.extensions.register_type(
            psycopg2.extensions.new_type(known, "AS TEXT", lambda value, _: value), cursor
        )
        try:
            if role is not None:
                cursor.execute("select set_config('role', %s, true)", (role,))
            cursor.execute(probe.statement)
            columns = cursor.description or ()
            rows = tuple(cursor.fetchall()) if columns else ()
            count = cursor.rowcount
            cursor.execute("set constraints all immediate")
        except psycopg2.Error as error:
            if error.pgcode is None:
                raise
            return Outcome(probe, sqlstate=error.pgcode, message=error.diag.message_primary)
    return Outcome(
        probe,
        tuple(column.name for column in columns),
        tuple(_KINDS.get(column.type_code, "text") for column in columns),
        rows,
        max(count, 0),
    )


def _settle(connection: Connection, probe: Probe, owner: str | None) -> None:
    """For the rest of the transaction: claims and search path as PostgREST sets them, and one form for every text."""
    values = {**_SETTINGS, "request.jwt.claims": probe.claims or ""}
    if probe.role != OWNER:
        values["search_path"] = "public, extensions"
    elif owner is not None and (path := connection.scalar(text(_OWN_PATH), {"owner": owner})):
        values["search_path"] = path
    for name, value in values.items():
        connection.execute(text("select set_config(:name, :value, true)"), {"name": name, "value": value})


# Comparing


def differences(before: Sequence[Outcome], after: Sequence[Outcome]) -> list[Difference]:
    """The probes that mean something else now: other rows, another error, columns that are gone or of another kind.

    Further columns, and an error that only says the same in other words, are none: see ``remarks``.
    """
    found = []
    for old, new in zip(before, after, strict=True):
        columns = _columns(old, new)
        rows_before, rows_after = _comparable(old, new)
        same_rows = (
            rows_before == rows_after if old.probe.ordered else Counter(rows_before) == Counter(rows_after)
        ) and old.count == new.count
        said_otherwise = old.sqlstate == _RAISED and old.message != new.message
        if old.sqlstate != new.sqlstate or said_otherwise or not same_rows or columns:
            found.append(Difference(old, new, columns))
    return found


def remarks(before: Sequence[Outcome], after: Sequence[Outcome]) -> list[str]:
    """What is new and changes no meaning: further columns, and errors that say the same in other words."""
    lines = []
    for old, new in zip(before, after, strict=True):
        if old.sqlstate not in {None, _RAISED} and old.sqlstate == new.sqlstate and old.message != new.message:
            lines.append(f"{new.probe}: {old.message!r} has become {new.message!r}")
        if old.sqlstate is None and new.sqlstate is None and (more := [c for c in new.columns if c not in old.columns]):
            lines.append(f"{new.probe}: also returns {', '.join(more)}")
    return lines


def _columns(old: Outcome, new: Outcome) -> str:
    """Which columns are gone, or arrive as another kind of JSON value."""
    if old.sqlstate is not None or new.sqlstate is not None:
        return ""
    kinds = dict(zip(new.columns, new.kinds, strict=True))
    lines = [f"column {name} is gone" for name in old.columns if name not in kinds]
    lines += [
        f"column {name} was {kind}, is {kinds[name]}"
        for name, kind in zip(old.columns, old.kinds, strict=True)
        if kinds.get(name, kind) != kind
    ]
    return ", ".join(lines)


_Rows = tuple[tuple[str | None, ...], ...]


def _comparable(old: Outcome, new: Outcome) -> tuple[_Rows, _Rows]:
    """The rows of both; of the new ones only the columns that the old ones had, where these have names of their own."""
    places = [new.columns.index(name) for name in old.columns if name in new.columns]
    if len(places) < len(old.columns) or len({*places}) < len(places):
        return _settled(old.rows, old.kinds), _settled(new.rows, new.kinds)
    rows = tuple(tuple(row[place] for place in places) for row in new.rows)
    return _settled(old.rows, old.kinds), _settled(rows, tuple(new.kinds[place] for place in places))


def _settled(rows: _Rows, kinds: tuple[str, ...]) -> _Rows:
    """JSON in one form: json keeps blanks and the order of keys, jsonb does not, and they mean the same."""
    if "json" not in kinds:
        return rows
    return tuple(
        tuple(
            json.dumps(json.loads(value, parse_float=str), sort_keys=True, ensure_ascii=False)
            if value and kind == "json"
            else value
            for value, kind in zip(row, kinds, strict=True)
        )
        for row in rows
    )


def _line(row: Sequence[str | None]) -> str:
    values = ("NULL" if value is None else value for value in row)
    # A terminal must not obey what somebody wrote into a profile.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " | ".join(values))


def _few(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN_ROWS
    return lines if more <= 0 else [*lines[:_SHOWN_ROWS], f"and {more} more"]
