"""Points have one road, award_points; the streak of today."""

import threading

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from profiles_schema.driver import sqlstate

AWARD = "select public.award_points(cast(:user as uuid), :amount, :reason, :key)"


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org")


def award(database, user, amount, key, reason="a lesson", role="service_role"):
    with database.acting_as(role, user) as connection:
        total = connection.execute(
            text(AWARD), {"user": user, "amount": amount, "reason": reason, "key": key}
        ).scalar_one()
        connection.commit()
    return total


def refused(database, user, amount, key, **options):
    with pytest.raises(DBAPIError) as error:
        award(database, user, amount, key, **options)
    return sqlstate(error.value)


def ledger(database, user):
    return database.value(
        "select coalesce(sum(amount), 0) from profiles_internal.point_awards where user_id = :user", user=user
    )


def test_a_key_counts_once_and_the_total_is_the_sum(database, ada):
    assert award(database, ada, 10, "lesson:1") == 10
    assert award(database, ada, 10, "lesson:1") == 10
    assert award(database, ada, 5, "lesson:2") == 15
    assert award(database, ada, -15, "hint") == 0
    assert refused(database, ada, -1, "another hint") == "23514"
    assert award(database, ada, 1, "another hint") == 1  # the refused one left nothing
    assert ledger(database, ada) == database.value("select total_points from public.user_progress") == 1


@pytest.mark.parametrize(
    ("amount", "key", "reason", "state"),
    [
        (None, "k", "r", "22023"), (1, None, "r", "22023"), (1, " ", "r", "22023"), (1, "k", "", "22023"),
        (1, "k" * 201, "r", "22023"), (1, "k", None, "22023"),
    ],
)  # fmt: skip
def test_an_award_without_what_it_needs_is_refused(database, ada, amount, key, reason, state):
    assert refused(database, ada, amount, key, reason=reason) == state
    assert ledger(database, ada) == 0


def test_too_many_points_and_nobodys_points_are_refused(database, ada):
    assert award(database, ada, 2_147_483_647, "all") == 2_147_483_647
    assert refused(database, ada, 1, "one more") == "22003"
    assert refused(database, "00000000-0000-4000-8000-000000000000", 1, "k") == "P0002"


