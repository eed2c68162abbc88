"""A cache that several processes share: two services with one region of dogpile.cache, in memory and on a real Redis."""

import asyncio
import json
import shutil
import subprocess
import threading
import time
import uuid
from itertools import pairwise

import pytest
from dogpile.cache import make_region
from sqlalchemy import inspect

from profiles_schema import UserProfile
from profiles_schema.errors import NotAllowed, ReadOnlyProfile
from profiles_schema.services import queries, shared_cache
from profiles_schema.services.acting import follow_actor, on_behalf_of
from profiles_schema.services.flows import AsyncDriver, Block
from support import wait_until
from support.services import Services

# What dogpile.cache calls of redis.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
COLUMNS = [each.key for each in inspect(UserProfile).column_attrs]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """A Redis of its own; it keeps nothing."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine: install it to test a shared cache on Redis")
    socket = tmp_path_factory.mktemp("redis") / "s"
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", socket, "--save", ""], stdout=subprocess.DEVNULL
    )
    while not socket.exists():
        time.sleep(0.02)
    yield f"unix://{socket}"
    process.terminate()
    process.wait(10)


@pytest.fixture(params=["memory", "redis"])
def region(request):
    if request.param == "memory":
        return make_region().configure("dogpile.cache.memory")
    url = request.getfixturevalue("redis_url")
    made = make_region().configure("dogpile.cache.redis", arguments={"url": url, "redis_expiration_time": 600})
    made.backend.writer_client.flushall()
    return made


@pytest.fixture
def pair(services, region):
    """Two services that share nothing but the database and the region, as in two processes."""
    return [services.service(cache_region=region) for _ in range(2)]


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org", raw_user_meta_data={"full_name": "Ada"})


@pytest.fixture
def bob(database):
    return database.sign_up("bob@example.org")


def statements(service, read):
    """How many statements it takes, and what comes out."""
    with service.factory.counted() as counted:
        result = read(service)
    return len(counted), result


def test_what_one_process_loaded_the_other_need_not(pair, ada, bob):
    one, other = pair
    one.patch(ada, {"preferences": {"theme": "dark", "list": [1, {"x": None}]}, "timezone": "Europe/London"})
    loaded = one.get(ada)
    count, shared = statements(other, lambda service: service.get(ada))
    assert count == 0
    assert isinstance(shared, UserProfile)
    assert {name: getattr(shared, name) for name in COLUMNS} == {name: getattr(loaded, name) for name in COLUMNS}
    with pytest.raises(ReadOnlyProfile):
        shared.bio = "x"
    with pytest.raises(ReadOnlyProfile):
        shared.preferences["list"][1]["x"] = 1
    assert statements(other, lambda service: service.get_many([ada, bob]))[0] == 1
    assert statements(one, lambda service: set(service.get_many([ada, bob]))) == (0, {ada, bob})
    found = other.statistics()
    assert (found.shared_hits, found.loads, found.entries, found.failures) == (2, 1, 0, 0)


def test_what_one_process_writes_the_other_sees(pair, database, ada, bob):
    one, other = pair
    for service in pair:
        service.get_many([ada, bob])
    one.update(ada, {"bio": "one"})
    assert other.get(ada).bio == "one"
    other.patch(ada, {"preferences": {"theme": "dark"}})
    assert one.get(ada).preferences["theme"] == "dark"
    one.update_many({ada: {"bio": "two"}, bob: {"bio": "three"}})
    assert {user: each.bio for user, each in other.get_many([ada, bob]).items()} == {ada: "two", bob: "three"}
    database.run(f"update public.user_profiles set bio = 'by hand' where user_id = '{ada}'")
    assert one.get(ada).bio == "two"
    other.forget(ada, bob)
    assert one.get(ada).bio == "by hand"
    database.run(f"update auth.users set email = 'new@example.org' where id = '{bob}'")
    database.run(f"update public.user_profiles set email = 'old@example.org' where user_id = '{bob}'")
    other.forget(bob)
    assert one.get(bob).email == "old@example.org"
    assert other.sync(bob).changed
    assert one.get(bob).email == "new@example.org"


def test_a_profile_that_is_made_replaces_the_knowledge_that_there_is_none(pair, database):
    one, other = pair
    database.run("alter table auth.users disable trigger profiles_on_auth_user_created")
    users = [database.sign_up(f"user{number}@example.org") for number in range(3)]
    assert [one.get(user) for user in users] == [None] * 3
    assert statements(other, lambda service: service.get(users[0])) == (0, None)
    assert other.get_or_create(users[0]).user_id == users[0]
    other.create_many(users[1:])
    assert [one.get(user).user_id for user in users] == users


def test_what_was_loaded_before_a_write_and_stored_after_it_is_not_served(database, region, ada, monkeypatch):
    services = Services(database, "psycopg2")
    slow, writer = (services.service(cache_region=region) for _ in range(2))
    loaded, written = threading.Event(), threading.Event()
    read = queries.read

    def read_slowly(session, user_id):
        found = read(session, user_id)
        if threading.current_thread() is reader:
            loaded.set()
            assert written.wait(10)
        return found

    monkeypatch.setattr(queries, "read", read_slowly)
    reader = threading.Thread(target=slow.get, args=[ada])
    reader.start()
    assert loaded.wait(10)
    writer.update(ada, {"bio": "new"})
    written.set()
    reader.join()
    assert [slow.get(ada).bio, writer.get(ada).bio] == ["new", "new"]
    services.close()


def test_a_region_that_evicts_generations_brings_nothing_old_back(pair, region, ada):
    one, other = pair
    one.get(ada)
    one.update(ada, {"bio": "new"})
    region.delete_multi([shared_cache._word_key(ada), shared_cache._time_key(ada)])
    assert [other.get(ada).bio, one.get(ada).bio] == ["new", "new"]


def test_who_waits_for_a_load_that_began_before_a_write_is_not_served_what_it_finds(database, region, ada, monkeypatch):
    services = Services(database, "psycopg2")
    slow, writer = (services.service(cache_region=region) for _ in range(2))
    loaded, written, found = threading.Event(), threading.Event(), []
    read = queries.read

    def read_slowly(session, user_id):
        result = read(session, user_id)
        if threading.current_thread() is reader:
            loaded.set()
            assert written.wait(10)
        return result

    monkeypatch.setattr(queries, "read", read_slowly)
    reader = threading.Thread(target=slow.get, args=[ada])
    reader.start()
    assert loaded.wait(10)
    writer.update(ada, {"bio": "new"})
    waiting = [
        threading.Thread(target=lambda: found.append(slow.get(ada))),
        threading.Thread(target=lambda: found.append(slow.get_many([ada])[ada])),
    ]
    for each in waiting:
        each.start()
    wait_until(lambda: slow.statistics().joined == 2)
    written.set()
    for each in (reader, *waiting):
        each.join()
    assert [each.bio for each in found] == ["new", "new"]
    services.close()


def test_the_clock_of_another_machine_keeps_nothing_for_longer(pair, database, ada, monkeypatch):
    one, other = pair
    with monkeypatch.context() as patched:
        clock = time.time
        patched.setattr(shared_cache.time, "time", lambda: clock() + 86_400)
        one.get(ada)
    database.run("update public.user_profiles set bio = 'by hand'")
    assert other.get(ada).bio == "by hand"


def test_a_write_that_the_region_did_not_take_is_told_when_it_is_back(services, database, ada, monkeypatch):
    region = Broken(make_region().configure("dogpile.cache.memory"))
    region.fails = False
    writer, other = (services.service(cache_region=region) for _ in range(2))
    writer.get(ada)
    region.fails = True
    writer.update(ada, {"bio": "new"})
    region.fails = False
    now = time.monotonic
    monkeypatch.setattr(shared_cache.time, "monotonic", lambda: now() + 6)
    assert writer.get(ada).bio == "new"
    assert other.get(ada).bio == "new"


def test_a_full_redis_serves_nothing_old(database, redis_url, ada):
    services = Services(database, "psycopg2")
    region = make_region().configure("dogpile.cache.redis", arguments={"url": redis_url})
    client = region.backend.writer_client
    client.flushall()
    writer, other = (services.service(cache_region=region) for _ in range(2))
    other.get(ada)
    client.execute_command("config", "set", "maxmemory", "1")
    try:
        writer.update(ada, {"bio": "new"})
        assert other.get(ada).bio == "new"
    finally:
        client.execute_command("config", "set", "maxmemory", "0")
        services.close()


@pytest.mark.parametrize("stopped_at", ["write", "region"])
def test_a_task_that_is_stopped_after_its_commit_tells_the_region(database, ada, monkeypatch, stopped_at):
    services = Services(database, "asyncpg")
    region = make_region().configure("dogpile.cache.memory")
    writer, other = (services.service(cache_region=region) for _ in range(2))
    other.get(ada)
    perform = AsyncDriver._perform

    async def stop(driver, effect):
        if stopped_at == "region" and isinstance(effect, Block):
            raise asyncio.CancelledError  # as if no thread of the executor was free
        answer = await perform(driver, effect)
        if stopped_at == "write":
            raise asyncio.CancelledError
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(AsyncDriver, "_perform", stop)
        with pytest.raises(asyncio.CancelledError):
            writer.update(ada, {"bio": "new"})
    wait_until(lambda: other.get(ada).bio == "new")
    services.close()


def test_entries_expire(pair, monkeypatch, ada):
    one, other = pair
    nobody = uuid.uuid4()
    one.get_many([ada, nobody])
    clock = time.time

    def loads_after(seconds, user):
        monkeypatch.setattr(shared_cache.time, "time", lambda: clock() + seconds)
        before = other.statistics().loads
        other.get(user)
        return other.statistics().loads - before

    assert (loads_after(4, nobody), loads_after(5, nobody)) == (0, 1)
    assert (loads_after(250, ada), loads_after(301, ada)) == (0, 1)


class Broken:
    """A region that fails, after so many calls."""

    def __init__(self, region):
        self.region, self.calls, self.fails = region, 0, True

    def _call(self, name, *args, **kwargs):
        self.calls += 1
        if self.fails:
            raise ConnectionError("secret value")
        return getattr(self.region, name)(*args, **kwargs)

    def get_multi(self, *args, **kwargs):
        return self._call("get_multi", *args, **kwargs)

    def set_multi(self, *args, **kwargs):
        return self._call("set_multi", *args, **kwargs)

    def delete_multi(self, *args, **kwargs):
        return self._call("delete_multi", *args, **kwargs)


def test_a_region_that_fails_fails_no_read_and_is_left_alone_for_a_while(services, ada, monkeypatch):
    region = Broken(make_region().configure("dogpile.cache.memory"))
    service = services.service(cache_region=region)
    assert [service.get(ada).username for _ in range(10)] == ["ada"] * 10
    assert (region.calls, service.statistics().failures, service.statistics().loads) == (1, 1, 10)
    service.update(ada, {"bio": "new"})  # a write is always told
    assert (region.calls, service.statistics().failures) == (3, 2)  # replaced, and when that failed, removed
    region.fails = False
    now = time.monotonic
    monkeypatch.setattr(shared_cache.time, "monotonic", lambda: now() + 6)
    assert [service.get(ada).bio for _ in range(3)] == ["new"] * 3
    assert (service.statistics().loads, service.statistics().shared_hits) == (11, 2)


@pytest.mark.parametrize(
    "value",
    ["nonsense", "[]", "{}", '{"generation": ""}', json.dumps({"generation": "", "until": 9e9, "profile": 1}), 7],
)
def test_what_somebody_else_stored_there_fails_no_read(services, region, ada, value):
    service = services.service(cache_region=region)
    region.set(f"profiles_schema:{shared_cache._SHAPE}:{ada}", value)
    assert [service.get(ada).username for _ in range(2)] == ["ada"] * 2
    assert service.statistics().loads == 1  # it was replaced, and nobody else goes without the cache


def test_a_generation_that_somebody_else_stored_fails_no_read(services, region, ada):
    for value in ("nonsense", "", " ", "nan", "inf", 7, b"7", None):
        service = services.service(cache_region=region)
        for key in (shared_cache._word_key(ada), shared_cache._time_key(ada)):
            region.set(key, value)
        assert [service.get(ada).username for _ in range(2)] == ["ada"] * 2
        assert service.statistics().loads == 1


def test_a_region_goes_away_and_comes_back(database, redis_url, ada, monkeypatch):
    monkeypatch.setattr(shared_cache, "_PAUSE_SECONDS", 0.0)
    services = Services(database, "psycopg2")
    region = make_region().configure("dogpile.cache.redis", arguments={"url": redis_url})
    region.backend.writer_client.flushall()
    service = services.service(cache_region=region)
    region.backend.writer_client.execute_command("config", "set", "maxmemory", "1")  # full: writes are refused
    assert [service.get(ada).username for _ in range(3)] == ["ada"] * 3
    assert service.statistics().shared_hits == 0
    region.backend.writer_client.execute_command("config", "set", "maxmemory", "0")
    region.backend.writer_client.execute_command("client", "kill", "type", "normal", "skipme", "no")
    assert [service.get(ada).username for _ in range(3)] == ["ada"] * 3
    assert service.statistics().shared_hits == 2
    services.close()


def test_sessions_that_act_for_different_users_share_nothing(services, region, database, ada):
    shared = services.service(cache_region=region)
    shared.get(ada)
    factory = services.factory(role=None)
    follow_actor(factory.sessions)
    service = services.service(factory, cache_region=region)
    with pytest.raises(NotAllowed):  # anon, although the region has it
        service.get(ada)
    with on_behalf_of(ada):
        assert service.get(ada).username == "ada"
    assert shared.get(ada).username == "ada"


def test_a_replica_is_not_asked_for_what_another_process_has_just_written(database, region, ada):
    services = Services(database, "psycopg2")
    primary, replica = services.factory(), services.factory()
    writer = services.service(cache_region=region)
    reader = services.service(primary, cache_region=region, read_from=replica)
    writer.update(ada, {"bio": "new"})
    reader.get(ada)
    assert (len(primary.statements), len(replica.statements)) == (1, 0)
    services.close()


def test_a_slow_region_does_not_hold_up_the_event_loop(database, ada):
    class Slow(Broken):
        def _call(self, name, *args, **kwargs):
            time.sleep(0.3)
            return super()._call(name, *args, **kwargs)

    region = Slow(make_region().configure("dogpile.cache.memory"))
    region.fails = False
    services = Services(database, "asyncpg")
    service = services.service(cache_region=region).service
    beats = []

    async def beat():
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def work():
        heart = asyncio.create_task(beat())
        await service.get(ada)
        await service.get(ada)
        heart.cancel()

    services.runner.run(work())
    services.close()
    assert region.calls == 4  # a generation is made, too
    assert max(after - before for before, after in pairwise(beats)) < 0.25
