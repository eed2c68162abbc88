"""An application that was written for a shape, and goes on with its statements while the tables under it are taken over.

Its statements are those of its repositories, not ours: it knows nothing of the upgrade, and tries nothing twice.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg2

from support import Database

CONNECTIONS = 6
# The auth server, a user by the API, anybody by the API, the application's own server.
AUTH, USER, ANYBODY, SERVER = "auth", "authenticated", "anon", "server"


@dataclass(frozen=True)
class Statement:
    """One kind of statement: who sends it, and how. ``{id}`` is a user who has a row, ``{new}`` a fresh id, ``{n}`` a number."""

    name: str
    who: str
    sql: str


_AUTH = (
    Statement("sign-up", AUTH, "insert into users (id, email, raw_user_meta_data) values ('{new}', 'New.{n}@example.org', '{{\"full_name\": \"New\"}}')"),
    Statement("sign-in", AUTH, "update users set last_sign_in_at = now() where id = '{id}'"),
)  # fmt: skip
_A = (
    *_AUTH,
    Statement("own profile", USER, "select * from public.user_profiles where id = '{id}'"),
    Statement("own profile by a uuid", USER, "select * from public.user_profiles where id = auth.uid()"),
    Statement("profiles of others", USER, "select id, username, avatar_emoji from public.user_profiles limit 10"),
    Statement("profiles, by anybody", ANYBODY, "select id, username from public.user_profiles limit 10"),
    Statement("update", USER, "update public.user_profiles set bio = 'Bio {n}', updated_at = now() where id = '{id}'"),
    Statement("update of a column of its own", USER, "update public.user_profiles set favourite_colour = 'blue' where id = '{id}'"),
    Statement("upsert", USER, "insert into public.user_profiles (id, bio) values ('{id}', 'Bio {n}') on conflict (id) do update set bio = excluded.bio"),
    Statement("update, by a server", SERVER, "update public.user_profiles set bio = 'Bio {n}' where id = '{id}'"),
    Statement("insert, by a server", SERVER, "insert into public.user_profiles (id, username) values ('{new}', 'Name {n}')"),
    Statement("prepared", SERVER, "execute profile('{id}')"),
    Statement("post", SERVER, "insert into public.posts (author, body) values ('{id}', 'Post {n}')"),
    Statement("view", SERVER, "select * from public.profile_cards where id = '{id}'"),
    Statement("join", SERVER, "select p.username, o.body from public.posts as o join public.user_profiles as p on p.id = o.author where o.author = '{id}'"),
)  # fmt: skip
_B = (
    *_AUTH,
    Statement("own profile", USER, "select * from public.profiles where id = '{id}'"),
    Statement("own profile by a uuid", USER, "select * from public.profiles where id = auth.uid()"),
    Statement("update", USER, "update public.profiles set bio = 'Bio {n}', updated_at = now() where id = auth.uid()"),
    Statement("update of a column of its own", USER, "update public.profiles set seats = 3 where id = '{id}'"),
    Statement("upsert", USER, "insert into public.profiles (id, full_name) values ('{id}', 'Name {n}') on conflict (id) do update set full_name = excluded.full_name"),
    Statement("insert, by a server", SERVER, "insert into public.profiles (id, email, full_name) select u.id, u.email, 'Name' from auth.users as u where u.email like 'New.%%' order by md5(u.id || '{n}') limit 1 on conflict (id) do nothing"),
    Statement("sign-in, by a server", SERVER, "update public.profiles set last_login = now(), login_count = least(coalesce(login_count, 0), 1000) + 1 where id = '{id}'"),
    Statement("prepared", SERVER, "execute profile('{id}')"),
    Statement("campaign", SERVER, "insert into public.campaigns (owner_id, name) values ('{id}', 'Campaign {n}')"),
    Statement("join", SERVER, "select c.name, p.email from public.campaigns as c join public.profiles as p on p.id = c.owner_id where p.id = '{id}'"),
    Statement("view", SERVER, "select * from public.campaign_owners where profile_id = '{id}'"),
)  # fmt: skip
_C = (
    Statement("sign-up", AUTH, "insert into users (id, email) values ('{new}', 'New.{n}@example.org')"),
    _AUTH[1],
    Statement("sign-up, by a server", SERVER, "insert into public.users (id, email) select u.id, u.email from auth.users as u where u.email like 'New.%%' on conflict (id) do nothing"),
    Statement("session begins", SERVER, "insert into public.sessions (id, user_id) values ('{new}', '{id}')"),
    Statement("session ends", SERVER, "update public.sessions set ended_at = now(), descriptions_generated = 3 where id = (select s.id from public.sessions as s where s.user_id = '{id}' and s.ended_at is null limit 1)"),
    Statement("session", SERVER, "insert into public.sessions (user_id, started_at, ended_at, descriptions_generated) values ('{id}', now() - interval '5 minutes', now(), 2)"),
    Statement("progress", USER, "select * from public.user_progress where user_id = '{id}'"),
    Statement("points", SERVER, "insert into public.user_progress (user_id, total_points) values ('{id}', 5) on conflict (user_id) do update set total_points = least(user_progress.total_points, 1000) + 5"),
    Statement("keys", USER, "select * from public.user_api_keys where user_id = auth.uid()"),
    Statement("key is used", SERVER, "update public.user_api_keys set last_validated_at = now() where user_id = '{id}'"),
    Statement("export", USER, "insert into public.export_history (user_id, export_type, export_format) values ('{id}', 'vocabulary', 'csv')"),
    Statement("export ends", SERVER, "update public.export_history set status = 'completed', records_count = 5, processing_time_seconds = 2 where user_id = '{id}' and status = 'pending'"),
    Statement("exports", USER, "select * from public.export_history where user_id = '{id}'"),
    Statement("prepared", SERVER, "execute profile('{id}')"),
    Statement("leaders", SERVER, "select * from public.leaders"),
)  # fmt: skip
_D = (
    *_AUTH,
    Statement("own profile", USER, "select * from public.user_profiles where user_id = '{id}'"),
    Statement("own profile by a uuid", USER, "select * from public.user_profiles where user_id = auth.uid()"),
    Statement("update", USER, "update public.user_profiles set first_name = 'Name {n}', updated_at = now() where user_id = '{id}'"),
    Statement("role, by a server", SERVER, "update public.user_profiles set role = 'member' where user_id = '{id}'"),
    Statement("ensured", USER, "select public.ensure_user_profile('{id}', 'x@example.org', 'First', 'Last', null, 'sv', 'member')"),
    Statement("ensured, by anybody", ANYBODY, "select public.ensure_user_profile('{id}')"),
    Statement("audit", SERVER, "insert into public.user_profile_audit_logs (user_id, action, origin) values ('{id}', 'updated', 'manual')"),
    Statement("prepared", SERVER, "execute profile('{id}')"),
    Statement("device", SERVER, "insert into public.devices (owner, token) values ('{id}', 'token')"),
    Statement("referral", SERVER, "insert into public.referrals (referrer, email) select p.id, 'r{n}@example.org' from public.user_profiles as p where p.user_id = '{id}'"),
    Statement("view", SERVER, "select * from public.profile_directory where user_id = '{id}'"),
)  # fmt: skip
_E = (
    Statement("profile", SERVER, "select * from user_profiles where user_id = '{id}'"),
    Statement("seen", SERVER, "update user_profiles set message_count = least(message_count, 1000) + 1, last_interaction_at = 17600{n:05d} where user_id = '{id}'"),
    Statement("analyzed", SERVER, "update user_profiles set openness_score = {n} %% 100, last_analyzed_at = 17600{n:05d}, updated_at = 17600{n:05d} where user_id = '{id}'"),
    Statement("joins", SERVER, "insert into user_profiles (id, user_id, username, display_name, first_seen_at, last_interaction_at, created_at, updated_at) values ('{new}', '9{n:017d}', 'New {n}', 'New', 1760000000, 1760000000, 1760000000, 1760000000)"),
    Statement("analysis", SERVER, "insert into public.user_analysis_history (id, user_id, analysis_timestamp) values ('{new}', '{id}', 1760000000)"),
    Statement("prepared", SERVER, "execute profile('{id}')"),
    Statement("view", SERVER, "select * from public.recent_profiles where user_id = '{id}'"),
)  # fmt: skip
STATEMENTS = {"a": _A, "b": _B, "c": _C, "d": _D, "e": _E}

# {shape: (users who have a row, the statement that every connection has prepared)}
_PEOPLE = {
    "a": ("select p.id from public.user_profiles as p join auth.users as u on u.id = p.id where p.is_active is not false", "select * from public.user_profiles where id = $1"),
    "b": ("select id from public.profiles where is_active is not false", "select * from public.profiles where id = $1"),
    "c": ("select p.user_id from public.user_progress as p join auth.users as u on u.id = p.user_id", "select * from public.user_progress where user_id = $1"),
    "d": ("select p.user_id from public.user_profiles as p join auth.users as u on u.id = p.user_id", "select * from public.user_profiles where user_id = $1"),
    "e": ("select user_id from public.user_profiles", "select * from user_profiles where user_id = $1"),
}  # fmt: skip


# {shape: {name: a condition that holds at the end, if the statement succeeded}}
WRITTEN = {
    "a": {
        "sign-up": "exists (select from public.user_profiles where user_id = '{new}' and email = 'New.{n}@example.org')",
        "update": "exists (select from public.user_profiles where user_id = '{id}' and bio = 'Bio {n}')",
        "upsert": "exists (select from public.user_profiles where user_id = '{id}' and bio = 'Bio {n}')",
        "update, by a server": "exists (select from public.user_profiles where user_id = '{id}' and bio = 'Bio {n}')",
        "post": "(select count(*) = 1 from public.posts where author = '{id}' and body = 'Post {n}')",
    },
    "b": {
        "sign-up": "exists (select from public.profiles where id = '{new}' and email = 'New.{n}@example.org')",
        "update": "exists (select from public.user_profiles where user_id = '{id}' and bio = 'Bio {n}')",
        "upsert": "exists (select from public.profiles where id = '{id}' and full_name = 'Name {n}')",
        "campaign": "(select count(*) = 1 from public.campaigns where owner_id = '{id}' and name = 'Campaign {n}')",
    },
    "c": {
        "sign-up": "exists (select from public.user_progress where user_id = '{new}')",
        "session begins": "exists (select from public.sessions where id = '{new}' and user_id = '{id}')",
        "export": "exists (select from public.export_history where user_id = '{id}' and export_type = 'vocabulary')",
    },
    "d": {
        "sign-up": "exists (select from public.user_profiles where user_id = '{new}' and email = 'New.{n}@example.org')",
        "update": "exists (select from public.user_profiles where user_id = '{id}' and first_name = 'Name {n}')",
        "device": "exists (select from public.devices where owner = '{id}')",
        "referral": "exists (select from public.referrals where email = 'r{n}@example.org')",
    },
    "e": {
        "joins": "exists (select from profiles_compat.user_profiles where user_id = '9{n:017d}' and username = 'new' || {n})",
        "seen": "exists (select from profiles_compat.user_profiles where user_id = '{id}' and last_interaction_at = 17600{n:05d})",
        "analyzed": "exists (select from profiles_compat.user_profiles where user_id = '{id}' and openness_score = {n} % 100"
        " and last_analyzed_at = 17600{n:05d})",
        "analysis": "exists (select from public.user_analysis_history where id = '{new}' and user_id = '{id}')",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A statement that was sent: when it began (monotonic), how long it took, and how it failed (SQLSTATE)."""

    name: str
    began: float
    seconds: float
    failure: str | None
    message: str
    values: dict[str, object]


