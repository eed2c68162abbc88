"""What an application calls, in code that two type checkers accept in their strict modes."""

import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Annotated, Any, assert_type

from fastapi import FastAPI
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

import profiles_schema
from profiles_schema import (
    Actor,
    AsyncProfileService,
    ProfileService,
    UserProfile,
    acting_as,
    async_engine,
    async_require_rls,
    current_actor,
    engine,
    follow_actor,
    on_behalf_of,
    require_rls,
)
from profiles_schema.errors import FieldsRefused, ProfileNotFound, ServiceError
from profiles_schema.fastapi import (
    PROBLEMS,
    CurrentUser,
    TokenVerifier,
    allow_anon,
    async_session_for,
    install,
    require_user,
    session_for,
)
from profiles_schema.services import (
    AsyncExportService,
    Event,
    ExportService,
    Outcome,
    Page,
    PublicProfile,
    Statistics,
    SyncResult,
)
from profiles_schema.storage import DirectoryStorage
from profiles_schema.traits import BigFive

URL = "postgresql://app@/app"
ADA = uuid.UUID("3a13309b-1f04-42c4-b11e-55d56b30ac36")

database = engine(URL)
assert_type(database, Engine)
require_rls(database)
sessions = sessionmaker(database)
follow_actor(sessions)

profiles = ProfileService(sessions, cache_ttl_seconds=60)
assert_type(profiles.get(ADA), UserProfile | None)
assert_type(profiles.get_or_create(ADA).username, str)
assert_type(profiles.get_many([ADA, str(ADA)]), dict[uuid.UUID, UserProfile])
assert_type(profiles.get_public_many([ADA]), dict[uuid.UUID, PublicProfile])
assert_type(profiles.update(ADA, {"bio": "Engineer"}), UserProfile)
assert_type(profiles.patch(str(ADA), {"preferences": {"theme": "dark"}}).updated_at, datetime)
assert_type(profiles.update_many({ADA: {"bio": "x"}}), dict[uuid.UUID, Outcome])
assert_type(profiles.sync(ADA), SyncResult)
assert_type(profiles.search("a", limit=10), Page)
assert_type(profiles.statistics(), Statistics)


def on_event(event: Event) -> None:
    """Subscribe to events."""
    print(event.kind, event.user_id, event.details.get("changed"))


def be_polite(user_id: uuid.UUID, changes: Mapping[str, Any]) -> dict[str, str] | None:
    """Validate changes."""
    return {"bio": "is not polite"} if "damn" in str(changes.get("bio")) else None


profiles.subscribe(on_event)()
profiles.add_validator(be_polite)
profiles.add_source("crm", lambda profile: {"company_name": profile.email})
assert_type(profiles_schema.configure(sessions), ProfileService)
assert_type(profiles_schema.get_profile(ADA), UserProfile | None)

try:
    profiles.update(ADA, {"role": "admin"})
except FieldsRefused as refused:
    assert_type(refused.fields, dict[str, tuple[str, ...]])
except ServiceError as error:
    assert_type(error.problem(), dict[str, Any])
    assert_type(error.status, int)

with Session(database) as session, acting_as(session, ADA, claims={"aal": "aal2"}) as acting:
    assert_type(acting, Session)
    profile = session.scalars(select(UserProfile)).one()
    assert_type(profile.bio, str | None)
    profile.personality.big_five = BigFive(openness=71)

with on_behalf_of(ADA) as actor:
    assert_type(actor, Actor)
    assert_type(current_actor(), Actor)


def user_of(job: Mapping[str, uuid.UUID]) -> uuid.UUID:
    """For whom a job works."""
    return job["user"]


@on_behalf_of(user_of)
def digest(job: Mapping[str, uuid.UUID]) -> str:
    """Work in the background."""
    return str(job)


assert_type(digest({"user": ADA}), str)

storage = DirectoryStorage("/srv/exports")
exports = ExportService(sessions, storage)
assert_type(exports.request(ADA, "everything", "json").status, str)

# Asynchronous

async_database = async_engine(URL)
assert_type(async_database, AsyncEngine)
async_sessions = async_sessionmaker(async_database)
follow_actor(async_sessions)
async_profiles = AsyncProfileService(async_sessions)
async_exports = AsyncExportService(async_sessions, storage)


async def work() -> None:
    """The same with await."""
    await async_require_rls(async_database)
    assert_type(await async_profiles.get(ADA), UserProfile | None)
    assert_type((await async_profiles.patch(ADA, {"bio": None})).user_id, uuid.UUID)
    assert_type(await async_exports.link(ADA), str)
    async with async_sessions() as session, acting_as(session, ADA):
        print((await session.scalars(select(UserProfile.username))).all())


# FastAPI

signed_in = require_user(TokenVerifier.of_supabase("https://project.supabase.co", secret="x" * 32))
anyone = allow_anon(TokenVerifier("https://project.supabase.co/auth/v1", jwks_url="https://example.org/jwks.json"))
User = Annotated[CurrentUser, signed_in]
UserSession = Annotated[AsyncSession, async_session_for(async_sessions, signed_in)]
AnySession = Annotated[Session, session_for(sessions, anyone)]

app = FastAPI(responses=PROBLEMS)
install(app)


@app.get("/me")
async def me(user: User, session: UserSession) -> str:
    """A route of a user."""
    assert_type(user.id, uuid.UUID)
    found = (await session.scalars(select(UserProfile.username))).one_or_none()
    if found is None:
        raise ProfileNotFound
    return found


@app.get("/anyone")
def count(session: AnySession) -> int:
    """A route of everyone, with a synchronous session."""
    return len(session.scalars(select(UserProfile.id)).all())


async def pages() -> AsyncIterator[Page]:
    """Page through a search."""
    after: str | None = None
    while True:
        page = await async_profiles.search(after=after)
        yield page
        if page.next is None:
            return
        after = page.next
