"""What ProfileService costs its caller: CPU of the client, in one run, medians of the rounds.

  cached     get from the cache, against a dictionary with an expiry that a program might keep itself
  uncached   get with the cache off, against the same select by hand, with a session of its own
  async      the same get, asynchronous on psycopg, against synchronous on psycopg
  acting_as  a transaction of one select inside acting_as, against the same transaction without

    python benchmarks/service.py [--rounds 7] [--out FILE]

Works on a database of its own on the embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psycopg2
from common import at_most, fresh_database, report, tell
from psycopg2.extensions import parse_dsn
from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from profiles_schema import AsyncProfileService, ProfileService, UserProfile, acting_as


def url_of(dsn: str, driver: str) -> str:
    parts = parse_dsn(dsn)
    return (
        f"postgresql+{driver}://{quote(parts.get('user', ''))}@/{parts['dbname']}"
        f"?host={quote(parts['host'])}&port={parts.get('port', '5432')}"
    )


def seconds(work: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of each variant (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the result here, too")
    options = parser.parse_args()
    dsn = fresh_database("profiles_schema_service")
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("insert into auth.users (email) values ('ada@example.org') returning id")
        user = cursor.fetchone()[0]  # type: ignore[index]
        connection.commit()

    sessions = sessionmaker(create_engine(url_of(dsn, "psycopg")))
    cached, uncached = ProfileService(sessions), ProfileService(sessions, cache_size=0)
    kept = {user: (time.monotonic() + 300, cached.get(user))}

    def by_hand() -> object:
        expires, profile = kept[user]
        return profile if expires > time.monotonic() else None

    def select_by_hand() -> object:
        with sessions() as session, session.begin():
            return session.scalars(select(UserProfile).where(UserProfile.user_id == user)).one_or_none()

    def plain() -> None:
        with Session(sessions.kw["bind"]) as session:
            session.scalars(select(UserProfile.bio).where(UserProfile.user_id == user)).all()

    def acting() -> None:
        with Session(sessions.kw["bind"]) as session, acting_as(session, user):
            session.scalars(select(UserProfile.bio).where(UserProfile.user_id == user)).all()

    runner = asyncio.Runner()
    async_engine = create_async_engine(url_of(dsn, "psycopg_async"))
    asynchronous = AsyncProfileService(async_sessionmaker(async_engine), cache_size=0)

    async def several() -> None:
        for _ in range(300):
            await asynchronous.get(user)

    taken: dict[str, list[float]] = {}
    for number in range(options.rounds + 1):
        tell(f"\rround {number} of {options.rounds}")
        found = {
            "cached": seconds(lambda: cached.get(user), 20_000),
            "dictionary": seconds(by_hand, 200_000),
            "uncached": seconds(lambda: uncached.get(user), 300),
            "select": seconds(select_by_hand, 300),
            "async": seconds(lambda: runner.run(several()), 1) / 300,
            "acting": seconds(acting, 300),
            "plain": seconds(plain, 300),
        }
        if number:  # the first warms up
            for name, each in found.items():
                taken.setdefault(name, []).append(each)
    runner.run(async_engine.dispose())
    runner.close()
    median = {name: statistics.median(each) for name, each in taken.items()}
    return report(
        {
            "benchmark": "service",
            "rounds": options.rounds,
            "cpu_us": {name: round(each * 1e6, 2) for name, each in median.items()},
            "aims": {"uncached": at_most(round(median["uncached"] / median["select"], 3), 1.15)},
            "cached_to_dictionary": round(median["cached"] / median["dictionary"], 1),
            "async_to_sync": round(median["async"] / median["uncached"], 2),
            "acting_as_to_none": round(median["acting"] / median["plain"], 2),
        },
        options.out,
    )


if __name__ == "__main__":
    raise SystemExit(main())
