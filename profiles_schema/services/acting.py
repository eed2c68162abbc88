"""Act for a user: every transaction of a session runs with that user's rights, and with nobody else's.

Row level security decides by two things that belong to a transaction: the role, and the claims that ``auth.uid()`` reads.
Here they belong to a session instead. They are set at the begin of each of its transactions (``SET LOCAL``, so that a
pooler in transaction mode cannot hand them to somebody else), and set again after a rollback to a savepoint.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from sqlalchemy import event, text
from sqlalchemy import inspect as inspect_mapping
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, object_session, sessionmaker

from profiles_schema.driver import sqlstate
from profiles_schema.errors import ActingRefused
from profiles_schema.schema.models import UserProfile

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
    from sqlalchemy.orm import SessionTransaction, scoped_session

UserId = uuid.UUID | str
_F = TypeVar("_F", bound=Callable[..., Any])

_STATE: Final = "profiles_schema.acting"
_FOLLOWS: Final = "follows_actor"
_MAX_CONTEXT_BYTES: Final = 2_000
# `request.jwt.claim.sub` is the older name of the same; where it is set it would win.
_SET = text(
    "select set_config('role', :role, true), set_config('request.jwt.claims', :claims, true),"
    " set_config('request.jwt.claim.sub', '', true), set_config('profiles_schema.context', :context, true)"
)
_INSUFFICIENT_PRIVILEGE = "42501"
_INVALID_VALUE = "22023"
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_FAILED_TRANSACTION = "25P02"


@dataclass(frozen=True)
class Actor:
    """For whom a session acts: the role and the claims of each of its transactions.

    Attributes:
        user_id: The user, as ``auth.uid()`` returns it; None for nobody.
        role: The role that the rights of the transaction are those of.
        claims: Further claims of the token, for ``auth.jwt()``. ``sub`` and ``role`` always are the two above.
        context: What the audit log keeps beside a change (request id, acting member of staff): a JSON object of up to
            2,000 bytes.

    Raises:
        ActingRefused: the user id is no uuid, the role is no role to act with, the context is too long, or it or the
            claims cannot be stored as JSON.
    """

    user_id: UserId | None = None
    role: str = "anon"
    claims: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.user_id is not None:
            try:
                object.__setattr__(self, "user_id", uuid.UUID(str(self.user_id)))
            except ValueError:
                raise ActingRefused("The user to act for is not given as a uuid.") from None
        # `set role none` gives back the rights of the role that logged in.
        if not self.role or self.role.lower() in {"none", "default"}:
            raise ActingRefused(f'"{self.role}" is no role to act with. Use authenticated, anon or service_role.')
        if self.user_id is None and self.role == "authenticated":
            raise ActingRefused("The role authenticated needs a user. Without a user, act with the role anon.")
        if len(self.settings["context"].encode()) > _MAX_CONTEXT_BYTES:
            raise ActingRefused(f"The context is longer than {_MAX_CONTEXT_BYTES:,} bytes of JSON.")

    @functools.cached_property
    def settings(self) -> dict[str, str]:
        """The values of the transaction's settings."""
        claims = {**self.claims, "role": self.role}
        if self.user_id is not None:
            claims["sub"] = str(self.user_id)
        else:
            claims.pop("sub", None)
        return {
            "role": self.role,
            "claims": _as_text(claims),
            "context": _as_text(self.context) if self.context else "",
        }


