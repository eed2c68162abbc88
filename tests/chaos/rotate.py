"""Break the rotation of encryption keys on purpose: every API key must be readable at every moment, and none be seen.

Users have keys in both tables, 50 of them texts that are known. The server logs every statement with its parameters. For
each kill a new encryption key goes first into the ring, `keys rotate` starts and is killed (SIGKILL) at a seeded moment (mostly
between its first batch and its last), and every key is read with the ring of that moment; all the while the service reads keys at random, with the same ring. Then the
rotation is run to its end, and the old encryption key leaves the ring, when `keys status --unused` says that it may.

In the end the 50 texts are looked for in the files of the server (tables, WAL, log), in what the commands printed, in the
list of processes that was taken all the while, and in the texts of errors that were brought about. That the search finds
what is there is proved by a text that was written on purpose.

    PYTHONPATH=tests python -m chaos.rotate [--users 4000] [--kills 20] [--seed 1]

Prints one JSON object; exit code 1 if anything that is promised did not hold ("broken" says what).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

from profiles_schema import local
from profiles_schema.encryption import KeyRing, bound_to, key_id_of
from profiles_schema.errors import ProfilesSchemaError
from profiles_schema.services.api_keys import ApiKeyService
from support import REPOSITORY

KNOWN = 50
COLUMNS = ("openai_api_key", "unsplash_api_key", "anthropic_api_key")
LONGEST_PAUSE_SECONDS = 0.4
LONGEST_START_SECONDS = 1.5


class Chaos:
    """The server, the users and their keys, the ring of the moment, and what did not hold."""

    def __init__(self, directory: Path, seed: int, users: int) -> None:
        self.moment = random.Random(seed)
        self.broken: list[str] = []
        self.printed: list[str] = []
        self.directory = directory
        self.server = local.start(directory)
        self.engine = create_engine(self.server.url().replace("postgresql://", "postgresql+psycopg2://", 1))
        with self.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text("alter system set log_statement = 'all'"))
            connection.execute(text("select pg_reload_conf()"))
        self.keys = [("k0", os.urandom(32))]
        self.run("upgrade")
        self.stored = self.fill(users)
        self.known = [self.stored[place] for place in self.moment.sample(sorted(self.stored, key=str), KNOWN)]
        self.reads = 0

    def expect(self, claim: str, found: object, expected: object) -> None:
        if found != expected:
            self.broken.append(f"{claim}: {found!r}, not {expected!r}")

    def ring(self) -> KeyRing:
        """The ring of this moment: what the service reads with."""
        return KeyRing(dict(self.keys))

    def environment(self) -> dict[str, str]:
        ring = ",".join(f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in self.keys)
        return os.environ | {
            "DATABASE_URL": self.server.url(), "PROFILES_ENCRYPTION_KEYS": ring, "PROFILES_DEBUG": "1",
        }  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "profiles_schema", *words], cwd=REPOSITORY, env=self.environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: str) -> int:
        process = self.start(*words)
        self.printed += process.communicate(timeout=600)
        return process.returncode

    def fill(self, users: int) -> dict[tuple[uuid.UUID, str, str], str]:
        """Users with up to four keys each, stored by the service."""
        stored = {}
        with self.engine.begin() as connection:
            rows = connection.execute(
                text(
                    "insert into auth.users (email) select g || '@example.org' from generate_series(1, :n) as g returning id"
                ),
                {"n": users},
            ).all()
            ring = self.ring()
            for number, (user,) in enumerate(rows):
                places = [(user, "openai", ""), (user, "deepl", "")]
                places += [(user, "anthropic", "")] * (number % 2) + [(user, "openai", f"key {number}")] * (number % 3)
                for place in dict.fromkeys(places):
                    stored[place] = f"sk-{self.moment.getrandbits(160):040x}"
                    _, provider, label = place
                    if label or provider == "deepl":
                        connection.execute(
                            text("insert into public.user_provider_keys (user_id, provider, label, envelope) values (:u, :p, :l, :e)"),
                            {"u": user, "p": provider, "l": label,
                             "e": ring.encrypt(stored[place], user_id=user, column=bound_to(provider, label))},
                        )  # fmt: skip
                    else:
                        column = f"{provider}_api_key"
                        connection.execute(
                            text(f"insert into public.user_api_keys (user_id, {column}) values (:u, :e)"
                                 f" on conflict (user_id) do update set {column} = :e"),
                            {"u": user, "e": ring.encrypt(stored[place], user_id=user, column=column)},
                        )  # fmt: skip
        return stored

    def under(self) -> dict[str, int]:
        """Read every key with the ring of this moment; how many there are under each encryption key."""
        ring, found, counts = self.ring(), {}, dict[str, int]()
        with self.engine.connect() as connection:
            rows = [
                ((row.user_id, column.removesuffix("_api_key"), ""), column, getattr(row, column))
                for row in connection.execute(text("select * from public.user_api_keys")) for column in COLUMNS
            ] + [
                ((row.user_id, row.provider, row.label), bound_to(row.provider, row.label), row.envelope)
                for row in connection.execute(text("select * from public.user_provider_keys"))
            ]  # fmt: skip
        for place, binding, envelope in rows:
            if envelope is not None:
                counts[key_id_of(envelope)] = counts.get(key_id_of(envelope), 0) + 1
                try:
                    found[place] = ring.decrypt(envelope, user_id=place[0], column=binding)
                except ProfilesSchemaError as error:
                    self.printed.append("".join(traceback.format_exception(error)))
        readable = sum(found.get(place) == value for place, value in self.stored.items())
        self.expect("keys that read as they were stored", readable, len(self.stored))
        self.expect("keys there", sum(counts.values()), len(self.stored))
        return counts

    def wait_for_batch(self, key_id: str, process: subprocess.Popen[str]) -> None:
        """Wait until a batch of the rotation is committed."""
        under = text("select exists (select from public.user_api_keys where starts_with(openai_api_key, :new))")
        while process.poll() is None:
            with self.engine.connect() as connection:
                if connection.scalar(under, {"new": f"psk1.{key_id}."}):
                    return
            time.sleep(0.01)

    def read_on(self, ended: threading.Event) -> None:
        """Read keys by the service, as an application does beside the rotation."""
        service = ApiKeyService(sessionmaker(self.engine), _RingOfTheMoment(self))
        places, choice = sorted(self.stored, key=str), random.Random(0).choice
        while not ended.is_set():
            place = choice(places)
            try:
                secret = service.get(*place)
                self.expect(
                    "a key read beside the rotation", secret is not None and secret.reveal() == self.stored[place], True
                )
            except Exception as error:  # noqa: BLE001 - any of them breaks the promise
                self.broken.append(f"reading beside the rotation: {type(error).__name__}: {error}")
                return
            self.reads += 1

    def list_processes(self, ended: threading.Event) -> None:
        while not ended.is_set():
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.printed.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            self.printed = list(dict.fromkeys(self.printed))
            time.sleep(0.2)

    def provoke_errors(self) -> None:
        """Bring about the errors that hold the most, and keep their texts, with those that they are chained to."""
        service = ApiKeyService(sessionmaker(self.engine), self.ring())
        user = next(iter(self.stored))[0]
        attempts = [
            lambda: service.set(uuid.uuid4(), "deepl", self.known[0]),
            lambda: service.set(user, "deepl", f" {self.known[1]}"),
            lambda: service.set(user, "x" * 80, self.known[2]),
            lambda: service.set(user, "deepl", self.known[3] * 100),
            lambda: ApiKeyService(sessionmaker(self.engine), KeyRing({"k9999": os.urandom(32)})).get(user, "openai"),
            lambda: ApiKeyService(sessionmaker(self.engine), KeyRing({self.keys[0][0]: os.urandom(32)})).set(user, "a", self.known[4]),
        ]  # fmt: skip
        for attempt in attempts:
            try:
                attempt()
            except Exception as error:  # noqa: BLE001 - their texts are what is looked at
                self.printed.append("".join(traceback.format_exception(error)))
            else:
                self.broken.append("an error that was to be brought about did not come")

    def search(self) -> dict[str, int]:
        """The known texts in the files of the server and in all that was printed, and the text that is to be found."""
        control = f"control-{uuid.uuid4().hex}"
        with self.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text(f"create table public.control as select '{control}'::text as words"))
            connection.execute(text("checkpoint"))
        texts = {each.encode() for each in self.known}
        texts |= {base64.b64encode(each) for each in texts} | {each.hex().encode() for each in texts}
        found = found_control = size = 0
        for path in self.directory.rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                size += len(data)
                found_control += control.encode() in data
                for each in texts:
                    if each in data:
                        found += 1
                        self.broken.append(f"a known text is in {path.relative_to(self.directory)}")
        printed = "\n".join(self.printed)
        for each in self.known:
            if each in printed:
                found += 1
                self.broken.append("a known text was printed, or in a list of processes")
        # A table, the WAL and the log.
        self.expect("files with the text that was written on purpose, at least 3", found_control >= 3, True)
        return {"megabytes_searched": size >> 20, "printed_characters": len(printed), "found": found}


class _RingOfTheMoment:
    def __init__(self, chaos: Chaos) -> None:
        self._chaos = chaos

    def ring(self) -> KeyRing:
        return self._chaos.ring()


def main() -> int:
    """Kill, read, search."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # Not below a home directory: it may be closed to the account that serves root.
    directory = Path(tempfile.mkdtemp(prefix="profiles-rotate-"))
    directory.chmod(0o755)
    chaos = Chaos(directory / "postgres", options.seed, options.users)
    ended = threading.Event()
    threads = [threading.Thread(target=each, args=[ended]) for each in (chaos.read_on, chaos.list_processes)]
    midway = 0
    try:
        for thread in threads:
            thread.start()
        for number in range(1, options.kills + 1):
            old = chaos.keys[0][0]
            chaos.keys = [(f"k{number}", os.urandom(32)), *chaos.keys]
            process = chaos.start("keys", "rotate", "--batch-size", "50")
            if number % 4:
                chaos.wait_for_batch(f"k{number}", process)
                time.sleep(chaos.moment.random() * LONGEST_PAUSE_SECONDS)
            else:
                time.sleep(chaos.moment.random() * LONGEST_START_SECONDS)
            process.kill()
            chaos.printed += process.communicate()
            midway += len(chaos.under()) == 2
            chaos.expect("exit code of rotate", chaos.run("keys", "rotate"), 0)
            chaos.expect("keys after the rotation", chaos.under(), {f"k{number}": len(chaos.stored)})
            chaos.expect("exit code of status --unused", chaos.run("keys", "status", "--unused", old), 0)
            chaos.keys = chaos.keys[:1]
        chaos.provoke_errors()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    result = chaos.search()
    chaos.expect("kills between the first batch and the last, at least one in ten", midway >= options.kills / 10, True)
    chaos.expect("keys read beside the rotation, more than 100", chaos.reads > 100, True)
    chaos.engine.dispose()
    local.stop(directory / "postgres")
    subprocess.run(["rm", "-r", str(directory)], check=False)
    report = {
        "kills": options.kills,
        "killed_midway": midway,
        "keys": len(chaos.stored),
        "reads_beside": chaos.reads,
        **result,
    }
    print(json.dumps(report | {"broken": chaos.broken}, indent=2))
    return int(bool(chaos.broken))


if __name__ == "__main__":
    raise SystemExit(main())
