"""The five shapes of existing deployments, filled with awkward rows; and a database as found, to compare a later look with.

The structures stand in ``shapes/*.sql``. The rows are made of their numbers alone, so that two fills are the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from profiles_schema.driver import execute_literally, quote_name
from profiles_schema.operations.rehearse import contents
from profiles_schema.operations.rehearse.contents import Contents, RowChange
from profiles_schema.schema.traits import trait_columns
from support import REPOSITORY, Database
from support.trait_columns import HELD

HERE = REPOSITORY / "tests" / "adoption" / "shapes"
SCHEMAS = ["public", "auth"]

# The tables that are taken over, by the names they have before.
ADOPTED = {
    "a": {"user_profiles": "user_profiles"},
    "b": {"profiles": "user_profiles"},
    "c": {"user_api_keys": "user_api_keys", "user_progress": "user_progress", "export_history": "export_history"},
    "d": {"user_profiles": "user_profiles", "user_profile_audit_logs": "user_profile_audit_logs"},
    "e": {"user_profiles": "user_profiles"},
}
OPTIONS: dict[str, dict[str, str]] = {"b": {"adopt_table": "profiles"}}

# What columns are called afterwards.
RENAMED: dict[str, dict[str, dict[str, str]]] = {
    "a": {},
    "b": {"profiles": {"full_name": "display_name"}},
    "c": {},
    "d": {},
    "e": {"user_profiles": {"user_id": "external_id"}},
}


def adopted_tables(shape: str) -> dict[str, str]:
    """The tables of a shape, or of several (``a+c``), that are taken over; and what each is called afterwards."""
    return {name: ours for part in shape.split("+") for name, ours in ADOPTED[part].items()}


def options(shape: str) -> dict[str, str]:
    """The options that `alembic upgrade` needs for a shape."""
    return {key: value for part in shape.split("+") for key, value in OPTIONS.get(part, {}).items()}


def create(database: Database, shape: str) -> None:
    """Make the tables of a shape, or of several, as the role that the application's owner is."""
    for part in shape.split("+"):
        database.script((HERE / f"{part}.sql").read_text(encoding="utf-8"))


