"""The cache of profile services: what is remembered, for how long, and that it never stands in the way of a read."""

import asyncio
import logging
import threading
import time
import uuid

import pytest

from profiles_schema import UserProfile
from profiles_schema.errors import InvalidProfile, ServiceFailed
from profiles_schema.services import flows, queries
from profiles_schema.services.cache import ProfileCache, Unsettled
from profiles_schema.services.events import LOGGER
from profiles_schema.services.profiles import ProfileService
from support.services import Services

NOBODY = uuid.UUID(int=0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(flows, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def blocking(database):
    """A synchronous service, for what needs threads of its own."""
    made = Services(database, "psycopg2")
    yield made
    made.close()


def loads(service):
    return service.statistics().loads


def test_a_second_read_asks_nothing(service, ada):
    with service.factory.counted() as statements:
        assert service.get(ada) is service.get(ada)
    assert len(statements) == 1
    statistics = service.statistics()
    assert (statistics.hits, statistics.misses, statistics.loads, statistics.entries) == (1, 1, 1, 1)
    assert 0 < statistics.load_seconds_median <= statistics.load_seconds_95 <= statistics.load_seconds_longest


def test_entries_expire_each_at_its_own_time_and_never_later_than_promised():
    now = [0.0]
    cache = ProfileCache(100, 1_000, 10, 5, timer=lambda: now[0])
    users = [uuid.uuid4() for _ in range(200)]
    for user in users:
        flight, _ = cache.join((user, "read"))
        cache.land((user, "read"), flight, UserProfile(username="x"))
    gone = []
    for moment in range(101):
        now[0] = moment
        gone.append(sum(cache.peek(user) is Unsettled.MISSING for user in users))
    assert gone[84] == 0
    assert 0 < gone[92] < 200
    assert gone[100] == 200
    flight, _ = cache.join((NOBODY, "read"))
    cache.land((NOBODY, "read"), flight, None)
    assert cache.get(NOBODY) is None
    now[0] += 10
    assert cache.get(NOBODY) is Unsettled.MISSING
    assert cache.statistics().negative_hits == 1


def test_the_least_recently_used_goes_first(services, database):
    users = [database.sign_up(f"user{n}@example.org") for n in range(3)]
    service = services.service(cache_size=2)
    service.get(users[0]), service.get(users[1]), service.get(users[0]), service.get(users[2])
    with service.factory.counted() as statements:
        service.get(users[0])
        assert not statements
    before = loads(service)
    service.get(users[1])
    assert loads(service) == before + 1
    assert service.statistics().entries == 2


@pytest.mark.parametrize("options", [{"cache_size": 0}, {"cache_ttl_seconds": 0}])
def test_it_can_be_switched_off(services, ada, options):
    service = services.service(**options)
    with service.factory.counted() as statements:
        service.get(ada), service.get(ada), service.get_many([ada])
    assert len(statements) == 3
    assert service.statistics().entries == 0


def test_concurrent_misses_load_once(services, ada):
    service = services.service(services.factory(pool_size=20))
    with service.factory.counted() as statements:
        found = service.together("get", *[(ada,)] * 20)
    assert {id(each) for each in found} == {id(found[0])}
    assert len([each for each in statements if "user_profiles" in each]) == 1


def test_a_failed_load_fails_for_all_who_wait_and_is_not_remembered(services, database, ada):
    service = services.service(services.factory(pool_size=20))
    database.run("alter table public.user_profiles rename to elsewhere")
    found = service.together("get", *[(ada,)] * 10)
    assert {type(each) for each in found} == {ServiceFailed}
    database.run("alter table public.elsewhere rename to user_profiles")
    assert service.get(ada).username == "ada"


def test_a_task_that_is_cancelled_leaves_the_load_to_those_who_wait(database, ada):
    services = Services(database, "asyncpg")
    factory = services.factory()
    service = services.service(factory).service

    async def race():
        slow = await factory.engine.connect()
        await slow.exec_driver_sql("reset role")
        await slow.exec_driver_sql("lock table public.user_profiles")
        leader = asyncio.create_task(service.get(ada))
        await asyncio.sleep(0.1)
        followers = [asyncio.create_task(service.get(ada)) for _ in range(5)]
        await asyncio.sleep(0.1)
        leader.cancel()
        followers[0].cancel()
        await slow.rollback()
        await slow.close()
        done = await asyncio.wait_for(asyncio.gather(leader, *followers, return_exceptions=True), 10)
        assert [type(each) for each in done[:2]] == [asyncio.CancelledError] * 2
        assert {each.username for each in done[2:]} == {"ada"}

    services.runner.run(race())
    services.close()


def test_our_own_write_is_seen_at_once(service, ada, bob):
    service.get_many([ada, bob])
    service.update(ada, {"bio": "one"})
    assert service.get(ada).bio == "one"
    service.patch(ada, {"bio": "two"})
    assert service.get(ada).bio == "two"
    service.update_many({ada: {"bio": "three"}, bob: {"bio": "four"}})
    assert [profile.bio for profile in service.get_many([ada, bob]).values()] == ["three", "four"]
    with service.factory.counted() as statements, pytest.raises(InvalidProfile):
        service.update(ada, {"bio": 5})
    assert not statements
    with service.factory.counted() as statements:
        assert service.get(ada).bio == "three"
    assert not statements


def test_nothing_is_forgotten_before_the_commit(blocking, database, ada, monkeypatch):
    service = blocking.service()
    service.get(ada)
    seen = []
    forget = service.service._cache.forget
    monkeypatch.setattr(
        service.service._cache, "forget", lambda user: (seen.append(database.profile(ada).bio), forget(user))
    )
    service.update(ada, {"bio": "new"})
    assert seen == ["new"]


def test_what_was_read_before_a_write_is_not_kept_after_it(blocking, ada, monkeypatch):
    service = blocking.service()
    reading, may_return = threading.Event(), threading.Event()
    read = queries.read

    def slow(session, user_id):
        found = read(session, user_id)
        reading.set()
        assert may_return.wait(10)
        return found

    monkeypatch.setattr(queries, "read", slow)
    early = []
    reader = threading.Thread(target=lambda: early.append(service.get(ada)))
    reader.start()
    assert reading.wait(10)
    monkeypatch.setattr(queries, "read", read)
    service.update(ada, {"bio": "new"})
    may_return.set()
    reader.join(10)
    assert early[0].bio is None
    assert service.get(ada).bio == "new"


def test_a_failed_write_forgets_nothing_it_need_not(service, ada):
    before = service.get(ada)
    with pytest.raises(InvalidProfile):
        service.update(ada, {"timezone": "Mars/Olympus"})
    assert service.get(ada) is before


def test_that_there_is_no_profile_is_remembered_for_moments_and_never_hinders_making_one(services, database):
    database.run("alter table auth.users disable trigger profiles_on_auth_user_created")
    bob = database.sign_up("bob@example.org")
    service = services.service(negative_ttl_seconds=0.2)
    assert service.get(bob) is None
    with service.factory.counted() as statements:
        assert service.get(bob) is None
    assert not statements
    assert service.get_or_create(bob).username == "bob"
    assert service.get(bob).username == "bob"
    eve = database.sign_up("eve@example.org")
    assert service.get(eve) is None
    database.run("select profiles_internal.create_profiles(profiles_internal.living_users(array[:id]))", id=eve)
    time.sleep(0.25)
    assert service.get(eve).username == "eve"


class Broken(dict):
    def get(self, *_):
        raise OSError("the cache is down")

    __setitem__ = pop = __len__ = get


def test_a_failing_cache_never_fails_a_read(service, ada, caplog):
    service.service._cache.store = Broken()
    with caplog.at_level(logging.WARNING):
        assert service.get(ada).username == "ada"
        assert service.get_many([ada])[ada].username == "ada"
        assert service.get_or_create(ada).username == "ada"
        assert service.update(ada, {"bio": "x"}).bio == "x"
        assert service.get(ada).bio == "x"
    assert service.statistics().failures > 5
    assert service.statistics().entries == 0
    assert "the database answers instead" in caplog.text


def test_warming_loads_what_is_asked_for(services, database):
    users = [database.sign_up(f"user{n}@example.org") for n in range(6)]
    for user in users[2:4]:
        database.run("update public.user_profiles set bio = 'x' where user_id = :id", id=user)
    service = services.service()
    with service.factory.counted() as statements:
        assert service.warm(most_recent=2) == 2
    assert len(statements) == 2
    with service.factory.counted() as statements:
        assert service.get_many(users[2:4]).keys() == set(users[2:4])
    assert not statements
    assert service.warm([*users[:2], NOBODY]) == 2
    with service.factory.counted() as statements:
        service.get(users[0])
    assert not statements


def test_reads_go_to_the_replica_and_after_a_write_to_the_primary(services, database, ada, bob):
    primary, replica = services.factory(), services.factory()
    service = services.service(primary, read_from=replica, cache_size=0, sticky_primary_seconds=0.3)
    calls = {
        "get": lambda: service.get(ada),
        "get_many": lambda: service.get_many([ada, bob]),
        "search": lambda: service.search("ada"),
        "history": lambda: service.history(ada),
        "public": lambda: service.get_public_many([ada]),
    }
    for name, call in calls.items():
        with primary.counted() as ours, replica.counted() as theirs:
            call()
        assert (len(ours), len(theirs)) == (0, 1), name
    service.update(ada, {"bio": "x"})
    for name, expected in {"get": (1, 0), "get_many": (1, 0), "search": (0, 1)}.items():
        with primary.counted() as ours, replica.counted() as theirs:
            calls[name]()
        assert (len(ours), len(theirs)) == expected, name
    with primary.counted() as ours, replica.counted() as theirs:
        service.get(bob)
    assert (len(ours), len(theirs)) == (0, 1)
    time.sleep(0.35)
    with primary.counted() as ours, replica.counted() as theirs:
        service.get(ada)
    assert (len(ours), len(theirs)) == (0, 1)


def test_a_replica_that_is_down_is_replaced_by_the_primary(services, ada):
    replica = services.factory()
    down = services.factory()
    service = services.service(read_from=down)
    assert replica is not down

    def refuse(*_):
        raise ConnectionRefusedError

    from sqlalchemy import event

    event.listen(down.sync_engine, "do_connect", refuse)
    assert service.get(ada).username == "ada"


def test_events_are_log_records_with_structured_extras(service, ada, caplog):
    with caplog.at_level(logging.INFO, logger=LOGGER.name):
        service.update(ada, {"bio": "Secret", "phone": "1"})
        with pytest.raises(InvalidProfile):
            service.update(ada, {"bio": 1, "role": "Secret"})
    records = [each for each in caplog.records if each.name == LOGGER.name]
    assert [(r.event, r.user_id, r.levelname) for r in records] == [
        ("updated", str(ada), "INFO"),
        ("refused", str(ada), "WARNING"),
    ]
    assert records[0].changed == ["bio", "phone"]
    assert (records[1].error, records[1].fields) == ("InvalidProfile", ["bio", "role"])
    assert "Secret" not in caplog.text + repr([vars(each) for each in records])


def test_subscribers_may_fail_and_may_leave(service, ada, caplog):
    seen = []

    def fail(_event):
        raise RuntimeError

    service.subscribe(fail)
    leave = service.subscribe(seen.append)
    service.update(ada, {"bio": "1"})
    assert [(event.kind, event.user_id) for event in seen] == [("updated", ada)]
    assert "a subscriber failed" in caplog.text
    leave()
    leave()
    service.update(ada, {"bio": "2"})
    assert len(seen) == 1


def test_a_burst_of_updates_is_suspicious_once(services, ada, bob):
    service = services.service(burst_updates=5, burst_seconds=60)
    seen = []
    service.subscribe(seen.append)
    for n in range(7):
        service.update(ada, {"bio": str(n)})
    for n in range(4):
        service.update(bob, {"bio": str(n)})
    suspicious = [event for event in seen if event.kind == "suspicious"]
    assert [event.user_id for event in suspicious] == [ada]
    assert suspicious[0].details == {"updates": 5, "seconds": 60}


@pytest.mark.slow
def test_threads_that_read_and_write_at_random_never_see_an_older_value_after_their_own_write(blocking, database):
    users = [database.sign_up(f"user{n}@example.org") for n in range(4)]
    service: ProfileService = blocking.service(blocking.factory(pool_size=8)).service
    wrong = []

    def work(number):
        user = users[number]
        for n in range(150):
            service.update(user, {"bio": str(n)})
            for other in users:
                found = service.get(other)
                if other == user and found.bio != str(n):
                    wrong.append((n, found.bio))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
