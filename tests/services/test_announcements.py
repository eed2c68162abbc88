"""What one process changes, others hear: services that announce, services that listen, and connections that break."""

import gc
import logging
import os
import resource
import threading
import time
import uuid

import pytest
from dogpile.cache import make_region
from sqlalchemy import make_url

from profiles_schema.errors import DatabaseUnreachable, InvalidDatabaseUrl, ReadOnlyServer, TransactionPooler
from profiles_schema.services import announcements
from profiles_schema.services.announcements import Listener
from support import REPOSITORY, wait_until
from support.pooler import pooled
from support.services import Services

LISTENING = "select pid from pg_stat_activity where application_name = 'profiles-schema listener' and datname = current_database()"


@pytest.fixture
def pair(services, database):
    """A service that listens and one that announces, as in two processes."""
    hearing, announcing = services.service(), services.service(announce_changes=True)
    with hearing.listen(database.url):
        yield hearing, announcing


@pytest.fixture
def hearing(database):
    made = Services(database, "psycopg2")
    yield made.service()
    made.close()


def test_a_change_is_heard(pair, ada, bob):
    hearing, announcing = pair
    hearing.get_many([ada, bob])
    announcing.update(ada, {"bio": "one"})
    wait_until(lambda: hearing.get(ada).bio == "one")
    announcing.patch(ada, {"bio": "two"})
    wait_until(lambda: hearing.get(ada).bio == "two")
    announcing.update_many({ada: {"bio": "three"}, bob: {"bio": "four"}})
    wait_until(lambda: {each.bio for each in hearing.get_many([ada, bob]).values()} == {"three", "four"})
    assert hearing.statistics().announcements == 4


def test_a_profile_that_is_made_is_heard(pair, database):
    hearing, announcing = pair
    database.run("alter table auth.users disable trigger profiles_on_auth_user_created")
    ada, bob, eve = (database.sign_up(f"{name}@example.org") for name in ("ada", "bob", "eve"))
    assert [hearing.get(user) for user in (ada, bob, eve)] == [None] * 3
    announcing.get_or_create(ada)
    announcing.create_many([bob])
    announcing.sync(eve)
    wait_until(lambda: all(hearing.get(user) for user in (ada, bob, eve)))


def test_a_sync_that_changes_nothing_is_not_announced_and_neither_is_a_refusal(pair, ada):
    hearing, announcing = pair
    announcing.sync(ada)
    with pytest.raises(Exception, match="role"):
        announcing.update(ada, {"role": "admin"})
    announcing.update(ada, {"bio": "new"})
    wait_until(lambda: hearing.statistics().announcements)
    assert hearing.statistics().announcements == 1


def test_many_changes_go_into_few_notifications(pair, database):
    hearing, announcing = pair
    database.run("insert into auth.users (email) select n || '@example.org' from generate_series(1, 450) as n")
    users = [row.id for row in database.run("select id from auth.users")]
    hearing.warm(users)
    with announcing.factory.counted() as statements:
        announcing.update_many({user: {"bio": "new"} for user in users})
    assert len([each for each in statements if "pg_notify" in each]) == 1
    wait_until(lambda: hearing.statistics().announcements == 450)
    assert {each.bio for each in hearing.get_many(users).values()} == {"new"}


def test_a_service_does_not_forget_what_it_changed_itself(services, database, ada):
    service = services.service(announce_changes=True)
    with service.listen(database.url):
        service.update(ada, {"bio": "new"})
        service.get(ada)
        other = services.service(announce_changes=True)
        other.update(ada, {"bio": "newer"})
        wait_until(lambda: service.get(ada).bio == "newer")
        assert (service.statistics().announcements, service.statistics().loads) == (1, 2)


def test_what_is_announced_by_hand_is_heard_and_nonsense_is_not(hearing, database, ada, bob, caplog):
    users = [ada, bob]
    with hearing.listen(database.url):
        hearing.get_many(users)
        database.run("update public.user_profiles set bio = 'by hand'")
        for nonsense in ("", " ", "sql", "sql " + "x" * 7_000, f"sql {uuid.uuid4()}';drop table x;--", "é €"):
            database.run(f"select pg_notify('profiles_schema', $n${nonsense}$n$)")
        database.run(f"select pg_notify('profiles_schema', 'sql {ada}')")
        wait_until(lambda: hearing.get(ada).bio == "by hand")
        assert hearing.get(bob).bio is None
        assert hearing.statistics().announcements == 1
    assert "not listening" not in caplog.text


def test_the_trigger_of_the_documents_announces_what_sql_changes(hearing, database, ada):
    page = (REPOSITORY / "docs/how-to/use-profiles-in-python.md").read_text()
    database.script(next(block for block in page.split("```sql\n")[1:] if "pg_notify" in block).partition("```")[0])
    with hearing.listen(database.url):
        hearing.get(ada)
        database.run("update public.user_profiles set bio = 'by hand'")
        wait_until(lambda: hearing.get(ada).bio == "by hand")
        database.run("delete from public.user_profiles")
        wait_until(lambda: hearing.get(ada) is None)


def test_a_connection_that_breaks_is_made_again_and_nothing_old_is_served(hearing, database, ada, caplog):
    caplog.set_level(logging.INFO)
    with hearing.listen(database.url) as listener:
        hearing.get(ada)
        first = database.value(LISTENING)
        database.run(f"select pg_terminate_backend({first})")
        wait_until(lambda: not listener.is_listening)
        database.run("update public.user_profiles set bio = 'while deaf'")
        assert hearing.get(ada).bio is None  # for its time to live
        wait_until(lambda: listener.is_listening)
        assert hearing.get(ada).bio == "while deaf"
        assert database.value(LISTENING) != first
        database.run("update public.user_profiles set bio = 'new'")
        database.run(f"select pg_notify('profiles_schema', 'sql {ada}')")
        wait_until(lambda: hearing.get(ada).bio == "new")
    assert "not listening for changes of other processes (OperationalError)" in caplog.text
    assert "listening again" in caplog.text


