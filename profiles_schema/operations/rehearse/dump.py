"""Read the source into an archive, by pg_dump."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from profiles_schema import local
from profiles_schema.driver import quote_name
from profiles_schema.errors import CopyFailed, DatabaseUnreachable, ProfilesSchemaError, TableLocked
from profiles_schema.operations.rehearse.source import Source
from profiles_schema.settings import DATABASE_URL

_LOCK_TIMEOUT: Final = "10s"


def dump(source: Source, archive: Path, private: Path) -> None:
    """Write the source into an archive.

    Raises:
        CopyFailed: pg_dump refused, with its own words, or cannot encrypt.
        DatabaseUnreachable: the connection to the source broke.
        TableLocked: another session holds a table of the source.
    """
    service = private / "service"
    lines = "".join(f"{name}={value}\n" for name, value in source.parameters.items())
    service.touch(mode=0o600)
    service.write_text(f"[source]\n{lines}", "utf-8")
    # Names and secrets go through a file of ours and the environment; the list of processes shows neither.
    environment = {name: value for name, value in os.environ.items() if name not in {DATABASE_URL, "PGAPPNAME"}}
    environment |= {"PGSERVICEFILE": str(service), "PGSERVICE": "source", "LC_ALL": "C"}
    if source.password:
        environment["PGPASSWORD"] = source.password
    arguments = ["--format=custom", "--compress=1", f"--file={archive}", f"--lock-wait-timeout={_LOCK_TIMEOUT}"]
    arguments += [
        "--no-password",
        "--no-publications",
        "--no-subscriptions",
        "--no-security-labels",
        "--no-tablespaces",
    ]
    schemas = [*source.schemas, *source.further]
    arguments += [f"--schema={quote_name(name)}" for name in schemas]
    arguments += [f"--exclude-table-data={name}" for name in source.without_rows]
    if not schemas:
        arguments.append("--schema-only")
    try:
        done = run_program([local.binaries() / "pg_dump", *arguments], environment)
        if "not compiled in" in done.stderr:
            # The wheel's client library cannot encrypt, and a copy is never sent in the clear for that.
            done = run_program([_encrypting_dump(source), *arguments], environment)
    finally:
        service.unlink()
    if done.returncode:
        raise _dump_failure(source, done.stderr)


def _encrypting_dump(source: Source) -> Path:
    """The machine's own pg_dump, if it is new enough for the source."""
    if found := shutil.which("pg_dump"):
        # By its real path: the wrapper of Debian picks a version by other rules.
        newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"), key=lambda path: int(path.parts[-3]))
        program = newest[-1] if newest else Path(found)
        shown = run_program([program, "--version"], {"LC_ALL": "C"}).stdout
        version = re.search(r"(\d+)(\.\d+|\w*)?\s*(\(|$)", shown)
        if version and source.major <= int(version[1]) <= local.MAJOR:
            return program
    raise CopyFailed(
        "The connection to the source is encrypted, and the embedded server's pg_dump cannot encrypt. Install the client programs"
        f" of PostgreSQL {source.major} to {local.MAJOR} (on Debian and Ubuntu: apt install postgresql-client-{source.major}), then"
        " run this again."
    )


def _dump_failure(source: Source, output: str) -> ProfilesSchemaError:
    line = next((line for line in output.splitlines() if "error:" in line), output.strip().partition("\n")[0])
    line = re.sub(r"^pg_dump: (error: )?(detail: )?", "", line).rstrip(".")
    detail = re.search(r"(?:detail: )?Error message from server: (?:ERROR|FATAL):\s*(.*)", output)
    message = detail[1] if detail else line
    if source.password and source.password in message:
        message = "(its message is not shown)"
    # Reported as a statement timeout: pg_dump sets one for its LOCK TABLE.
    if table := re.search(r"(?:lock|statement) timeout(?:.|\n)*LOCK TABLE (.*?) IN ACCESS SHARE", output):
        return TableLocked(
            f"A session holds a lock on {table[1]} of the source that keeps readers out for longer than"
            f" {_LOCK_TIMEOUT}. Run this again when that session has ended."
        )
    if re.search(
        r"connection to server .* failed|server closed the connection|terminating connection|could not connect", output
    ):
        return DatabaseUnreachable(
            f"The connection to the source {source.where} was lost while it was copied: {message}. Run this again."
        )
    return CopyFailed(f"The source could not be read: {message}. Nothing of the copy is left.")


def run_program(command: Sequence[str | Path], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; an interruption ends it, too."""
    process = subprocess.Popen(  # noqa: S603 - programs of PostgreSQL, and no shell between
        [str(word) for word in command], env=dict(environment), text=True, encoding="utf-8", errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
