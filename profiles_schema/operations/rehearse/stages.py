"""The steps of a rehearsal."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from profiles_schema import local
from profiles_schema.driver import execute_literally, server_message, sqlstate
from profiles_schema.errors import CopyFailed, DataLossRefused, ProfilesSchemaError, SchemaDrift
from profiles_schema.migrations import paths, summary
from profiles_schema.migrations.options import parse
from profiles_schema.migrations.runner import COMMAND
from profiles_schema.operations import adopt, backfill, normalize
from profiles_schema.operations.health import current_revision, examine
from profiles_schema.operations.rehearse import contents, mask, probes
from profiles_schema.operations.rehearse.copy import Copy, make_copy
from profiles_schema.operations.rehearse.messages import MessageRecorder
from profiles_schema.operations.rehearse.result import Rehearsal, RehearsalFinding, RehearsalStep
from profiles_schema.operations.rehearse.source import SCHEMAS, Source, summarize_source
from profiles_schema.operations.smoke import insert_user, smoke
from profiles_schema.schema.catalog import differences
from profiles_schema.settings import INTERNAL_SCHEMA

logger = logging.getLogger("profiles_schema.rehearse")

# Tables in which a migration writes down what it did: rows more are no surprise there.
_RECORDS = frozenset({"profiles_internal.migration_log", "profiles_internal.jobs", "public.user_profile_audit_logs"})
_COPYING = frozenset({"copy", "before"})
_ALLOW_LOSS = "allow-data-loss=yes"


class _StepFailed(Exception):
    """A step ended early; its findings are recorded."""


class Stages:
    """Runs the steps of one rehearsal, one after the other, and keeps what each has found."""

    def __init__(
        self,
        source: Source,
        place: local.TemporaryServer,
        x: list[str],
        wanted: list[probes.Probe],
        interrupted: Callable[[], None],
        *,
        masked: bool = False,
    ) -> None:
        self.masked = masked
        self.probes = wanted
        self.probed: list[probes.Outcome] = []
        self.interrupted = interrupted
        self.source = source
        self.place = place
        self.x = x
        self.schemas = list(dict.fromkeys([*SCHEMAS, *source.further]))
        self.result = Rehearsal(source=summarize_source(source))
        self.copy: Copy
        self.before: contents.Contents
        self.counts: summary.Counts

    def run(self) -> Rehearsal:
        """Run all of them; what an upgrade refuses is in the result."""
        self._do("copy", self._copy)
        self._do("before", self._look)
        probed = bool(self.probes) and self._do("probe before", self._probe)
        upgraded = self._do("upgrade", self._upgrade)
        if upgraded:
            self._do("finish", self._finish)
            if probed:
                self._do("probe after", self._probe_again)
            self._do("verify", self._verify)
            self._do("sign-up", self._sign_up)
        moved = self._revision() != self.result.revision
        back = self._do("downgrade", self._downgrade) if moved else True
        if back:
            self._do("compare", self._compare)
        if upgraded and back and moved:
            self._do("upgrade again", self._upgrade_again)
        return self.result

    # Bookkeeping

    def _do(self, name: str, work: Callable[[RehearsalStep], None]) -> bool:
        step = RehearsalStep(name)
        started = time.monotonic()
        logger.info("%s ...", name)
        try:
            work(step)
        except _StepFailed:
            step.outcome = "failed"
        except DBAPIError as error:
            self.interrupted()
            message = f"{server_message(error)} (SQLSTATE {sqlstate(error) or 'none'})"
            if name in _COPYING:
                raise CopyFailed(f"The copy could not be made: {message}. Nothing of it is left.") from error
            self._find(name, message)
            step.outcome = "failed"
        except ProfilesSchemaError as error:
            self.interrupted()
            if name in _COPYING:
                raise
            self._find(name, str(error))
            step.outcome = "failed"
        self.interrupted()
        step.seconds = round(time.monotonic() - started, 3)
        self.result.steps.append(step)
        logger.info("%s: %s, %.2f s%s", name, step.outcome, step.seconds, f"; {step.detail}" if step.detail else "")
        return step.outcome == "done"

    def _find(self, step: str, message: str) -> None:
        self.result.findings.append(RehearsalFinding(step, message))

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Connection]:
        """A transaction as the superuser of the copy."""
        with self.copy.engine().begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _deployer(self) -> Iterator[Connection]:
        """A connection as the role that would deploy."""
        with self.copy.engine(self.copy.role).connect() as connection:
            yield connection

    def _revision(self) -> str | None:
        with self._worker() as connection:
            return current_revision(connection)

    # The steps

    def _copy(self, step: RehearsalStep) -> None:
        self.copy = make_copy(self.source, self.place.server, self.place.private)
        self.result.role = self.copy.role
        self.result.not_copied = self.copy.not_copied
        for failed in self.copy.failed_tables:
            self._find("copy", f"not copied, so not rehearsed: {failed}")
        if not self.source.deploys:
            self.result.notes.append(
                f'role "{self.source.role}" may not create objects in the source, so the upgrade ran as a superuser of the copy:'
                " rights are not rehearsed"
            )
        step.data["archive_bytes"] = self.copy.archive_bytes
        if self.masked:
            with self._worker() as connection:
                left = mask.mask(connection, parse(self.x).values["adopt-table"])
            with self.copy.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                mask.rewrite(connection)
            self.result.notes.append(
                "personal values are masked in the columns that this package knows, and in registered tables; every other"
                f" table is as in the source{', and so are ' + ', '.join(left) if left else ''}"
            )

    def _look(self, step: RehearsalStep) -> None:
        with self._worker() as connection:
            self.result.revision = current_revision(connection)
            size = connection.scalar(text("select pg_database_size(current_database())"))
            self.before = contents.remember(connection, self.schemas, self.source.without_rows)
        with self.copy.engine().connect() as connection:
            self.counts = summary.count(connection)
        copied = self.result.step("copy")
        number = len(self.before.tables)
        if copied:
            copied.detail = f"{number} tables, {self.before.rows} rows, {size / 1e6:.1f} MB"
            copied.data |= {"tables": number, "rows": self.before.rows, "bytes": size}
        step.detail = f"{self.counts}; at {self.result.revision or 'base'}"
        step.data = self._counted(self.counts) | {
            "catalog_entries": len(self.before.catalog),
            "tables": {
                table.name: {"rows": table.rows, "checksum": table.checksum} for table in self.before.tables.values()
            },
        }

    @staticmethod
    def _counted(counts: summary.Counts) -> dict[str, Any]:
        return {"users": counts.users, "profiles": counts.profiles, "missing": counts.missing}

    def _migrate(self, step: RehearsalStep, verb: str, revision: str, *more: str) -> None:
        """Run a migration as the deploying role; its own message is the finding."""
        from alembic import command
        from alembic.util import CommandError

        recorder = MessageRecorder()
        try:
            with recorder.recording(), self._deployer() as connection:
                config = paths.config(x=[*self.x, *more])
                config.attributes["connection"] = connection
                getattr(command, verb)(config, revision)
        except DataLossRefused:
            raise
        except (ProfilesSchemaError, CommandError) as error:
            self._find(step.name, str(error))
            raise _StepFailed from error
        finally:
            step.data["messages"] = recorder.lines
            step.data["revisions"] = recorder.revisions
            step.data["adopted"] = recorder.adopted
        self.result.notes += [f"{step.name} says: {line}" for line in recorder.warnings]

    def _upgrade(self, step: RehearsalStep) -> None:
        with self._deployer() as connection:
            planned = adopt.plan(connection, x=self.x)
        if planned.questions and not planned.stoppers:
            self.result.questions = [question.id or "" for question in planned.questions]
            write = "profiles-schema adopt --dry-run --write-answers adopt.toml"
            self._find(step.name, f"{planned.verdict} To write the file of answers: {write}")
            raise _StepFailed
        self._migrate(step, "upgrade", "head")
        revisions = step.data["revisions"]
        if not revisions:
            step.detail = "nothing to do: the source is at the newest revision"
            return
        slowest = max(revisions, key=lambda row: row["seconds"])
        step.detail = f"{len(revisions)} revisions; the longest {slowest['revision']}, {slowest['seconds']:.2f} s"

    def _finish(self, step: RehearsalStep) -> None:
        """What an upgrade leaves to commands of its own, because there is much of it."""
        with self._deployer() as connection:
            missing = backfill.count_missing(connection)
            connection.rollback()
            if missing:
                started = time.monotonic()
                for _ in backfill.backfill(connection):
                    pass
                seconds = time.monotonic() - started
                self.result.notes.append(
                    f"the upgrade leaves {missing} profiles to `profiles-schema backfill`, which took {seconds:.1f} s here"
                )
                step.data["backfill"] = {"missing": missing, "seconds": round(seconds, 3)}
        with self._deployer() as connection:
            phase = normalize.status(connection).phase
            connection.rollback()
            if phase == "expanded":
                started = time.monotonic()
                for _ in normalize.convert(connection):
                    pass
                seconds = time.monotonic() - started
                self.result.notes.append(
                    f"the upgrade leaves wide columns to `profiles-schema normalize run`, which took {seconds:.1f} s here"
                )
                step.data["normalize"] = {"seconds": round(seconds, 3)}
        step.detail = "done here: " + ", ".join(step.data) if step.data else "nothing is left to later commands"

    def _probe(self, step: RehearsalStep) -> None:
        self.probed = self._run_probes(step)

    def _probe_again(self, step: RehearsalStep) -> None:
        """What differs goes to the result alone: it holds values, and a step's detail is logged."""
        after = self._run_probes(step)
        self.result.differences = probes.differences(self.probed, after)
        self.result.notes += probes.remarks(self.probed, after)
        for difference in self.result.differences:
            self._find(step.name, str(difference))
        number = len(self.result.differences)
        step.data["differences"] = number
        if number:
            step.outcome = "failed"
        step.detail = f"{number} of {len(after)} probes differ" if number else f"{step.detail}; all as before"

    def _run_probes(self, step: RehearsalStep) -> list[probes.Outcome]:
        outcomes = []
        with self.copy.engine().connect() as connection:
            for probe in self.probes:
                outcomes += probes.run(connection, [probe], owner=self.copy.role)
                self.interrupted()
        refused = sum(outcome.sqlstate is not None for outcome in outcomes)
        step.data |= {"probes": len(outcomes), "refused": refused}
        step.detail = f"{len(outcomes)} probes, {refused} of them refused"
        return outcomes

    def _verify(self, step: RehearsalStep) -> None:
        with self._deployer() as connection:
            health = examine(connection, full=True)
            connection.rollback()
            for problem in health.problems:
                self._find(
                    "verify", f"health: {problem.message}" + (f" Next: {problem.remedy}" if problem.remedy else "")
                )
        with self._deployer() as connection:
            tried = list(smoke(connection))
            for each in tried:
                if not each.passed:
                    self._find("verify", f"smoke: {each.name}: {each.detail}")
        drift = self._drift()
        for line in drift:
            self._find("verify", f"check: {line}")
        with self._deployer() as connection:
            phase = normalize.status(connection).phase
            connection.rollback()
            wide = normalize.Differences()
            if phase in {"expanded", "converted"}:
                for _ in normalize.verify(connection, differences=wide):
                    pass
        different = sum(wide.columns.values())
        if different:
            columns = ", ".join(f"{name} ({number})" for name, number in wide.columns.items())
            self._find("verify", f"normalize verify: {different} values differ between column and JSON: {columns}")
        with self.copy.engine().connect() as connection:
            after = summary.count(connection)
        passed = sum(each.passed for each in tried)
        step.data = self._counted(after) | {
            "health": [problem.message for problem in health.problems], "smoke": [passed, len(tried)], "drift": drift,
            "wide_values_different": different,
        }  # fmt: skip
        if any(finding.step == "verify" for finding in self.result.findings):
            step.outcome = "failed"
        step.detail = f"{after}; smoke {passed} of {len(tried)}"

    def _drift(self) -> list[str]:
        from alembic import command

        with self._deployer() as connection:
            config = paths.config(x=self.x)
            config.attributes |= {"connection": connection, COMMAND: "check"}
            config.stdout = StringIO()
            try:
                command.check(config)
            except SchemaDrift as found:
                return found.differences
            except ProfilesSchemaError as error:
                return [str(error)]
        return []

    def _sign_up(self, step: RehearsalStep) -> None:
        """A user who stays for a moment: what deferred triggers refuse shows only at a commit."""
        user = uuid.uuid4()
        with self._worker() as connection:
            began = connection.scalar(text("select clock_timestamp()"))
            owner = connection.scalar(
                text("select quote_ident(tableowner) from pg_tables where schemaname = 'auth' and tablename = 'users'")
            )
        try:
            with self._worker() as connection:
                # As an auth server does: as the owner of the table, with its search path.
                execute_literally(connection, f"set local role {owner}")
                connection.exec_driver_sql("set local search_path = auth")
                insert_user(connection, user, f"rehearsal@{user.hex}.invalid", "Rehearsal")
            with self._worker() as connection:
                profiles = connection.scalar(
                    text("select count(*) from public.user_profiles where user_id = :id"), {"id": user}
                )
                failure = connection.scalar(
                    text("select max(error_code) from public.user_profile_audit_logs where user_id = :id"), {"id": user}
                )
        finally:
            with self._worker() as connection:
                connection.execute(text("delete from auth.users where id = :id"), {"id": user})
                connection.execute(
                    text("delete from public.user_profile_audit_logs where created_at >= :began"), {"began": began}
                )
        if profiles != 1:
            self._find("sign-up", f"a sign-up commits without a profile (SQLSTATE {failure or 'not recorded'})")
            raise _StepFailed
        step.detail = "a sign-up made its profile"

    def _downgrade(self, step: RehearsalStep) -> None:
        target = self.result.revision or "base"
        try:
            self._migrate(step, "downgrade", target)
        except DataLossRefused as refused:
            # Rows that the upgrade itself made; what was there before is compared below.
            self.result.notes.append(f"downgrade asks first: {refused}")
            step.data["refused"] = str(refused)
            try:
                self._migrate(step, "downgrade", target, _ALLOW_LOSS)
            except DataLossRefused as error:
                self._find("downgrade", str(error))
                raise _StepFailed from error
        step.detail = f"to {target}" + (" with -x allow-data-loss=yes" if "refused" in step.data else "")

    def _compare(self, step: RehearsalStep) -> None:
        with self._worker() as connection:
            lines = differences(self.before.catalog, contents.catalog(connection, self.schemas))
            rows = contents.row_changes(connection, self.before, self.schemas)
            roles = contents.new_roles(connection, self.before)
            at = current_revision(connection)
        if roles:
            self.result.notes.append(f"roles stay: {', '.join(roles)}")
        own = [line for line in lines if f" {INTERNAL_SCHEMA}" in line]
        if at is None and f"schema {INTERNAL_SCHEMA}: not expected" in own:
            # The runner makes it before the first revision.
            lines = [line for line in lines if line not in own]
            self.result.notes.append(f"schema {INTERNAL_SCHEMA} stays, with an empty version table")
        for line in lines:
            self._find("compare", f"not as it was: {line}")
        for change in rows:
            if change.missing or change.changed or change.columns:
                self._find("compare", f"not as it was: {change}")
            else:
                reason = (
                    "what was written down about the upgrade" if change.table in _RECORDS else "made by the upgrade"
                )
                self.result.notes.append(f"{change} ({reason}) stay after a downgrade")
        step.data = {"catalog": lines, "rows": [change.as_dict() for change in rows], "roles": roles}
        if any(finding.step == "compare" for finding in self.result.findings):
            step.outcome = "failed"
        step.detail = (
            f"{len(lines)} objects and {sum(bool(c.missing or c.changed or c.columns) for c in rows)} tables differ"
            if step.outcome == "failed"
            else f"{len(self.before.catalog)} catalog entries and {self.before.rows} rows as they were"
        )

    def _upgrade_again(self, step: RehearsalStep) -> None:
        self._migrate(step, "upgrade", "head")
        step.detail = f"{len(step.data['revisions'])} revisions"
