"""Tables as real applications have them, each with statements of its own; and one trial that takes a shape in and out again.

A shape is one file of ``shapes/real``: a header in TOML, the schema with its rows, ``-- probes``, and the probes. The header says

    modelled_on   in a sentence
    place         the fixture of its database (hosted_open unless it says otherwise)
    options       what follows -x
    questions     every question that is expected, and the answer to give; "a|b" where the word does not matter
    differs       the probes that may differ after the upgrade, by name, each because of a question that was asked, or of what
                  "plan: PATTERN" finds in the plan. A difference that neither names is silent, and a failure
    signs_up      what the table holds of a new user, by the columns of the application
    stops         where it cannot be taken over: a pattern for the reason
    like          another shape, whose schema and probes it has; nothing but the header is in the file then
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from profiles_schema.operations.rehearse import contents, probes
from profiles_schema.operations.rehearse.probes import Difference, Outcome, Probe
from support import REPOSITORY, Database, insert_user, profiles_schema, shapes
from support.shapes import Found

HERE = REPOSITORY / "tests" / "adoption" / "shapes"
NAMES = sorted(path.stem for path in (HERE / "real").glob("*.sql"))
ADA, BO = (f"{n * 8}-{n * 4}-4{n * 3}-8{n * 3}-{n * 12}" for n in "12")
_FILE = re.compile(
    r"\A/\*\n(?P<header>.*?)\*/\n(?:(?P<schema>.*)^-- probes\n(?P<probes>.*))?\Z", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Shape:
    """One file."""

    name: str
    modelled_on: str
    schema: str
    probes: list[Probe]
    place: str = "hosted_open"
    options: list[str] = field(default_factory=list)
    questions: dict[str, str] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)
    signs_up: dict[str, str] = field(default_factory=dict)
    stops: str = ""

    @property
    def table(self) -> str:
        """The table of profiles, by the name that the application gave it."""
        return next((o.partition("=")[2] for o in self.options if o.startswith("adopt-table=")), "user_profiles")

    @property
    def x(self) -> list[str]:
        """The options as arguments."""
        return [argument for option in self.options for argument in ("-x", option)]


def load(name: str) -> Shape:
    """Read the file of a shape."""
    content = (HERE / "real" / f"{name}.sql").read_text(encoding="utf-8")
    parts = _FILE.match(content)
    assert parts is not None, f"{name}: no header, or no probes"
    header = tomllib.loads(parts["header"])
    if like := header.pop("like", None):
        return replace(load(like), name=name, **header)
    return Shape(name, schema=parts["schema"], probes=probes.parse(parts["probes"], name), **header)


class Trial:
    """A shape goes in and out. ``problems`` says what was not as the header says, a line each."""

    def __init__(self, database: Database, shape: Shape, directory: Path) -> None:
        self.database = database
        self.shape = shape
        self.answers = directory / "adopt.toml"
        self.problems: list[str] = []
        self.asked: set[str] = set()
        self.seen: set[str] = set()
        self.plan = ""
        self.hosted = shape.place != "empty"
        self.found: Found
        self.before: list[Outcome]

    @cached_property
    def owner(self) -> str | None:
        """Whom the application connects as."""
        return "project_owner" if self.hosted else None

    def run(self, *, again: bool = True) -> list[str]:
        """The whole way: in, probes, sign-ups, out, and once more in for users who sign in again."""
        self.create()
        if self.shape.stops:
            self.refuse()
        elif self.upgrade():
            self.inspect()
            self.probe("probe")
            people = self.sign_up()
            if self.downgrade(people) and again and self.hosted and self.upgrade(again=True):
                self.sign_in()
                self.probe("probe after a sign-in")
        return self.problems

    def create(self) -> None:
        """Make the shape, look at it, and run its probes."""
        if self.hosted:
            self.database.administrator.script((HERE / "people.sql").read_text(encoding="utf-8"))
        self.database.script(self.shape.schema)
        with self.database.administrator.engine.begin() as connection:
            whole = contents.remember(connection, shapes.SCHEMAS, [])
            more = shapes.more(connection)
        self.found = Found(whole, more, set())
        self.before = self._probed()
        broken = [o for o in self.before if o.sqlstate in {"42601", "42P01", "42703", "42883"}]
        assert not broken, f"probes that never worked: {[(str(o.probe), o.message) for o in broken]}"

    # In

    def refuse(self) -> None:
        """It cannot be taken over: the plan says why, and the upgrade stops before the first change."""
        told = self._dry_run()
        reasons = json.dumps([told["stoppers"], told.get("questions", [])])
        if not re.search(self.shape.stops, reasons):
            self.problems.append(f"plan: nothing stops it that says {self.shape.stops}: {reasons}")
        self._dry_run(changes_nothing=True)
        done = self._call("upgrade", *self.shape.x)
        if done.returncode != 1:
            self.problems.append(f"upgrade: exit code {done.returncode} where it should refuse")
            return
        # The runner makes its own schema before the first revision.
        self.problems += [
            f"refused, and changed: {line}" for line in self._changes() if "profiles_internal" not in line
        ]
        self._compare("refused, and probe", self._probed())

    def upgrade(self, *, again: bool = False) -> bool:
        """Ask, answer and upgrade."""
        arguments = self.shape.x
        if not again:
            arguments += self._answer()
            self.arguments = arguments
        done = self._call("upgrade", *self.arguments)
        if done.returncode:
            self.problems.append(f"upgrade{' again' * again}: {_last(done.stderr)}")
            return False
        return True

    def _answer(self) -> list[str]:
        """Rounds of the dry run: an answer may lead to further questions."""
        told = self._dry_run()
        given: dict[str, str] = {}
        for _ in range(5):
            open_questions = told.get("questions", [])
            if told["stoppers"] or not open_questions:
                break
            given |= {question["id"]: self._answered(question) for question in open_questions}
            written = self._call("adopt", "--dry-run", *self.shape.x, "--write-answers", str(self.answers))
            ids = set(tomllib.loads(self.answers.read_text(encoding="utf-8")))
            if not {q["id"] for q in open_questions} <= ids | set(given):
                self.problems.append(f"plan: --write-answers leaves questions out: {_last(written.stderr)}")
            lines = (f"{json.dumps(k, ensure_ascii=False)} = {json.dumps(v)}" for k, v in given.items())
            self.answers.write_text("\n".join(lines), encoding="utf-8")
            told = self._dry_run("-x", f"answers={self.answers}")
        missing = [each for each in self.shape.questions if self._plain(each) not in self.asked]
        self.problems += [f"plan: does not ask {each}" for each in missing]
        self.problems += [f"plan: stops at {s['object']}: {s['found']}: {s['remedy']}" for s in told["stoppers"]]
        return ["-x", f"answers={self.answers}"] if given else []

    def asked_for(self) -> dict[str, str]:
        """The answers that the upgrade takes, by the ids that the plan uses."""
        self._answer()
        return tomllib.loads(self.answers.read_text(encoding="utf-8")) if self.answers.exists() else {}

    def _answered(self, question: dict[str, Any]) -> str:
        """The header's answer; without one a harmless guess, and a problem."""
        plain, possible = self._plain(question["id"]), list(question["answers"])
        self.asked.add(plain)
        wanted = {self._plain(key): value for key, value in self.shape.questions.items()}
        if plain not in wanted:
            self.problems.append(
                f"plan: asks {question['id']} ({question['found']}), which was not expected: {possible}"
            )
        for answer in (*wanted.get(plain, "").split("|"), "keep", "accept", *possible):
            if answer in possible:
                if plain in wanted and answer not in wanted[plain].split("|"):
                    self.problems.append(f"plan: {question['id']} takes {possible}, not {wanted[plain]}")
                return answer
        raise AssertionError(f"a question without answers: {question}")

    def _plain(self, question: str) -> str:
        """An id that does not depend on whether it names the table as it is called before or after."""
        return question.replace(":public.user_profiles", f":public.{self.shape.table}")

    def _dry_run(self, *more: str, changes_nothing: bool = False) -> dict[str, Any]:
        done = self._call("adopt", "--dry-run", "--json", *self.shape.x, *more)
        assert done.stdout, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        steps = [
            step for kind in ("stoppers", "questions", "answered", "steps", "notes") for step in told.get(kind, [])
        ]
        self.plan += "\n".join(
            " ".join(str(step.get(key) or "") for key in ("action", "object", "found", "wanted", "remedy"))
            for step in steps
        ) + "\n"  # fmt: skip
        if changes_nothing:
            self.problems += [f"plan: changed {line}" for line in self._changes()]
        return told

    # There

    def inspect(self) -> None:
        """Our own verbs are content."""
        for arguments in (["backfill"], ["check"], ["health", "--full"], ["smoke"]):
            done = self._call(*arguments)
            if done.returncode:
                output = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                told = [line for line in output if re.match(r"(problem|FAIL|error|check)", line)] or output
                self.problems.append(f"{' '.join(arguments)}: {' / '.join(told[:4])}")

    def probe(self, when: str) -> None:
        """Run the probes again, and compare."""
        self._compare(when, self._probed())

    def _probed(self) -> list[Outcome]:
        with self.database.administrator.engine.connect() as connection:
            return probes.run(connection, self.shape.probes, owner=self.owner)

    def _compare(self, when: str, after: Sequence[Outcome]) -> None:
        causes = {cause for cause in self.shape.differs.values() if not cause.startswith("plan: ")}
        for difference in probes.differences(self.before, after):
            cause = self.shape.differs.get(difference.probe.name) or self._standing(difference)
            causes.discard(cause or "")
            before, now = difference.sides()
            columns = f" [{difference.columns}]" if difference.columns else ""
            line = f"{difference.probe}: {before} has become {now}{columns}"
            if line not in self.seen and (cause is None or not self._named(cause)):
                self.problems.append(f"{when}: {line}" + (f"; {cause} does not name it" if cause else ""))
            self.seen.add(line)
        self.problems += [f"{when}: no probe differs because of {cause}" for cause in sorted(causes)]

    @staticmethod
    def _standing(difference: Difference) -> str | None:
        """anon, to whom no policy showed a row, may be refused: our tables have no right for anon. The plan has to say so."""
        empty = difference.before.sqlstate is None and difference.before.count == 0
        if difference.probe.role == "anon" and empty and difference.after.sqlstate == "42501":
            return r"plan: \banon\b"
        return None

    def _named(self, cause: str) -> bool:
        if cause.startswith("plan: "):
            return re.search(cause.removeprefix("plan: "), self.plan) is not None
        return self._plain(cause) in self.asked

    def sign_up(self) -> list[str]:
        """Three sign-ups as the auth server does them: with everything, with a phone, with nothing."""
        people: list[dict[str, Any]] = [
            {"email": "new.person@example.org", "raw_user_meta_data": {
                "full_name": "New Person", "name": "New Person", "avatar_url": "https://example.org/new.png"}},
            {"phone": "31600000099", "raw_user_meta_data": {}},
            {"is_anonymous": True},
        ]  # fmt: skip
        ids = []
        for columns in people:
            with self.database.auth_server() as connection:
                user = str(insert_user(connection, **columns))
            ids.append(user)
            rows = self.database.administrator.run(
                f'select to_jsonb(t) as row from public."{self.shape.table}" as t where to_jsonb(t)::text like :user',
                user=f"%{user}%",
            )
            if len(rows) != 1:
                errors = self.database.administrator.run(
                    "select error_code, metadata::text from public.user_profile_audit_logs where user_id = :user", user=user
                )  # fmt: skip
                self.problems.append(f"sign-up {columns}: {len(rows)} profiles; recorded: {errors}")
            elif user == ids[0]:
                for column, wanted in self.shape.signs_up.items():
                    value = rows[0].row.get(column)
                    shown = value if isinstance(value, str) or value is None else json.dumps(value)
                    if shown != wanted:
                        self.problems.append(f"sign-up: {column} is {shown!r}, not {wanted!r}")
        return ids

    def sign_in(self) -> None:
        """Everybody signs in again."""
        with self.database.auth_server() as connection:
            connection.exec_driver_sql("update users set last_sign_in_at = now(), updated_at = now()")

    # Out

    def downgrade(self, people: list[str]) -> bool:
        """Back to base; catalog and rows are as before, but for the profiles of new users."""
        done = self._call("downgrade", "base", "-x", "allow-data-loss=yes")
        if done.returncode:
            self.problems.append(f"downgrade: {_last(done.stderr)}")
            return False
        self.problems += [f"not as it was: {line}" for line in self._changes()]
        table = self.shape.table
        like = " or ".join(f"to_jsonb(t)::text like '%%{person}%%'" for person in people)
        with self.database.administrator.engine.begin() as connection:
            connection.exec_driver_sql(f'delete from public."{table}" as t where {like}')
            if self.hosted:
                connection.exec_driver_sql(f"delete from auth.users as t where {like}")
        return True

    def _changes(self) -> Iterator[str]:
        for line in shapes.changes(self.database, self.found):
            # New users have no value in a column that the plan relaxed; so the way back cannot require one.
            relaxed = re.match(r"column (\S+): '(.*) not null' has become '(.*)'$", line)
            if (
                not relaxed
                or relaxed[2] != relaxed[3]
                or not re.search(rf"^relax {re.escape(relaxed[1])}\b", self._by_old_name(), re.MULTILINE)
            ):
                yield line
        for change in shapes.row_changes(self.database, self.found):
            grew = change.table in {"auth.users", f"public.{self.shape.table}"}
            if change.missing or change.changed or change.columns or not grew:
                yield str(change)

    def _by_old_name(self) -> str:
        return self.plan.replace(" public.user_profiles", f" public.{self.shape.table}")

    def _call(self, *arguments: str) -> Any:
        return profiles_schema(self.database.url, *arguments)


def _last(output: str) -> str:
    lines = [line for line in output.strip().splitlines() if line.strip()]
    start = next((n for n, line in enumerate(lines) if line.startswith("error:")), max(len(lines) - 1, 0))
    return " / ".join(lines[start : start + 12])