def test_a_silent_connection_is_tried(hearing, database, monkeypatch):
    monkeypatch.setattr(announcements, "_CHECK_SECONDS", 0.05)
    tried = "select query = 'select 1' from pg_stat_activity where application_name = 'profiles-schema listener'"
    with hearing.listen(database.url) as listener:
        wait_until(lambda: database.value(tried))
        assert listener.is_listening


def test_closing_ends_the_thread_and_the_connection(hearing, database):
    listener = hearing.listen(database.url)
    assert isinstance(listener, Listener)
    assert len(database.run(LISTENING)) == 1
    listener.close()
    listener.close()
    assert not listener.is_listening
    wait_until(lambda: database.run(LISTENING) == [])
    assert "profiles-schema-listener" not in {thread.name for thread in threading.enumerate()}


def test_closing_does_not_wait_for_a_server_that_is_gone(hearing, database, monkeypatch):
    monkeypatch.setattr(announcements.database, "connect", refuse)
    with pytest.raises(DatabaseUnreachable):
        hearing.listen(database.url)
    monkeypatch.undo()
    with hearing.listen(database.url) as listener:
        monkeypatch.setattr(announcements.database, "connect", refuse)
        database.run(f"select pg_terminate_backend({database.value(LISTENING)})")
        wait_until(lambda: not listener.is_listening)


def refuse(*_, **__):
    raise DatabaseUnreachable


def test_closing_does_not_wait_for_a_server_that_does_not_answer(hearing, database, monkeypatch):
    answers = threading.Event()
    with hearing.listen(database.url) as listener:
        connect = announcements.database.connect

        def connect_slowly(*args, **kwargs):
            assert answers.wait(10)
            return connect(*args, **kwargs)

        monkeypatch.setattr(announcements.database, "connect", connect_slowly)
        database.run(f"select pg_terminate_backend({database.value(LISTENING)})")
        wait_until(lambda: not listener.is_listening)
        time.sleep(1.2)  # the pause before the next attempt
        started = time.monotonic()
        listener.close()
        assert time.monotonic() - started < 3
        answers.set()
    wait_until(lambda: "profiles-schema-listener" not in {thread.name for thread in threading.enumerate()})
    assert database.run(LISTENING) == []
    assert not listener.is_listening


def test_a_process_with_many_open_files_hears(hearing, database, ada, caplog):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 1_200:
        pytest.skip("the limit of open files is too low here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 1_200), limits[1]))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_050)]
    try:
        with hearing.listen(database.url):
            hearing.get(ada)
            database.run("update public.user_profiles set bio = 'new'")
            database.run(f"select pg_notify('profiles_schema', 'sql {ada}')")
            wait_until(lambda: hearing.statistics().announcements)
            assert hearing.get(ada).bio == "new"
        assert "not listening" not in caplog.text
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_what_is_announced_is_forgotten_in_a_shared_cache_too(database, ada):
    services = Services(database, "psycopg2")
    hearing = services.service(cache_region=make_region().configure("dogpile.cache.memory"))
    with hearing.listen(database.url):
        hearing.get(ada)
        database.run("update public.user_profiles set bio = 'by hand'")
        database.run(f"select pg_notify('profiles_schema', 'sql {ada}')")
        wait_until(lambda: hearing.get(ada).bio == "by hand")
    services.close()


def test_urls_that_cannot_be_listened_to(hearing, database):
    with pytest.raises(InvalidDatabaseUrl):
        hearing.listen("mysql://h/d")
    with pytest.raises(DatabaseUnreachable, match=r"127\.0\.0\.1") as refused:
        hearing.listen("postgresql://u:hunter2@127.0.0.1:1/d")
    assert "hunter2" not in str(refused.value)
    database.run(f"alter database {make_url(database.url).database} set default_transaction_read_only = on")
    with pytest.raises(ReadOnlyServer, match="Nothing is announced there"):
        hearing.listen(database.url)
    assert database.run(LISTENING) == []


def test_a_pooler_in_transaction_mode_is_refused_and_one_in_session_mode_is_fine(hearing, database, ada):
    with (
        pooled(database.url, "transaction") as url,
        pytest.raises(TransactionPooler, match=r"gives what is announced to others\. Use the server's direct port"),
    ):
        hearing.listen(url)
    with pooled(database.url, "session") as url, hearing.listen(url):
        hearing.get(ada)
        database.run("update public.user_profiles set bio = 'new'")
        database.run(f"select pg_notify('profiles_schema', 'sql {ada}')")
        wait_until(lambda: hearing.get(ada).bio == "new")


def test_a_change_that_cannot_be_announced_is_written_all_the_same(services, database, ada, caplog):
    service = services.service(announce_changes=True)
    database.run("revoke execute on function pg_catalog.pg_notify(text, text) from public")
    service.update(ada, {"bio": "new"})
    assert service.get(ada).bio == "new"
    assert "not announced to other processes (SQLSTATE 42501)" in caplog.text


# Python 3.12 warns of every fork beside threads, which is what is tried here.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_process_leaves_the_listener_to_its_parent(hearing, database, ada):
    with hearing.listen(database.url) as listener:
        hearing.get(ada)
        if (child := os.fork()) == 0:
            status = 1
            try:
                listener.close()
                del listener
                gc.collect()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        database.run("update public.user_profiles set bio = 'new'")
        database.run(f"select pg_notify('profiles_schema', 'sql {ada}')")
        wait_until(lambda: hearing.get(ada).bio == "new")
        assert listener.is_listening
