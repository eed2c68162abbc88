"""What both type checkers have to find, a mistake a line."""

from profiles_schema import UserProfile
from profiles_schema.errors import ProfileNotFound
from profiles_schema.fastapi import TokenVerifier, require_user, session_for
from support.consumer.program import async_sessions, profiles, signed_in

profiles.gett("3a13309b-1f04-42c4-b11e-55d56b30ac36")
profiles.update("3a13309b-1f04-42c4-b11e-55d56b30ac36", bio="Engineer")
profiles.get_or_create(17)
print(UserProfile().biography)
print(ProfileNotFound().state)
TokenVerifier(jwks_url="https://example.org/jwks.json")
require_user("https://example.org/jwks.json")
session_for(async_sessions, signed_in)
