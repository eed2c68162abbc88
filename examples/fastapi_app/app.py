"""An API for profiles: every route acts for the user of its token, behind row level security. README.md says how to run it."""

import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import jwt
from fastapi import APIRouter, Body, FastAPI, Header, HTTPException, Path, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from profiles_schema import (
    AsyncProfileService,
    ExportHistory,
    UserProgress,
    acting_as,
    async_engine,
    async_require_rls,
    follow_actor,
)
from profiles_schema.errors import ExportNotFound, ExportStepRefused, ProfileNotFound, ServiceFailed
from profiles_schema.fastapi import (
    PROBLEMS,
    CurrentUser,
    TokenVerifier,
    allow_anon,
    async_session_for,
    install,
    require_user,
)
from profiles_schema.services import AsyncApiKeyService, AsyncExportService, PublicProfile
from profiles_schema.storage import DirectoryStorage, export_key

ISSUER = os.environ["TOKEN_ISSUER"]  # on Supabase: https://PROJECT.supabase.co/auth/v1
# Only without an auth server: then this application signs users up itself, and signs their tokens.
SIGNS_UP = os.environ.get("SIGN_UP") == "yes"
SECRET = os.environ["TOKEN_SECRET"] if SIGNS_UP else os.environ.get("TOKEN_SECRET", "")
TOKEN_LIFETIME = timedelta(hours=1)
LARGEST_COUNT = 2**31 - 1

engine = async_engine(os.environ["DATABASE_URL"], pool_size=int(os.environ.get("POOL_SIZE", "5")))
sessions = async_sessionmaker(engine)
follow_actor(sessions)  # what the services open acts for the user of the request
storage = DirectoryStorage(os.environ["EXPORTS_DIRECTORY"])
profiles = AsyncProfileService(sessions)
exports = AsyncExportService(sessions, storage)
api_keys = AsyncApiKeyService(sessions)  # encrypts with PROFILES_ENCRYPTION_KEYS

verifier = TokenVerifier(ISSUER, jwks_url=os.environ.get("JWKS_URL"), secret=SECRET or None)
signed_in = require_user(verifier)
anyone = allow_anon(verifier)
User = Annotated[CurrentUser, signed_in]
UserSession = Annotated[AsyncSession, async_session_for(sessions, signed_in)]
AnySession = Annotated[AsyncSession, async_session_for(sessions, anyone)]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
    """Refuse to start with a role that row level security does not bind."""
    await async_require_rls(engine)
    yield
    await engine.dispose()


app = FastAPI(title="Profiles", lifespan=lifespan, responses=PROBLEMS)
install(app)


class _Row(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class SignUp(BaseModel):
    """A new user."""

    email: str = Field(pattern=r"^[\w.+-]+@[\w-]+(\.[\w-]+)+$", max_length=254)
    name: str | None = Field(default=None, max_length=100)


class SignedUp(BaseModel):
    """The new user's id and first token."""

    id: UUID
    access_token: str


class OwnProfile(_Row):
    """What users see of their own profile."""

    user_id: UUID
    username: str
    email: str | None
    display_name: str | None
    first_name: str | None
    last_name: str | None
    bio: str | None
    avatar_emoji: str | None
    profile_visibility: str
    language: str
    timezone: str
    preferences: dict[str, Any] | None
    updated_at: datetime


class Public(_Row):
    """What a public profile shows to everyone."""

    username: str
    display_name: str | None
    avatar_emoji: str | None
    avatar_url: str | None
    profile_picture_url: str | None
    bio: str | None


class Progress(_Row):
    """The totals of a user."""

    total_sessions: int
    total_points: int
    current_streak_days: int
    longest_streak_days: int
    last_active_on: date | None
    mastered_words_count: int
    learning_words_count: int
    new_words_count: int


class Deletion(BaseModel):
    """The confirmation: the username, as the person typed it."""

    username: str = Field(max_length=100)


class Words(BaseModel):
    """The counters that the application keeps."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mastered_words_count: int = Field(ge=0, le=LARGEST_COUNT)
    learning_words_count: int = Field(ge=0, le=LARGEST_COUNT)
    new_words_count: int = Field(ge=0, le=LARGEST_COUNT)


class NewKey(BaseModel):
    """A key of the user at another provider."""

    key: SecretStr = Field(min_length=1, max_length=500)


class Key(_Row):
    """A key as lists show it, without the key."""

    provider: str
    hint: str | None
    is_active: bool
    updated_at: datetime


class Export(_Row):
    """An export of everything that the user has here."""

    id: UUID
    status: str
    records_count: int
    created_at: datetime
    expires_at: datetime | None


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the database answers."""
    try:
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))
    except OSError:  # asyncpg's, for a server that is not there
        raise ServiceFailed from None
    return {"status": "ok"}


local_users = APIRouter()


@local_users.post("/users", status_code=201)
async def sign_up(new: SignUp) -> SignedUp:
    """Create a user with a profile, on a plain server. A project with an auth server signs up there instead."""
    values = {"email": new.email, "name": new.name}
    statement = text(
        "select public.create_user(email => :email,"
        " metadata => jsonb_strip_nulls(jsonb_build_object('full_name', cast(:name as text))))"
    )
    async with sessions() as session, acting_as(session, None, role="service_role"):
        user_id = (await session.execute(statement, values)).scalar_one()
        await session.commit()
    now = datetime.now(UTC)
    claims = {
        "iss": ISSUER, "aud": "authenticated", "role": "authenticated", "sub": str(user_id),
        "iat": now, "exp": now + TOKEN_LIFETIME,
    }  # fmt: skip
    return SignedUp(id=user_id, access_token=jwt.encode(claims, SECRET, "HS256"))


