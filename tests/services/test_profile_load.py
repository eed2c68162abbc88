"""Services under load: many callers for one new user, and a server that is restarted meanwhile."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from profiles_schema import UserProfile, acting_as, local
from profiles_schema.errors import ServiceFailed
from support import REPOSITORY, Database, Server
from support.services import DRIVERS, Services

CALLERS = 250
PROCESSES = 4
PROGRAM = f"""
import json, sys, threading
from concurrent.futures import ThreadPoolExecutor
from sqlalchemy import create_engine, event
from sqlalchemy.orm import sessionmaker
from profiles_schema import ProfileService

engine = create_engine(sys.argv[1], pool_size=5, max_overflow=5, pool_timeout=60)
made = []
event.listen(engine, "before_cursor_execute",
  lambda c, cursor, statement, *rest: made.append(statement) if "ensure_user_profile" in statement or "INSERT" in statement.upper() else None)
service = ProfileService(sessionmaker(engine))
together = threading.Barrier({CALLERS})
def call(_):
    together.wait()
    return str(service.get_or_create(sys.argv[2]).id)
with ThreadPoolExecutor({CALLERS}) as pool:
    sys.stdin.readline()
    print(json.dumps({{"ids": sorted(set(pool.map(call, range({CALLERS})))), "made": len(made)}}))
"""


@pytest.mark.slow
def test_a_thousand_callers_at_once_make_one_profile_with_one_attempt_a_process(database):
    database.run("alter table auth.users disable trigger profiles_on_auth_user_created")
    user = database.sign_up("ada@example.org")
    database.run("alter table auth.users enable trigger profiles_on_auth_user_created")
    assert database.value("select count(*) from public.user_profiles") == 0
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, database.url, str(user)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )
        for _ in range(PROCESSES)
    ]  # fmt: skip
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    results = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        results.append(json.loads(out))
    assert {profile for result in results for profile in result["ids"]} == {
        database.value("select id from public.user_profiles")
    }
    assert database.value("select count(*) from public.user_profiles") == 1
    assert all(result["made"] <= 1 for result in results), results
    assert database.run("select from public.user_profile_audit_logs where action = 'failed'") == []


CLIENTS = 8
SECONDS = 2.0
"""Before the server goes, and after it is back."""


@pytest.fixture(scope="module")
def own_server():
    """A database on a server of its own, and a function that crashes the server and starts it again."""
    directory = Path(tempfile.mkdtemp(prefix="profiles-restart-", dir="/tmp"))
    directory.chmod(0o755)  # for root, whose server runs under an account of its own

    def restart():
        os.kill(local.status(directory).pid, signal.SIGQUIT)  # as `pg_ctl stop -m immediate`
        while local.status(directory) is not None:
            time.sleep(0.01)
        return local.start(directory)

    try:
        running = local.start(directory)
        server = Server(
            host=str(running.socket_directory), port=running.port, user="postgres", dbname="profiles", options=""
        )
        database = Database(server, "profiles")
        database.upgrade()
        yield database, restart
    finally:
        local.stop(directory)
        shutil.rmtree(directory)


@dataclass
class Client:
    """One user of an application, who writes a number and reads it back, through the service and with own rights."""

    user: uuid.UUID
    number: int = 0
    possible: set = field(default_factory=lambda: {None})
    """What may be in the row: the last number that was acknowledged, and those of which nothing is known since."""
    done: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    wrong: list = field(default_factory=list)

    def begin_write(self):
        self.number += 1
        self.possible.add(str(self.number))
        return {"bio": str(self.number)}

    def acknowledged(self):
        self.possible = {str(self.number)}
        self.done.append(time.monotonic())

    def saw(self, *bios):
        if not set(bios) <= self.possible:
            self.wrong.append((bios, self.possible))
        self.done.append(time.monotonic())

    def failed(self, error):
        if not isinstance(error, ServiceFailed | DBAPIError | OSError):
            self.wrong.append(error)
        self.errors.append(time.monotonic())


class Application:
    """Clients of one application on a driver: with services, with and without a cache, and with sessions of users."""

    def __init__(self, services, clients):
        self.services = services
        self.clients = clients
        factory = services.factory(pool_size=CLIENTS)
        self.cached = services.service(factory).service
        self.uncached = services.service(factory, cache_size=0).service
        self.as_users = services.factory(role=None, pool_size=CLIENTS)
        self.ending = threading.Event()

    def run(self):
        """Let them work until `ending` is set."""
        if self.as_users.is_async:
            self.services.runner.run(self._all_async())
            return
        threads = [threading.Thread(target=self._live, args=[client]) for client in self.clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _live(self, client):
        while not self.ending.is_set():
            try:
                self.cached.update(client.user, client.begin_write())
                client.acknowledged()
                client.saw(self.cached.get(client.user).bio)
                client.saw(self.uncached.get_or_create(client.user).bio)
                with self.as_users.sessions() as session, acting_as(session, client.user):
                    client.saw(*own_bios(session))
            except Exception as error:  # noqa: BLE001 - it is what the test looks at
                client.failed(error)
                time.sleep(0.01)

    async def _all_async(self):
        await asyncio.gather(*map(self._live_async, self.clients))

    async def _live_async(self, client):
        while not self.ending.is_set():
            try:
                await self.cached.update(client.user, client.begin_write())
                client.acknowledged()
                client.saw((await self.cached.get(client.user)).bio)
                client.saw((await self.uncached.get_or_create(client.user)).bio)
                async with self.as_users.sessions() as session, acting_as(session, client.user):
                    client.saw(*await session.run_sync(own_bios))
            except Exception as error:  # noqa: BLE001 - it is what the test looks at
                client.failed(error)
                await asyncio.sleep(0.01)


def own_bios(session):
    return session.scalars(select(UserProfile.bio)).all()


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_server_that_crashes_under_load_costs_errors_while_it_is_away_and_nothing_else(own_server, driver):
    database, restart = own_server
    clients = [Client(database.sign_up(f"{driver}{number}@example.org")) for number in range(CLIENTS)]
    services = Services(database, driver)
    application = Application(services, clients)
    outage = []

    def crash():
        time.sleep(SECONDS)
        outage.append(time.monotonic())
        restart()
        outage.append(time.monotonic())
        time.sleep(SECONDS + 1)
        application.ending.set()

    crashing = threading.Thread(target=crash)
    crashing.start()
    application.run()
    crashing.join()
    services.close()

    gone, back = outage
    assert [client.wrong for client in clients] == [[]] * CLIENTS
    # What had begun before the server was back may fail a moment after.
    assert [at - back for client in clients for at in client.errors if not gone <= at <= back + 0.5] == []
    assert any(client.errors for client in clients), "nobody noticed"
    for client in clients:
        assert sum(at < gone for at in client.done) > 10
        assert sum(at > back + 0.5 for at in client.done) > 10
        assert str(database.profile(client.user).bio) in client.possible