@pytest.mark.slow
def test_a_thousand_awards_of_a_hundred_keys_at_once_give_a_hundred(database, ada):
    def ten_keys(worker):
        for n in range(125):
            award(database, ada, 1, f"key {(worker * 13 + n) % 100}")

    threads = [threading.Thread(target=ten_keys, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.value("select total_points from public.user_progress") == ledger(database, ada) == 100


ROADS = (
    "update public.user_progress set total_points = 99",
    "update public.user_progress set (new_words_count, total_points) = (1, 99)",
    "insert into public.user_progress (user_id, total_points) values (:user, 99)",
    "insert into public.user_progress (user_id) values (:user) on conflict (user_id) do update set total_points = 99",
    "insert into profiles_internal.point_awards (user_id, key, amount, reason) values (:user, 'k', 99, 'r')",
    "update profiles_internal.point_awards set amount = 99",
    "delete from profiles_internal.point_awards",
    "select profiles_internal.recount_progress(array[cast(:user as uuid)])",
    "insert into profiles_internal.active_days values (:user, current_date, 1)",
    "insert into profiles_internal.stale_progress (user_id, error_code) values (:user, '00000')",
)


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_no_role_of_the_api_writes_points_or_days_on_any_road(database, ada, role):
    award(database, ada, 3, "k")
    roads = [*ROADS, *([AWARD.replace(":amount, :reason, :key", "99, 'r', 'k2'")] if role != "service_role" else [])]
    for road in roads:
        with database.acting_as(role, ada) as connection, pytest.raises(DBAPIError) as error:
            connection.execute(text(road), {"user": ada} if ":user" in road else {})
        assert sqlstate(error.value) == "42501", road
    assert database.value("select total_points from public.user_progress") == ledger(database, ada) == 3


@pytest.mark.slow
def test_adopted_points_are_where_the_ledger_begins_and_a_direct_write_is_a_question(hosted):
    ada = hosted.sign_up("ada@example.org")
    hosted.script(
        "create table public.user_progress (id uuid primary key default gen_random_uuid(), user_id uuid unique not null"
        " references auth.users (id) on delete cascade, total_points integer not null default 0);"
        "grant select, update on public.user_progress to service_role"
    )
    hosted.run("insert into public.user_progress (user_id, total_points) values (:user, 40)", user=ada)
    hosted.consents = False
    asked = hosted.answers()
    assert asked == {"points:public.user_progress": "accept"}
    for answer, direct in (("accept", False), ("keep", True)):
        hosted.upgrade(answers={"points:public.user_progress": answer})
        assert award(hosted, ada, 2, "lesson") == 42
        assert ledger(hosted, ada) == 42
        with hosted.acting_as("service_role", ada) as connection:
            write = text("update public.user_progress set total_points = 7")
            if direct:
                connection.execute(write)
            else:
                with pytest.raises(DBAPIError, match="permission denied"):
                    connection.execute(write)
        hosted.downgrade("base", allow_data_loss="yes")
        assert hosted.value("select total_points from public.user_progress") == 42
        hosted.run("update public.user_progress set total_points = 40")


def streak(database, user):
    with database.acting_as("authenticated", user) as connection:
        row = connection.execute(text("select * from public.get_my_progress()")).one()
    return row.user_id, row.current_streak_days, row.longest_streak_days


def test_the_streak_of_today_is_over_once_a_day_was_missed(database, ada):
    session = "insert into public.sessions (user_id, ended_at) values (:user, now() - make_interval(days => :days))"
    assert streak(database, ada) == (ada, 0, 0)
    for days in (3, 2, 1):
        database.run(session, user=ada, days=days)
    assert streak(database, ada) == (ada, 3, 3)
    database.run("update public.sessions set ended_at = ended_at - interval '1 day'")
    assert streak(database, ada) == (ada, 0, 3)
    assert database.value("select current_streak_days from public.user_progress") == 3


@pytest.mark.parametrize(("zone", "days"), [("Pacific/Kiritimati", 2), ("Etc/GMT+12", 2)])
def test_today_is_that_of_the_users_time_zone(database, ada, zone, days):
    """At any moment, one of the two zones has another date than UTC."""
    database.run("update public.user_profiles set timezone = :zone", zone=zone)
    local = "((now() at time zone :zone)::date - :days + time '12:00') at time zone :zone"
    database.run(
        f"insert into public.sessions (user_id, ended_at) values (:user, {local})", user=ada, zone=zone, days=days - 1
    )
    assert streak(database, ada) == (ada, 1, 1)
    database.run("delete from public.sessions")
    database.run(
        f"insert into public.sessions (user_id, ended_at) values (:user, {local})", user=ada, zone=zone, days=days
    )
    assert streak(database, ada) == (ada, 0, 1)


def test_a_progress_row_that_is_missing_is_made(database, ada):
    database.run("delete from public.user_progress")
    assert streak(database, ada) == (ada, 0, 0)


def test_a_progress_row_that_is_deleted_and_made_again_has_the_points_of_the_ledger(database, ada):
    award(database, ada, 10, "lesson:1")
    with database.acting_as("service_role", ada) as connection:
        connection.execute(text("delete from public.user_progress where user_id = :user"), {"user": ada})
        connection.execute(text("insert into public.user_progress (user_id) values (:user)"), {"user": ada})
        values = {"user": ada, "amount": 5, "reason": "a lesson", "key": "lesson:2"}
        assert connection.execute(text(AWARD), values).scalar_one() == 15
        assert connection.execute(text(AWARD), values | {"key": "lesson:1"}).scalar_one() == 15