def _as_text(value: Mapping[str, Any]) -> str:
    """The JSON of claims or of a context. The audit log would leave out, without a word, what JSONB cannot hold."""
    try:
        json.dumps(dict(value), default=str, ensure_ascii=False).encode()  # fails for half a surrogate pair
        written = json.dumps(dict(value), default=str, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        written = None
    if written is None or _NUL.search(written):
        raise ActingRefused("The claims or the context hold something that PostgreSQL cannot store as JSON.")
    return written


NOBODY: Final = Actor()
"""Nobody signed in: the role anon, without a user."""

_blocks: ContextVar[tuple[tuple[object, Actor], ...]] = ContextVar("profiles_schema_actors", default=())
"""The blocks of ``on_behalf_of`` that this thread or task is in, the innermost last."""


@dataclass
class _State:
    """What a session knows of its actors, the innermost last."""

    follows_context: bool
    actors: list[Actor] = field(default_factory=list)
    connections: set[Connection] = field(default_factory=set)
    """Those on which the present transaction has begun, or one around it that the application began."""
    rollbacks: int = 0

    @property
    def actor(self) -> Actor:
        if self.actors:
            return self.actors[-1]
        return current_actor() if self.follows_context else NOBODY


class acting_as:  # noqa: N801 - a verb, used like a function
    """Run a session's transactions for a user: ``with Session(engine) as session, acting_as(session, user_id): ...``.

    Works with a ``Session`` as ``with``, with an ``AsyncSession`` as ``async with``. It holds for the session, not for a
    transaction: a commit or rollback inside does not end it. At the end, also after an exception, the session acts for
    the user of the block around it, or for nobody (role anon): from the first block on it never acts with the rights of the
    role that logged in. For what the application does for itself, use ``role="service_role"``.

    Unsaved changes belong to whoever made them, so they are flushed when a block begins and when it ends well. Objects are
    not passed on: inside, the session begins without any; those from inside are detached at the end, and readable.

    Args:
        session: Of a role that may set the role, and that has no rights of its own that matter: see ``require_rls``. Of a
            ``scoped_session``, it is the session of the present thread.
        user_id: The user, a uuid; None with the role anon or service_role.
        role: The role of the transactions: authenticated, anon, service_role, or one of the application's own.
        claims: Further claims for ``auth.jwt()``.
        context: What the audit log keeps beside changes of profiles, at most 2,000 bytes of JSON.

    Raises:
        ActingRefused: the arguments make no actor; the connection is in AUTOCOMMIT, where nothing lasts longer than a
            statement; or the role that logged in may not set the role.
    """

    def __init__(
        self,
        session: Session | AsyncSession | scoped_session[Session] | async_scoped_session[AsyncSession],
        user_id: UserId | None,
        role: str = "authenticated",
        claims: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        self._session: Session | AsyncSession = session.registry() if hasattr(session, "registry") else session
        self._actor = Actor(user_id, role, claims or {}, context or {})
        self._outside: list[tuple[list[Any], SessionTransaction | None, int]] = []

    def __enter__(self) -> Session:
        if not isinstance(self._session, Session):
            raise ActingRefused("An AsyncSession needs `async with acting_as(...)`.")
        self._begin(self._session)
        return self._session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(cast("Session", self._session), failed=kind is not None)

    async def __aenter__(self) -> AsyncSession:
        if isinstance(self._session, Session):
            raise ActingRefused("A Session needs `with acting_as(...)`, without async.")
        await self._session.run_sync(self._begin)
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session = cast("AsyncSession", self._session)
        await session.run_sync(functools.partial(self._end, failed=kind is not None))

    def _begin(self, session: Session) -> None:
        session.flush()
        state = _state(session)
        if session.in_transaction():
            # It may have begun before anybody listened. The connection that has the profiles, where there are several.
            state.connections.add(session.connection(bind_arguments={"mapper": inspect_mapping(UserProfile)}))
        self._outside.append((list(session), session.get_transaction(), state.rollbacks))
        session.expunge_all()
        state.actors.append(self._actor)
        try:
            _set_again(session)
        except BaseException:
            self._end(session, failed=True)
            raise

    def _end(self, session: Session, *, failed: bool) -> None:
        state = _state(session)
        outside, transaction, rollbacks = self._outside.pop()
        try:
            if not failed:
                session.flush()
        except BaseException:
            failed = True
            raise
        finally:
            del state.actors[_last(state.actors, self._actor)]
            session.expunge_all()
            is_another = session.get_transaction() is not transaction
            # Adding begins a transaction, which the caller's own `with session.begin()` would trip over.
            begun = None if session.in_transaction() else session.begin()
            session.add_all([each for each in outside if object_session(each) is None])
            if begun:
                begun.close()
            # They were away when the session expired the others. After a rollback they hold values that are undone.
            if state.rollbacks != rollbacks or (is_another and session.expire_on_commit):
                session.expire_all()
            # A transaction that has failed takes no statement; its rollback undoes the settings, too.
            if session.is_active:
                try:
                    _set_again(session)
                except (DBAPIError, ActingRefused) as error:
                    if not failed and sqlstate(error) != _FAILED_TRANSACTION:
                        raise


def _last(actors: list[Actor], actor: Actor) -> int:
    return max(place for place, each in enumerate(actors) if each == actor)


class on_behalf_of:  # noqa: N801 - a verb, used like a function
    """Act for a user in everything that is called inside: for a whole request, or as a decorator of a background job.

    Sessions of a factory that was given to ``follow_actor`` begin their transactions for this user. It holds for the present
    thread or task and those that it starts (a context variable)::

        with on_behalf_of(user_id, context={"request": request_id}):
            response = handle(request)

        @on_behalf_of(lambda job: job.user_id)
        def send_digest(job): ...

    A transaction that has begun keeps its user. Arguments as for ``acting_as``; as a decorator, ``user_id`` may be a function
    of the arguments.
    """

    def __init__(
        self,
        user_id: UserId | Callable[..., UserId | None] | None,
        role: str = "authenticated",
        claims: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        self._user_id = user_id
        self._rest = (role, claims or {}, context or {})

    def __enter__(self) -> Actor:
        if callable(self._user_id):
            raise ActingRefused("A function that names the user is for a decorator; here, give the user.")
        actor = Actor(self._user_id, *self._rest)
        # Nothing of it is kept in the block, because several threads may be in the same one.
        _blocks.set((*_blocks.get(), (self, actor)))
        return actor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        blocks = _blocks.get()
        places = [place for place, (block, _) in enumerate(blocks) if block is self]
        if not places:
            raise ActingRefused("This block of on_behalf_of began in another thread or task.")
        _blocks.set(blocks[: places[-1]])

    def __call__(self, function: _F) -> _F:
        """The function, run for the user."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ActingRefused(
                "A generator runs where it is read, outside of the decorator. Write the block inside of it."
            )

        def block_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> on_behalf_of:
            user_id = self._user_id(*args, **kwargs) if callable(self._user_id) else self._user_id
            return on_behalf_of(user_id, *self._rest)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with block_of(args, kwargs):
                return function(*args, **kwargs)

        @functools.wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with block_of(args, kwargs):
                return await function(*args, **kwargs)

        return cast("_F", run_async if inspect.iscoroutinefunction(function) else run)


def current_actor() -> Actor:
    """For whom ``on_behalf_of`` lets this thread or task act; ``NOBODY`` outside of it."""
    blocks = _blocks.get()
    return blocks[-1][1] if blocks else NOBODY


def follow_actor(
    factory: sessionmaker[Session]
    | async_sessionmaker[AsyncSession]
    | scoped_session[Session]
    | async_scoped_session[AsyncSession],
) -> None:
    """Let every session of a factory act for the user of ``on_behalf_of``, and for nobody (role anon) without one.

    Call it once, where the factory is made. ``acting_as`` on such a session wins for its block.
    """
    if hasattr(factory, "session_factory"):
        factory = factory.session_factory
    if follows_actor(factory):
        return
    # Not for the class itself: other factories make sessions of it, too.
    if isinstance(factory, sessionmaker):
        factory.class_ = _following(factory.class_)
    else:
        base = factory.kw.get("sync_session_class", factory.class_.sync_session_class)
        factory.configure(sync_session_class=_following(base))


def follows_actor(factory: sessionmaker[Session] | async_sessionmaker[AsyncSession]) -> bool:
    """Whether ``follow_actor`` was called with this factory: what its sessions may read depends on the user."""
    factory = getattr(factory, "session_factory", factory)  # of a scoped_session
    made: Any = factory.class_
    if not isinstance(factory, sessionmaker):
        made = factory.kw.get("sync_session_class", made.sync_session_class)
    return bool(getattr(made, _FOLLOWS, False))


def _following(base: type[Session]) -> type[Session]:
    following: type[Session] = type("ActingSession", (base,), {_FOLLOWS: True})
    _listen(following)
    return following


def _state(session: Session) -> _State:
    state: _State | None = session.info.get(_STATE)
    if state is None:
        follows = bool(getattr(session, _FOLLOWS, False))
        state = session.info[_STATE] = _State(follows)
        if not follows:
            _listen(session)
    return state


def _listen(target: Any) -> None:
    event.listen(target, "after_begin", _after_begin)
    event.listen(target, "after_soft_rollback", _after_soft_rollback)
    event.listen(target, "after_transaction_end", _after_transaction_end)


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    del transaction
    state = _state(session)
    state.connections.add(connection)
    try:
        _set(connection, state.actor)
    except BaseException:
        # The session keeps the connection, and would go on with the rights of the role that logged in.
        connection.invalidate()
        raise


def _after_soft_rollback(session: Session, previous: SessionTransaction) -> None:
    """A rollback to a savepoint brings the settings back that held when it was made."""
    del previous
    _state(session).rollbacks += 1
    if session.is_active:
        _set_again(session)


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        # A session on a connection leaves the settings in the transaction that the application began there.
        connections = _state(session).connections
        connections.difference_update([each for each in connections if not each.in_transaction()])


def _set_again(session: Session) -> None:
    """Set the actor in the transaction that has begun, if one has."""
    state = _state(session)
    # Not through the session: inside `with session.begin_nested()`, it takes no statement after a rollback.
    for connection in state.connections:
        # A connection that broke takes no statement until the rollback, and begins anew after it.
        if connection.in_transaction() and not connection.invalidated:
            _set(connection, state.actor)


def _set(connection: Connection, actor: Actor) -> None:
    if connection.dialect.name != "postgresql":
        return
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise ActingRefused("This connection is in AUTOCOMMIT, where a user holds for one statement. Use transactions.")
    try:
        # Where the connection streams its results, a cursor would stay open.
        connection.execute(_SET, actor.settings, execution_options={"stream_results": False, "yield_per": None})
    except DBAPIError as error:
        if sqlstate(error) == _INSUFFICIENT_PRIVILEGE:
            login = connection.engine.url.username
            problem = (
                f"The role {login} may not act as {actor.role}. An administrator runs: grant {actor.role} to {login};"
            )
        elif sqlstate(error) == _INVALID_VALUE:
            problem = f"There is no role {actor.role}. Use authenticated, anon or service_role."
        else:
            raise
        raise ActingRefused(problem) from None
