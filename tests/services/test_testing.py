"""profiles_schema.testing: an application's own tests, run by pytest in a process of their own."""

import os
import subprocess
import sys

import pytest

APPLICATION = """
import asyncio
import uuid

import pytest
from sqlalchemy import select, text

from profiles_schema import UserProfile
from profiles_schema.testing import assert_refused, async_assert_refused


@pytest.fixture(scope="session")
def profiles_migrate():
    def migrate(url):
        import sqlalchemy

        with sqlalchemy.create_engine(url).begin() as connection:
            connection.exec_driver_sql("create table public.notes (owner uuid references auth.users, body text)")

    return migrate


def test_a_user_has_a_profile_and_sees_no_other(make_user, as_user, as_anon, as_service):
    ada, bob = make_user("ada@example.org", raw_user_meta_data={"full_name": "Ada L."}), make_user("bob@example.org")
    with as_user(ada) as session:
        assert session.scalars(select(UserProfile)).one().display_name == "Ada L."
        assert_refused(session, "update public.user_profiles set bio = 'x' where user_id = :id", {"id": bob})
        assert_refused(session, "update public.user_profiles set role = 'admin'")
        session.execute(text("update public.user_profiles set bio = 'mine'"))
    with as_service() as session:
        bios = {each.user_id: each.bio for each in session.scalars(select(UserProfile))}
    assert bios == {ada: "mine", bob: None}
    with as_anon() as session:
        assert_refused(session, select(UserProfile.user_id))


def test_every_test_begins_anew_with_the_applications_tables(profiles_db):
    with profiles_db.engine.connect() as connection:
        assert connection.scalar(text("select count(*) from public.user_profiles")) == 0
        assert connection.scalar(text("select count(*) from public.notes")) == 0


def test_what_is_allowed_is_not_refused(make_user, as_user):
    with as_user(make_user("ada@example.org")) as session:
        with pytest.raises(AssertionError, match="reached 1 row"):
            assert_refused(session, "update public.user_profiles set bio = 'x'")
        assert session.scalars(select(UserProfile)).one().bio is None


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_asynchronous_sessions(make_user, as_user_async, driver):
    ada = make_user("ada@example.org")

    async def work():
        async with as_user_async(ada, driver=driver) as session:
            await async_assert_refused(session, "delete from public.user_profiles")
            return (await session.scalars(select(UserProfile.username))).all()

    assert asyncio.run(work()) == ["ada"]


@pytest.mark.xfail(strict=True, raises=Exception)
def test_a_failure_of_the_statement_is_no_refusal(make_user, as_user):
    with as_user(make_user()) as session:
        assert_refused(session, "select nonsense")
"""


@pytest.mark.parametrize("place", ["server", pytest.param("embedded", marks=pytest.mark.slow)])
def test_an_application_is_tested_with_the_plug_in(server, tmp_path, place):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["profiles_schema.testing"]\n')
    (tmp_path / "test_application.py").write_text(APPLICATION)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_", "PROFILES_TEST"))}
    if place == "server":
        environment["PROFILES_TEST_DATABASE_URL"] = server.url("postgres")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tmp_path)],
        check=False, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed, 1 xfailed" in done.stdout, done.stdout