def fill(database: Database, shape: str, rows: int, *, plain_keys: bool = False) -> None:
    """Put rows into the tables of a shape: ``rows`` users, some of them without a row, and rows without a user."""
    parts = shape.split("+")
    scripts = [_NUMBERS, *([] if "e" in parts else [_USERS]), *(_FILLS[part]() for part in parts)]
    values = {
        "{rows}": str(rows),
        "{key}": "'sk-plain-' || g" if plain_keys else _ENVELOPE,
        "{strays}": str(max(rows // 50, 4)),
    }
    script = ";\n".join(scripts)
    for name, value in values.items():
        script = script.replace(name, value)
    database.administrator.script(script)
    database.administrator.script("analyze")


# Who is who. A person is a user of the auth server, a stray is none.
_NUMBERS = """
create function pg_temp.person(g bigint) returns uuid language sql immutable as $$ select md5('person ' || g)::uuid $$;
create function pg_temp.stray(g bigint) returns uuid language sql immutable as $$ select md5('stray ' || g)::uuid $$;
create function pg_temp.moment(g bigint) returns timestamptz language sql immutable as
  $$ select '2023-05-04 03:02:01.000005+00'::timestamptz + g * interval '37 minutes' $$;
-- Every 31st user has no row, as if a trigger had failed.
create function pg_temp.has_row(g bigint) returns boolean language sql immutable as $$ select g % 31 <> 0 $$;
create function pg_temp.name(g bigint) returns text language sql immutable as $$
  select (array[
    null, 'ada' || g / 160, 'Ada' || g / 160, 'ADA' || g / 160, 'bob', repeat('x', 40) || g, 'süß ' || g, '😀😀😀', '',
    'Admin', 'support', 'a b@c' || g, 'ok.name-' || g, E'new\\nline' || g, 'x', '  padded' || g || ' ', 'zoë', 'Straße_' || g
  ])[1 + g % 18]
$$;
create function pg_temp.address(g bigint) returns text language sql immutable as $$
  select (array[
    null, 'ada+tag' || g || '@example.org', 'jürgen' || g || '@exämple.org', '例え' || g || '@例え.jp',
    'Grace.Hopper' || g || '@Example.ORG', 'x@host' || g || '.example.org', 'admin@host' || g || '.example.org',
    'same@example.org', 'o''brien' || g || '@example.org', '"a b"' || g || '@example.org'
  ])[1 + g % 10]
$$;
create function pg_temp.json(g bigint) returns jsonb language sql immutable as $$
  select case
    when g % 499 = 5 then jsonb_build_object('much', repeat('0123456789abcdef', 65536))
    when g % 499 = 6 then jsonb_build_object('just too much', repeat('z', 65536))
    else (array[
      '{}', null, 'null', '[1, 2]', '"text"', '17', '{"theme": "dark", "nested": {"null": null, "empty": ""}}',
      '{"emoji": "👩‍👩‍👧", "number": 12345678901234567890.5}'
    ])[1 + g % 8]::jsonb
  end
$$;
create function pg_temp.url(g bigint) returns text language sql immutable as $$
  select (array[
    null, 'https://example.org/p/' || g || '.png', 'http://example.org/ä?x=%20', 'ftp://example.org/p.png', 'javascript:alert(1)', '',
    'https://example.org/' || repeat('x', 2100), 'HTTPS://example.org/'
  ])[1 + g % 8]
$$;
create function pg_temp.time(g bigint) returns timestamptz language sql immutable as $$
  select (array[pg_temp.moment(g), null, 'epoch', 'infinity', '9999-12-31 23:59:59+00', '-infinity', '0044-03-15 BC'])[1 + g % 7]
$$;
-- A text of up to about so many characters, and sometimes of twice as many.
create function pg_temp.words(g bigint, most integer) returns text language sql immutable as $$
  select (array[null, '', 'Words 🎈 of ' || g, repeat('é', most), repeat('ab ', most), E'tab\\tand\\nline'])[1 + g % 6]
$$;
create function pg_temp.counter(g bigint) returns integer language sql immutable as $$
  select (array[0, null, -1, 2147483647, -2147483648, g % 1000])[1 + g % 6]
$$
"""
_USERS = """
alter table auth.users disable trigger user;
insert into auth.users (id, email, phone, is_sso_user, raw_user_meta_data, email_confirmed_at, last_sign_in_at, created_at, updated_at)
select pg_temp.person(g), pg_temp.address(g), case when pg_temp.address(g) is null then '+46' || g end,
  coalesce(pg_temp.address(g) = 'same@example.org', false),
  case g % 4 when 0 then null when 1 then '{}' when 2 then jsonb_build_object('full_name', 'Name ' || g) else '[]' end,
  pg_temp.moment(g), null, pg_temp.moment(g), pg_temp.moment(g)
from generate_series(1, {rows}) as g;
alter table auth.users enable trigger user
"""
_FILL_A = """
alter table public.user_profiles disable trigger user;
insert into public.user_profiles
  (id, username, display_name, bio, avatar_emoji, profile_visibility, is_active, favourite_colour, updated_at)
select
  w.id, pg_temp.name(g), pg_temp.words(g / 2, 210), pg_temp.words(g / 3, 4100), (array['🦊', null, '👩‍👩‍👧‍👦', repeat('🎈', 40)])[1 + g % 4],
  (array['public', 'private', null, 'friends', 'PUBLIC', ''])[1 + g % 6], (array[true, null, false])[1 + g % 3],
  (array['green', null, 'blue'])[1 + g % 3], pg_temp.time(g / 2)
from (
  select g, pg_temp.person(g) as id from generate_series(1, {rows}) as g where pg_temp.has_row(g)
  union all select g, pg_temp.stray(g) from generate_series(1, {strays}) as g
) as w;
-- Somebody has the very name that another bob would get.
update public.user_profiles set username = 'bob_' || right((
  select id::text from public.user_profiles where username = 'bob' order by id offset 1 limit 1
), 8) where id = pg_temp.person(12);
alter table public.user_profiles enable trigger user;
insert into public.posts (author, editor, body, updated_at)
select id, case when row_number() over (order by id) % 3 = 0 then id end, 'Post of ' || id, '2024-01-01'
from public.user_profiles order by id limit {rows} / 2;
insert into public.posts (author, body, updated_at)
select pg_temp.stray(g), 'Post of nobody', '2024-01-01' from generate_series(1, 3) as g
"""
_FILL_B = """
insert into public.profiles (
  id, email, full_name, company_name, bio, phone, target_audience, business_context, master_system_prompt, key_metrics, logo_url,
  profile_picture_url, preferences, last_login, login_count, is_active, email_verified, timezone, language, notification_settings,
  plan, seats, created_at, updated_at
)
select
  pg_temp.person(g), pg_temp.address(g), pg_temp.words(g / 2, 210), pg_temp.words(g / 3, 210), pg_temp.words(g / 5, 4100),
  (array[null, '+46 8 123', '', repeat('0', 60)])[1 + g % 4], pg_temp.words(g / 7, 20100), pg_temp.words(g / 11, 20100),
  pg_temp.words(g / 13, 20100), pg_temp.json(g + 3), pg_temp.url(g), pg_temp.url(g / 3), pg_temp.json(g), pg_temp.time(g / 5),
  pg_temp.counter(g), (array[true, null, false])[1 + g % 3], (array[null, true, false])[1 + g % 3],
  (array['UTC', 'Europe/Stockholm', null, 'FOO+5', '', 'europe/stockholm', 'Mars/Olympus'])[1 + g % 7],
  (array['en', 'pt-BR', 'pt_BR', null, 'English (US)', '', 'x', 'zh-Hant-TW'])[1 + g % 8], pg_temp.json(g / 2),
  'plan ' || g % 3, (g % 7)::smallint, pg_temp.time(g / 3), pg_temp.time(g / 2)
from generate_series(1, {rows}) as g where pg_temp.has_row(g);
insert into public.campaigns (id, owner_id, name, budget)
select md5('campaign ' || g)::uuid, pg_temp.person(g), 'Campaign ' || g, g * 1.25
from generate_series(1, {rows}) as g where pg_temp.has_row(g) and g % 3 = 0
"""
_FILL_C = """
insert into public.users (id, email, name, created_at)
select pg_temp.person(g), pg_temp.address(g), 'Name ' || g, pg_temp.moment(g) from generate_series(1, {rows}) as g
union all
select pg_temp.stray(g), 'stray' || g || '@example.org', 'Stray ' || g, pg_temp.moment(g) from generate_series(1, {strays}) as g;

alter table public.sessions disable trigger user;
insert into public.sessions
  (id, user_id, started_at, ended_at, duration_minutes, descriptions_generated, images_processed, qa_attempts, qa_correct, vocabulary_learned, device)
select md5(format('session %s %s', g, n))::uuid, case when g % 40 <> 7 then pg_temp.person(g) end, start, case when (g + n) % 5 > 0 then start + n * interval '13 minutes 20 seconds' end,
  (array[null, 10, -5])[1 + (g + n) % 3], n, g % 4, n * 2, (array[n, null])[1 + g % 2], g % 6, 'phone'
from generate_series(1, {rows}) as g, generate_series(0, g % 4) as n,
  lateral (select pg_temp.moment(g) + n * (case when g % 8 < 4 then interval '1 day' else interval '50 hours' end)) as w (start);
insert into public.sessions (id, user_id, started_at, ended_at, descriptions_generated)
select md5('stray session ' || g)::uuid, pg_temp.stray(g), pg_temp.moment(g), pg_temp.moment(g + 1), 3 from generate_series(1, {strays}) as g;
alter table public.sessions enable trigger user;

insert into public.user_api_keys (id, user_id, openai_api_key, unsplash_api_key, anthropic_api_key, last_validated_at, is_active, created_at, updated_at)
select md5('keys ' || w.id)::uuid, w.id, case when g % 3 > 0 then {key} end, case when g % 5 = 0 then {key} end, null,
  pg_temp.time(g), (array[true, null, false])[1 + g % 3], pg_temp.time(g / 2), pg_temp.time(g / 3)
from (
  select g, pg_temp.person(g) as id from generate_series(1, {rows}) as g where g % 2 = 0
  union all select g, pg_temp.stray(g) from generate_series(1, {strays}) as g
) as w;

insert into public.user_progress (
  id, user_id, total_sessions, total_descriptions, total_images, total_questions_answered, total_vocabulary_learned,
  total_time_spent_minutes, average_accuracy, average_completion_time_seconds, last_activity_at, last_description_at,
  current_streak_days, longest_streak_days, total_points, mastered_words_count, learning_words_count, new_words_count,
  created_at, updated_at
)
select md5('progress ' || w.id)::uuid, w.id, 1000 + g % 9, g % 50, null, 7, pg_temp.counter(g), 12, (array[null, 55.5, -3, 999.99])[1 + g % 4],
  -4, pg_temp.time(g), pg_temp.time(g / 2), 17, null, pg_temp.counter(g / 2), g % 5, pg_temp.counter(g / 3), null,
  pg_temp.time(g / 2), pg_temp.time(g / 3)
from (
  select g, pg_temp.person(g) as id from generate_series(1, {rows}) as g where g % 3 > 0
  union all select g, pg_temp.stray(g) from generate_series(1, {strays}) as g
) as w;

insert into public.export_history (
  id, user_id, export_type, export_format, status, records_count, file_size_bytes, file_url, filters, data, error_message, retry_count,
  started_at, completed_at, processing_time_seconds, expires_at, created_at, updated_at
)
select md5('export ' || w.id || g)::uuid, w.id, (array['vocabulary', '', 'Übungen'])[1 + g % 3], (array['csv', 'json'])[1 + g % 2],
  (array['completed', 'pending', null, 'Done', 'processing', 'failed', 'expired', 'in progress'])[1 + g % 8], pg_temp.counter(g),
  (array[null, -7, 9000000000, 0])[1 + g % 4], pg_temp.url(g), pg_temp.json(g), pg_temp.json(g / 3), pg_temp.words(g, 100), pg_temp.counter(g / 5),
  pg_temp.time(g), pg_temp.time(g / 2), pg_temp.counter(g / 3), pg_temp.time(g / 7), pg_temp.time(g / 2), pg_temp.time(g / 3)
from (
  select g, pg_temp.person(g % least({rows}, 100) + 1) as id from generate_series(1, {rows}) as g
  union all select g, pg_temp.stray(g) from generate_series(1, {strays}) as g
) as w;
insert into public.export_downloads (export_id, taken_at)
select id, '2024-02-03' from public.export_history order by id limit {rows} / 3;
insert into public.export_downloads (export_id, taken_at)
select id, '2024-02-03' from public.export_history where user_id = pg_temp.stray(1)
"""
_FILL_D = """
insert into public.user_profiles (id, user_id, email, first_name, last_name, phone, language, role, referral_code, created_at, updated_at)
select
  md5('profile ' || w.g || coalesce(w.user_id::text, ''))::uuid, w.user_id, pg_temp.address(g), pg_temp.words(g, 210), pg_temp.words(g / 3, 210),
  (array[null, '+46 8 123', '', repeat('0', 60)])[1 + g % 4], (array['sv', 'sv_SE', null, 'svenska', ''])[1 + g % 5],
  (array['member', null, 'admin', 'user'])[1 + g % 4], (array[null, 'REF' || g, 'SHARED', '', 'ref' || g / 40])[1 + g % 5],
  pg_temp.time(g), pg_temp.time(g / 2)
from (
  select g, pg_temp.person(g) as user_id from generate_series(1, {rows}) as g where pg_temp.has_row(g)
  union all select g, pg_temp.stray(g) from generate_series(1, {strays}) as g
  union all select g, null from generate_series(1, {strays}) as g
) as w;
insert into public.user_profile_audit_logs (id, user_id, action, origin, error_message, retry_count, metadata, created_at)
select md5('audit ' || g)::uuid, pg_temp.person(g % least({rows}, 200) + 1), (array['created', 'updated', 'failed', 'skipped'])[1 + g % 4],
  (array['trigger', 'manual', 'backfill', 'registration'])[1 + g % 4], pg_temp.words(g, 100), pg_temp.counter(g),
  case when g % 499 > 10 then pg_temp.json(g) end, pg_temp.time(g)
from generate_series(1, {rows}) as g;
insert into public.referrals (referrer, email)
select id, id || '@example.org' from public.user_profiles order by id limit {rows} / 2;
insert into public.referrals (referrer, email)
select id, 'of.nobody@example.org' from public.user_profiles where user_id is null or user_id = pg_temp.stray(2) order by id;
insert into public.devices (id, owner, token)
select md5('device ' || user_id)::uuid, user_id, 'token' from public.user_profiles where user_id is not null order by id limit {rows} / 2;
insert into public.devices (id, owner, token) values (md5('device of a stray')::uuid, pg_temp.stray(1), 'token')
on conflict do nothing
"""


def _fill_e() -> str:
    kinds = {kind: ", ".join(f"'{image}'" for image, _ in held) for kind, held in HELD.items()}
    traits = ", ".join(trait.name for trait in trait_columns())
    values = ", ".join(
        f"(array[null, {kinds[trait.data_type]}])[1 + (g * 7 + {n}) % {len(HELD[trait.data_type]) + 1}]::{trait.data_type}"
        for n, trait in enumerate(trait_columns())
    )
    return f"""
insert into public.user_profiles (
  id, user_id, username, display_name, first_seen_at, last_interaction_at, last_analyzed_at, last_photo_analyzed_at, message_count,
  created_at, updated_at, avatar_url, bio, preferences, shard, {traits}
)
select
  case g % 3 when 0 then md5('row ' || g)::uuid::text when 1 then 'nano_' || g else 'bot:' || g || ':ü' end,
  rpad((1 + g % 9)::text, 17 + g % 3, '0123456789') || lpad(g::text, 6, '0'), coalesce(pg_temp.name(g), 'Somebody#' || g), pg_temp.words(g / 2, 210),
  (array[0, 1680000000, 253402300800, -1])[1 + g % 4], (array[0, 1680000001])[1 + g % 2], (array[null, 0, 1680000002])[1 + g % 3], null,
  pg_temp.counter(g), (array[1680000000 + g, null, 0, 253402300800, 1680000000123, 9223372036854775807, -9223372036854775808, -1])[1 + g % 8],
  (array[1680000000 + g, 0, null, 9224318016000, 9224318015999, -210866803201])[1 + g % 6], pg_temp.url(g), pg_temp.words(g / 3, 4100), pg_temp.json(g),
  (g % 8)::smallint, {values}
from generate_series(1, {{rows}}) as g;
insert into public.user_analysis_history (id, user_id, analysis_timestamp, feelings_snapshot, model)
select 'analysis ' || row_number() over (order by id), user_id, 1680000000, '{{"joy": 0.5}}', 'small'
from public.user_profiles order by id limit {{rows}} / 2
"""


_ENVELOPE = "'psk1.test.' || rpad(md5(g::text), 60, 'A')"
_FILLS = {
    "a": lambda: _FILL_A,
    "b": lambda: _FILL_B,
    "c": lambda: _FILL_C,
    "d": lambda: _FILL_D,
    "e": _fill_e,
}


# As found


@dataclass
class Found:
    """A database as it was found: its catalog, a hash of every row, and the rows of the tables that are taken over."""

    contents: Contents
    more: dict[str, str]
    users: set[str]
    renamed: dict[str, dict[str, str]] = field(default_factory=dict)
    types: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: dict[str, dict[str, dict[str, str | None]]] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)


# What profiles_schema.operations.rehearse.contents does not ask for, and what must come back nevertheless.
_MORE = """
select format('comment on %s', pg_describe_object(d.classoid, d.objoid, d.objsubid)) as key, d.description as value
from pg_description as d
where (d.classoid = 'pg_constraint'::regclass and (select k.connamespace from pg_constraint as k where k.oid = d.objoid) = any (:schemas))
  or (d.classoid = 'pg_trigger'::regclass and (select c.relnamespace from pg_trigger as t join pg_class as c on c.oid = t.tgrelid where t.oid = d.objoid) = any (:schemas))
  or (d.classoid = 'pg_policy'::regclass and (select c.relnamespace from pg_policy as y join pg_class as c on c.oid = y.polrelid where y.oid = d.objoid) = any (:schemas))
union all
select format('policy %s on %s', y.polname, y.polrelid::regclass), concat_ws(' ', y.polpermissive, y.polcmd,
  (select string_agg(coalesce(r.rolname, 'public'), ',' order by r.rolname) from unnest(y.polroles) as x left join pg_roles as r on r.oid = x),
  pg_get_expr(y.polqual, y.polrelid), pg_get_expr(y.polwithcheck, y.polrelid))
from pg_policy as y join pg_class as c on c.oid = y.polrelid where c.relnamespace = any (:schemas)
union all
select 'storage of ' || c.oid::regclass, concat_ws(' ', c.relpersistence, c.relreplident, c.reloptions, c.relkind)
from pg_class as c where c.relnamespace = any (:schemas) and c.relkind in ('r', 'p', 'v', 'm', 'i')
union all
select format('storage of %s.%s', c.oid::regclass, a.attname), concat_ws(' ', a.attstorage, a.attcompression, a.attcollation::regcollation, a.attoptions)
from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = any (:schemas) and c.relkind = 'r'
union all
select 'validity of ' || k.conname || ' of ' || k.conrelid::regclass, concat_ws(' ', k.convalidated, k.condeferrable, k.condeferred)
from pg_constraint as k where k.connamespace = any (:schemas) and k.contype <> 'n'
union all
select 'relation ' || c.oid::regclass, c.relkind::text from pg_class as c where c.relnamespace = any (:schemas) and c.relkind <> 't'
union all
select 'function ' || p.oid::regprocedure, p.prosrc from pg_proc as p where p.pronamespace = any (:schemas)
union all
select 'schema ' || n.nspname, '' from pg_namespace as n where n.nspname !~ '^pg_' and n.nspname <> :kept
"""


def look(database: Database, shape: str) -> Found:
    """Remember the database as it is found: catalog, rows, and the values of what will be taken over."""
    with database.administrator.engine.begin() as connection:
        whole = contents.remember(connection, SCHEMAS, [])
        besides = more(connection)
    users = {row[0] for row in database.administrator.run("select id::text from auth.users")} if shape != "e" else set()
    found = Found(whole, besides, users)
    for part in shape.split("+"):
        found.renamed |= RENAMED[part]
    for table in adopted_tables(shape):
        found.types[table] = types(database, table)
        found.rows[table] = values(database, table)
        found.documents[table] = documents(database, table)
    return found


def more(connection: Connection) -> dict[str, str]:
    """What the catalog says besides: comments, all policies, storage, the names of everything."""
    sql = _MORE.replace(":schemas", "array(select oid from pg_namespace where nspname in ('public', 'auth'))")
    return {row.key: row.value for row in connection.execute(text(sql), {"kept": contents.KEPT})}


def row_changes(database: Database, found: Found) -> list[RowChange]:
    """How rows differ from those found."""
    with database.administrator.engine.begin() as connection:
        return contents.row_changes(connection, found.contents, SCHEMAS)


def changes(database: Database, found: Found) -> list[str]:
    """How the catalog differs from the one found, a line each."""
    with database.administrator.engine.begin() as connection:
        return changes_seen(connection, found)


def changes_seen(connection: Connection, found: Found) -> list[str]:
    """The same, in a transaction of the caller's."""
    return [
        f"{key}: {then.get(key)!r} has become {now.get(key)!r}"
        for then, now in (
            (found.contents.catalog, contents.catalog(connection, SCHEMAS)), (found.more, more(connection)),
        )
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]  # fmt: skip


def types(database: Database, table: str) -> dict[str, str]:
    """The type of every column of a table."""
    return dict(
        database.administrator.run(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = cast(:table as regclass) and attnum > 0 and not attisdropped order by attnum",
            table=f"public.{table}",
        )
    )


def values(database: Database, table: str) -> dict[str, dict[str, str | None]]:
    """All rows of a table by their key, every value as its text."""
    administrator = database.administrator
    columns = list(types(database, table))
    texts = ", ".join(f"t.{quote_name(name)}::text" for name in columns)
    with administrator.engine.begin() as connection:
        connection.exec_driver_sql(
            "set local timezone = 'UTC'; set local datestyle = 'ISO'; set local extra_float_digits = 1"
        )
        rows = execute_literally(connection, f"select {texts} from only public.{table} as t")
        place = columns.index("id")
        return {row[place]: dict(zip(columns, row, strict=True)) for row in rows}


def documents(database: Database, table: str) -> dict[str, Any]:
    """All rows of a table by their key, as JSON."""
    rows = database.administrator.run(f"select t.id::text, to_jsonb(t)::text from only public.{table} as t")
    return {key: json.loads(row) for key, row in rows}