@dataclass
class OldApplication:
    """Sends the statements of a shape, one after the other, at a steady rate, for as long as the block lasts."""

    database: Database
    shape: str
    rate: float = 50.0
    calls: list[Call] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        people, self.prepared = _PEOPLE[self.shape]
        self.people = [str(row[0]) for row in self.database.administrator.run(f"{people} order by 1 limit 1000")]
        self._began = time.monotonic() + 0.3
        self._threads = [threading.Thread(target=self._send, args=(first,)) for first in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def failures(self) -> dict[str, Counter[str]]:
        """SQLSTATEs of the statements that failed, by their names."""
        failed: dict[str, Counter[str]] = {}
        for call in self.calls:
            if call.failure:
                failed.setdefault(call.name, Counter())[call.failure] += 1
        return failed

    def lost(self) -> list[str]:
        """Conditions that do not hold, though the statement that they tell of succeeded."""
        last = {call.values["id"]: call for call in sorted(self.calls, key=lambda call: call.began)}
        return [
            f"{call.name}: {condition}"
            for call in self.calls
            if not call.failure and call.name in WRITTEN[self.shape]
            and (call.name == "sign-up" or call is last[call.values["id"]])
            for condition in [WRITTEN[self.shape][call.name].format(**call.values)]
            if not self.database.administrator.value(f"select {condition}")
        ]  # fmt: skip

    def longest(self, *names: str) -> Call:
        """The statement that waited longest."""
        return max((call for call in self.calls if not names or call.name in names), key=lambda call: call.seconds)

    def _send(self, first: int) -> None:
        statements = STATEMENTS[self.shape]
        server = psycopg2.connect(self.database.url, application_name="old application")
        server.autocommit = True
        with server.cursor() as cursor:
            if self.shape == "e":
                cursor.execute("set search_path = profiles_compat, public")
            cursor.execute(f"prepare profile as {self.prepared}")
        auth = server
        if self.shape != "e":
            auth = psycopg2.connect(self.database.server.url(self.database.name, "supabase_auth_admin"))
            auth.autocommit = True
        number = first
        while not self._stop.wait(max(0.0, self._began + number / self.rate - time.monotonic())):
            # Every connection sends every statement, whatever their numbers have in common.
            statement = statements[(number + number // len(statements)) % len(statements)]
            self._call(auth if statement.who == AUTH else server, statement, number)
            number += CONNECTIONS
        for connection in {server, auth}:
            connection.close()

    def _call(self, connection: Any, statement: Statement, number: int) -> None:
        person = self.people[number * 7919 % len(self.people)]
        values: dict[str, object] = {"id": person, "new": str(uuid.uuid4()), "n": number}
        sql = statement.sql.format(**values).replace("%%", "%")
        failure, message = None, ""
        began = time.monotonic()
        try:
            with connection.cursor() as cursor:
                if statement.who in (USER, ANYBODY):
                    claims = json.dumps({"role": statement.who} | ({"sub": person} if statement.who == USER else {}))
                    sql = f"begin; set local role {statement.who}; set local request.jwt.claims = '{claims}'; {sql}; commit"
                cursor.execute(sql)
        except psycopg2.Error as error:
            failure, message = error.pgcode or type(error).__name__, str(error).partition("\n")[0]
            if statement.who in (USER, ANYBODY):
                with connection.cursor() as cursor:
                    cursor.execute("rollback")
        self.calls.append(Call(statement.name, began, time.monotonic() - began, failure, message, values))
