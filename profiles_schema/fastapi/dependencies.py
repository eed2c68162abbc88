"""Dependencies of routes: the user of a request, and a session that acts for them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, cast

from fastapi import Depends, params
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import HTTPConnection

from profiles_schema.errors import TokenRefused
from profiles_schema.fastapi.requests import note, request_context
from profiles_schema.fastapi.tokens import CurrentUser, TokenVerifier
from profiles_schema.services.acting import Actor, acting_as, on_behalf_of

# FastAPI closes dependencies of this scope before it sends the response, and those of the scope "request" afterwards. If a
# commit failed then, the client would have been told that it succeeded.
_SCOPE: Final = "function"


class _BearerToken(SecurityBase):
    """The token of the header Authorization; None without that header. Also for websockets, unlike FastAPI's own."""

    def __init__(self) -> None:
        self.model = HTTPBearer(bearerFormat="JWT", description="An access token of the auth server")
        self.scheme_name = "access_token"

    async def __call__(self, connection: HTTPConnection) -> str | None:
        return await _optional_token(connection)


async def _optional_token(connection: HTTPConnection) -> str | None:
    given = connection.headers.getlist("authorization")
    if not given:
        return None
    scheme, _, token = given[0].partition(" ")
    # If there are two headers, a proxy may have checked the other one.
    if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise TokenRefused(reason="malformed")
    return token.strip()


_required_token: Final = _BearerToken()


def require_user(verifier: TokenVerifier) -> params.Depends:
    """The user of a request, as a dependency.

    For a route's argument: ``User = Annotated[CurrentUser, signed_in]``, where ``signed_in`` is what this returns.
    While the route runs, sessions of a ``follow_actor`` factory act for this user as well. What runs after the response
    (background tasks, the rest of a stream) acts for no user.

    Raises, in the request:
        TokenRefused: there is no token, or it is not valid.
        TokenKeysUnavailable: the auth server does not answer.
    """
    return _user(verifier, is_required=True)


def allow_anon(verifier: TokenVerifier) -> params.Depends:
    """As ``require_user``, but None for a request without a token. One that is not valid is refused nevertheless."""
    return _user(verifier, is_required=False)


def _user(verifier: TokenVerifier, *, is_required: bool) -> params.Depends:
    # The OpenAPI document says of the first kind that the route needs a token.
    read_token: Any = Depends(_required_token if is_required else _optional_token)

    async def current_user(
        connection: HTTPConnection, token: str | None = read_token
    ) -> AsyncIterator[CurrentUser | None]:
        if token is None and is_required:
            raise TokenRefused(
                "An access token is needed. Send it in the header Authorization: Bearer TOKEN.", reason="missing"
            )
        user = None if token is None else await verifier.verify_async(token)
        # A token of the role anon signs no user in.
        if user is not None and is_required and user.role != "authenticated":
            raise TokenRefused(reason="role")
        if user is not None:
            note(connection, user_id=str(user.id))
        actor = _actor(user, connection)
        with on_behalf_of(actor.user_id, actor.role, actor.claims, actor.context):
            yield user

    return cast("params.Depends", Depends(current_user, scope=_SCOPE))


def session_for(sessions: sessionmaker[Session], user: params.Depends) -> params.Depends:
    """A session that acts for the user of the request, as a dependency.

    For a route's argument: ``UserSession = Annotated[Session, session_for(sessions, signed_in)]``.
    It is committed when the route has returned, before the response is sent, and rolled back when the route raises. A
    route may commit before: the user stays. After the route it cannot be used any more.

    Args:
        sessions: Of an engine that ``require_rls`` accepts.
        user: What ``require_user`` or ``allow_anon`` returned; without a user the session acts as anon.
    """

    def session(connection: HTTPConnection, user: Any = user) -> Iterator[Session]:
        with sessions(close_resets_only=False) as opened, _acting(opened, user, connection):
            yield opened
            opened.commit()

    return cast("params.Depends", Depends(session, scope=_SCOPE))


def async_session_for(sessions: async_sessionmaker[AsyncSession], user: params.Depends) -> params.Depends:
    """As ``session_for``, with an AsyncSession."""

    async def session(connection: HTTPConnection, user: Any = user) -> AsyncIterator[AsyncSession]:
        async with sessions(close_resets_only=False) as opened, _acting(opened, user, connection):
            yield opened
            await opened.commit()

    return cast("params.Depends", Depends(session, scope=_SCOPE))


def _acting(session: Session | AsyncSession, user: CurrentUser | None, connection: HTTPConnection) -> acting_as:
    actor = _actor(user, connection)
    return acting_as(session, actor.user_id, actor.role, actor.claims, actor.context)


def _actor(user: CurrentUser | None, connection: HTTPConnection) -> Actor:
    context = request_context(connection)
    return Actor(context=context) if user is None else Actor(user.id, user.role, user.claims, context)