if SIGNS_UP:
    app.include_router(local_users)


@app.get("/me/profile")
async def read_profile(user: User, response: Response) -> OwnProfile:
    """The user's own profile, created if the sign-up missed it."""
    return _own(await profiles.get_or_create(user.id), response)


def _read_etag(value: str) -> datetime:
    return datetime.fromisoformat(value.strip('"'))


Version = Annotated[AwareDatetime, BeforeValidator(_read_etag)]
IfMatch = Annotated[
    Version | None, Header(description="The ETag that was read: write only if nothing has changed since")
]
Changes = Annotated[dict[str, Any], Body(description="Fields of the profile that a person may edit, with new values")]


@app.put("/me/profile")
async def update_profile(user: User, changes: Changes, response: Response, if_match: IfMatch = None) -> OwnProfile:
    """Write fields. A document (preferences and the like) is replaced as a whole."""
    return _own(await profiles.update(user.id, changes, if_updated_at=if_match), response)


@app.patch("/me/profile")
async def patch_profile(user: User, changes: Changes, response: Response, if_match: IfMatch = None) -> OwnProfile:
    """Write fields, and merge documents into the stored ones (RFC 7386)."""
    return _own(await profiles.patch(user.id, changes, if_updated_at=if_match), response)


@app.get("/profiles/{username}")
async def read_public_profile(username: Annotated[str, Path(max_length=100)], session: AnySession) -> Public:
    """A public profile, by its username."""
    row = (await session.execute(text("select * from public.get_public_profile(:name)"), {"name": username})).first()
    if row is None:
        raise ProfileNotFound("There is no public profile of this name.")
    return Public.model_validate(row)


@app.get("/profiles")
async def read_public_profiles(ids: Annotated[list[UUID], Query(max_length=200)]) -> dict[UUID, Public]:
    """Public profiles of up to 200 users, by their ids."""
    found: dict[UUID, PublicProfile] = await profiles.get_public_many(ids)
    return {user_id: Public.model_validate(profile) for user_id, profile in found.items()}


MY_PROGRESS = text("select * from public.get_my_progress()")


@app.get("/me/progress")
async def read_progress(session: UserSession) -> Progress:
    """The user's totals, with the streak as of today."""
    return Progress.model_validate((await session.execute(MY_PROGRESS)).one())


@app.put("/me/progress")
async def write_words(words: Words, user: User, session: UserSession) -> Progress:
    """Write the three counters of words. Points and totals are counted by the server."""
    await session.execute(MY_PROGRESS)  # creates the row
    await session.execute(update(UserProgress).where(UserProgress.user_id == user.id).values(**words.model_dump()))
    return Progress.model_validate((await session.execute(MY_PROGRESS)).one())


Provider = Annotated[str, Path(description="For example openai", max_length=100)]


@app.get("/me/keys")
async def list_keys(user: User) -> list[Key]:
    """The user's keys at other providers, with their last four characters. No route returns a key."""
    return [Key.model_validate(each) for each in await api_keys.list(user.id)]


@app.put("/me/keys/{provider}")
async def set_key(provider: Provider, new: NewKey, user: User) -> Key:
    """Store a key, encrypted, or replace the one that is there."""
    return Key.model_validate(await api_keys.set(user.id, provider, new.key.get_secret_value()))


@app.delete("/me/keys/{provider}", status_code=204)
async def delete_key(provider: Provider, user: User) -> None:
    """Delete a key."""
    if not await api_keys.delete(user.id, provider):
        raise HTTPException(404, "There is no key of this provider.")


@app.post("/me/exports", status_code=202)
async def request_export(session: UserSession) -> dict[str, UUID]:
    """Queue an export of everything; one at a time. `profiles-schema exports work` writes it."""
    return {"id": (await session.execute(text("select public.export_my_data()"))).scalar_one()}


@app.get("/me/exports")
async def list_exports(session: UserSession) -> list[Export]:
    """The user's exports, the newest first."""
    newest = select(ExportHistory).order_by(ExportHistory.created_at.desc()).limit(50)
    return [Export.model_validate(each) for each in await session.scalars(newest)]


@app.get("/me/exports/{export_id}")
async def read_export(export_id: UUID, _: User) -> Export:
    """One export."""
    return Export.model_validate(await exports.get(export_id))


@app.get("/me/exports/{export_id}/file", response_class=StreamingResponse)
async def download_export(export_id: UUID, _: User) -> StreamingResponse:
    """The file of a completed export."""
    export = await exports.get(export_id)
    if export.status != "completed":
        raise ExportStepRefused(f"There is no file: the export is {export.status}.")
    try:
        file = await run_in_threadpool(storage.open, export_key(export.user_id, export.id))
    except FileNotFoundError:
        raise ExportNotFound from None

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.read(1 << 16):
                yield piece

    headers = {
        "Content-Disposition": f'attachment; filename="{export.id}.{export.export_format}"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)


@app.post("/me/deletion", status_code=204)
async def delete_account(deletion: Deletion, session: UserSession) -> None:
    """Shut the account at once. `profiles-schema users erase --pending` erases what belongs to it."""
    await session.execute(text("select public.delete_my_account(:username)"), {"username": deletion.username})


def _own(profile: Any, response: Response) -> OwnProfile:
    response.headers["ETag"] = f'"{profile.updated_at.isoformat()}"'
    return OwnProfile.model_validate(profile)
