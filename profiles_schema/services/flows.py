"""One logic for synchronous and asynchronous services: a flow yields what it waits for, and a driver does it.

What touches the database is a plain function of a ``Session``; an asynchronous driver runs it by ``AsyncSession.run_sync``.
Everything else that takes time is an effect as well. Retries, layers and the cache are written once, in flows. An exception of
an effect is raised inside the flow, so ``try`` works there.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.util.concurrency import await_only, in_greenlet

from profiles_schema import driver

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

T = TypeVar("T")

ATTEMPTS: Final = 3
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Db:
    """Work in a session and a transaction of its own, committed at its end; ``replica`` if it may be read elsewhere."""

    work: Callable[[Session], Any]
    replica: bool = False


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """The result of what another thread or task is about to find."""

    future: Future[Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the application; with an asynchronous service it may be asynchronous."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Block:
    """A function that blocks, such as one of a storage; an asynchronous driver runs it in a thread."""

    function: Callable[[], Any]


Effect = Db | Sleep | Wait | Call | Block
Flow = Generator[Effect, Any, T]


class SyncDriver:
    """Runs flows with sessions of a ``sessionmaker``."""

    def __init__(self, factory: sessionmaker[Session], read_factory: sessionmaker[Session] | None) -> None:
        # Of a scoped_session: its present session belongs to the request.
        self._factory = getattr(factory, "session_factory", factory)
        self._read_factory = getattr(read_factory, "session_factory", read_factory)

    def run(self, flow: Flow[T]) -> T:
        """The result of the flow."""
        try:
            effect = next(flow)
            while True:
                try:
                    answer = self._perform(effect)
                except Exception as error:  # noqa: BLE001 - the flow decides
                    effect = flow.throw(error)
                else:
                    effect = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            flow.close()

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Db(work, replica):
                factory = self._read_factory if replica and self._read_factory else self._factory
                with factory() as session, session.begin():
                    return work(session)
            case Sleep(seconds):
                return time.sleep(seconds)
            case Wait(future):
                return future.result()
            case Call(function):
                answer = function()
                if inspect.isawaitable(answer):
                    if inspect.iscoroutine(answer):
                        answer.close()
                    raise TypeError("An asynchronous function was registered. Use it with the asynchronous service.")
                return answer
            case Block(function):
                return function()


class AsyncDriver:
    """Runs flows with sessions of an ``async_sessionmaker``."""

    def __init__(
        self, factory: async_sessionmaker[AsyncSession], read_factory: async_sessionmaker[AsyncSession] | None
    ) -> None:
        # Of a scoped_session: its present session belongs to the request.
        self._factory = getattr(factory, "session_factory", factory)
        self._read_factory = getattr(read_factory, "session_factory", read_factory)

    async def run(self, flow: Flow[T]) -> T:
        """The result of the flow."""
        try:
            effect = next(flow)
            while True:
                try:
                    answer = await self._perform(effect)
                except Exception as error:  # noqa: BLE001 - the flow decides
                    effect = flow.throw(error)
                else:
                    effect = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            # Also when the task is cancelled: a flow that others wait for lets them know.
            flow.close()

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Db(work, replica):
                factory = self._read_factory if replica and self._read_factory else self._factory
                async with factory() as session, session.begin():
                    return await session.run_sync(work)
            case Sleep(seconds):
                return await asyncio.sleep(seconds)
            case Wait(future):
                return await asyncio.wrap_future(future)
            case Call(function):
                answer = function()
                return await answer if isinstance(answer, Awaitable) else answer
            case Block(function):
                return await asyncio.to_thread(function)


def call_blocking(function: Callable[[], T]) -> T:
    """What a function that blocks returns, called inside work in a session: in a thread, if the session is asynchronous."""
    # The work of an asynchronous session runs in a greenlet, which can wait for the thread without holding up the event loop.
    return await_only(asyncio.to_thread(function)) if in_greenlet() else function()


def pause_seconds(attempt: int) -> float:
    """How long to wait after this attempt (the first is 1): twice as long each time, and at random between half and all."""
    longest = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
    return random.uniform(longest / 2, longest)  # noqa: S311 - spreads retries, protects nothing


def retry(effect: Db, may_retry: Callable[[BaseException], bool]) -> Flow[Any]:
    """The effect's result; up to three attempts, where the failure is one that may pass."""
    for attempt in range(1, ATTEMPTS):
        try:
            return (yield effect)
        except Exception as error:
            if not may_retry(error):
                raise
        # What may be read from a replica is read from the primary where the replica failed.
        effect = Db(effect.work)
        yield Sleep(pause_seconds(attempt))
    return (yield effect)


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a database error, also of one that asyncpg raises before SQLAlchemy sees it."""
    state = driver.sqlstate(error) or getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def is_rolled_back(error: BaseException) -> bool:
    """Whether the failure may pass, and proves that nothing was committed: serialization, deadlock, lock timeout."""
    return sqlstate(error) in driver.LOCK_FAILURES


def is_transient(error: BaseException) -> bool:
    """Whether the failure may pass: as above, or the connection is gone, or there is none yet.

    A commit may have succeeded although its connection broke: for work that may be done twice.
    """
    state = sqlstate(error) or ""
    if is_rolled_back(error) or state.startswith("08") or state in {"57P01", "57P02", "57P03"}:
        return True
    # No connection, no SQLSTATE: libpq gives none for a server that refuses or is starting.
    no_answer = isinstance(error, OperationalError) and not state
    return no_answer or isinstance(error, OSError) or (isinstance(error, DBAPIError) and error.connection_invalidated)
