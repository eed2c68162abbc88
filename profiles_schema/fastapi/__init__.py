"""Profiles behind FastAPI (extra ``fastapi``): who sends a request, a session that acts for them, and errors as RFC 9457.

::

    verifier = TokenVerifier.of_supabase("https://PROJECT.supabase.co")
    signed_in = require_user(verifier)
    User = Annotated[CurrentUser, signed_in]
    UserSession = Annotated[AsyncSession, async_session_for(sessions, signed_in)]

    app = FastAPI()
    install(app)

    @app.get("/profile")
    async def profile(session: UserSession) -> str:
        return (await session.scalars(select(UserProfile.username))).one()
"""

from profiles_schema.fastapi.dependencies import allow_anon, async_session_for, require_user, session_for
from profiles_schema.fastapi.problems import PROBLEMS, install
from profiles_schema.fastapi.tokens import CurrentUser, TokenVerifier

__all__ = [
    "PROBLEMS",
    "CurrentUser",
    "TokenVerifier",
    "allow_anon",
    "async_session_for",
    "install",
    "require_user",
    "session_for",
]
