"""One profile per user.

Why: the table that everything else is about.
Locks: auth.users in SHARE ROW EXCLUSIVE mode for the foreign key: its writers wait for milliseconds, its readers not at all.
Compatible with: any code; until policies come the table is closed to the API roles.
Back: drops the table; refuses while it holds rows.
"""

from alembic import op

revision = "0006_create_user_profiles"
down_revision = "0005_create_sign_up_functions"
branch_labels = None
depends_on = None
downgrade_drops = ("public.user_profiles",)


def upgrade() -> None:
    op.execute(
        r"""
do $only_where$
begin
  if profiles_internal.table_to_adopt('user_profiles') is not null then
    execute $frozen$
-- Before a profile is written in a table where another column of the application says whose it is (the trigger's argument):
-- that column and user_id say the same. Where a statement gives or changes only one, the other one follows.
-- Its triggers are on user_profiles only where adoption found such a column.
-- Errors: 23514 a statement gives two users.
create or replace function profiles_internal.carry_user_id()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $carry_user_id$
declare
  owner constant text := tg_argv[0];
  given constant uuid := to_jsonb(new) ->> owner;
begin
  if tg_op = 'INSERT' and new.user_id is null or tg_op = 'UPDATE' and new.user_id = old.user_id then
    new.user_id := given;
  elsif tg_op = 'INSERT' and given is null or tg_op = 'UPDATE' and given = old.user_id then
    new := jsonb_populate_record(new, jsonb_build_object(owner, new.user_id));
  elsif given is distinct from new.user_id then
    raise exception 'a profile of two users: % is not the user_id', owner
      using errcode = 'check_violation', schema = 'public', table = 'user_profiles', column = owner;
  end if;
  return new;
end
$carry_user_id$;

revoke all on function profiles_internal.carry_user_id() from public, anon, authenticated, service_role;
$frozen$;
    execute $frozen$
-- The triggers on user_profiles that keep user_id and the application's own column for the user the same (carry_user_id).
-- Adoption calls it, and repair.
create or replace function profiles_internal.install_carry_user_id(p_owner text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $install_carry_user_id$
begin
  execute format(
    'create or replace trigger carry_user_id before insert on public.user_profiles '
    'for each row when (new.user_id::text is distinct from new.%1$I::text) execute function profiles_internal.carry_user_id(%1$L); '
    'create or replace trigger carry_user_id_change before update on public.user_profiles '
    'for each row when (new.user_id is distinct from old.user_id or new.%1$I is distinct from old.%1$I) '
    'execute function profiles_internal.carry_user_id(%1$L); '
    'alter table public.user_profiles enable trigger carry_user_id, enable trigger carry_user_id_change',
    p_owner
  );
end
$install_carry_user_id$;

revoke all on function profiles_internal.install_carry_user_id(text) from public, anon, authenticated, service_role;
$frozen$;
    execute $frozen$
-- Which roles of the application's own have rights on user_profiles, and which these are on a view of it whose columns bear
-- their old names (p_columns, as an adopted table keeps them). The owner of the table has all. The roles of the API are
-- left out: what they may do is ours to say.
create or replace function profiles_internal.old_name_rights(p_columns jsonb)
returns table (who text, rights text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $old_name_rights$
  with given as (
    select t.relowner as grantee, k.kind
    from pg_class as t cross join unnest(array['select', 'insert', 'update', 'delete']) as k (kind)
    where t.oid = to_regclass('public.user_profiles')
    union
    select e.grantee, lower(e.privilege_type)
    from pg_class as t cross join lateral aclexplode(t.relacl) as e
    where t.oid = to_regclass('public.user_profiles')
    union
    select e.grantee, format('%s (%I)', lower(e.privilege_type), c.value ->> 'name')
    from pg_attribute as a
    cross join lateral aclexplode(a.attacl) as e
    join jsonb_array_elements(p_columns) as c on c.value ->> 'now' = a.attname
    where a.attrelid = to_regclass('public.user_profiles') and not a.attisdropped
  )
  select quote_ident(r.rolname), string_agg(g.kind, ', ' order by g.kind)
  from given as g
  join pg_roles as r on r.oid = g.grantee
  where g.kind ~ '^(select|insert|update|delete)' and r.rolname not in ('anon', 'authenticated', 'service_role', current_user)
  group by r.rolname
$old_name_rights$;

revoke all on function profiles_internal.old_name_rights(jsonb) from public, anon, authenticated, service_role;
$frozen$;
  end if;
end
$only_where$
"""
    )
    op.execute(
        r"""
-- A table that is here already is taken over, with its rows; what follows then finds nothing left to make.
select profiles_internal.adopt('0006_create_user_profiles');
"""
    )
    op.execute(
        r"""
create table if not exists public.user_profiles (
  id text default (gen_random_uuid())::text not null,
  user_id uuid not null,
  external_id text,
  username text not null,
  display_name text,
  first_name text,
  last_name text,
  email text,
  phone text,
  bio text,
  company_name text,
  target_audience text,
  business_context text,
  master_system_prompt text,
  avatar_emoji text default '👶'::text,
  avatar_url text,
  profile_picture_url text,
  logo_url text,
  profile_visibility text default 'public'::text not null,
  role text default 'user'::text not null,
  referral_code text,
  key_metrics jsonb default '[]'::jsonb not null,
  preferences jsonb default '{}'::jsonb not null,
  notification_settings jsonb default '{}'::jsonb not null,
  timezone text default 'UTC'::text not null,
  language text default 'en'::text not null,
  is_active boolean default true not null,
  email_verified boolean default false not null,
  is_anonymous boolean default false not null,
  last_login timestamp with time zone,
  login_count integer default 0 not null,
  first_seen_at bigint default (extract(epoch from now()))::bigint not null,
  last_interaction_at bigint default (extract(epoch from now()))::bigint not null,
  last_analyzed_at bigint,
  last_photo_analyzed_at bigint,
  message_count integer default 0 not null,
  personality_traits jsonb,
  appearance_traits jsonb,
  behavioral_metrics jsonb,
  cultural_attributes jsonb,
  analysis_summary jsonb,
  metadata jsonb,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint pk_user_profiles primary key (id),
  constraint ck_user_profiles_username_is_3_to_32_of_a_z_0_9 check (username ~ '^[a-z0-9_.-]{3,32}$'),
  constraint ck_user_profiles_display_name_up_to_200_characters check (char_length(display_name) <= 200),
  constraint ck_user_profiles_first_name_up_to_200_characters check (char_length(first_name) <= 200),
  constraint ck_user_profiles_last_name_up_to_200_characters check (char_length(last_name) <= 200),
  constraint ck_user_profiles_company_name_up_to_200_characters check (char_length(company_name) <= 200),
  constraint ck_user_profiles_names_without_hidden_characters check (concat(display_name, first_name, last_name, company_name) !~ '[\u0001-\u001f\u007f-\u009f\u200b\u2028-\u202e\u2060\u2066-\u2069\ufeff]'),
  constraint ck_user_profiles_email_up_to_320_characters check (char_length(email) <= 320),
  constraint ck_user_profiles_phone_up_to_40_characters check (char_length(phone) <= 40),
  constraint ck_user_profiles_bio_up_to_4000_characters check (char_length(bio) <= 4000),
  constraint ck_user_profiles_target_audience_up_to_20000_characters check (char_length(target_audience) <= 20000),
  constraint ck_user_profiles_business_context_up_to_20000_characters check (char_length(business_context) <= 20000),
  constraint ck_user_profiles_master_system_prompt_up_to_20000_characters check (char_length(master_system_prompt) <= 20000),
  constraint ck_user_profiles_avatar_emoji_up_to_16_characters_no_markup check (avatar_emoji ~ '^[^\u0001-\u001f&<>]{0,16}$'),
  constraint ck_user_profiles_avatar_url_is_a_web_address check (avatar_url ~ '^(https?://|/[^/\\\s]|(?!.*\.\.)[\w.~-][^:\\\s]*$)' and char_length(avatar_url) <= 2048),
  constraint ck_user_profiles_profile_picture_url_is_a_web_address check (profile_picture_url ~ '^(https?://|/[^/\\\s]|(?!.*\.\.)[\w.~-][^:\\\s]*$)' and char_length(profile_picture_url) <= 2048),
  constraint ck_user_profiles_logo_url_is_a_web_address check (logo_url ~ '^(https?://|/[^/\\\s]|(?!.*\.\.)[\w.~-][^:\\\s]*$)' and char_length(logo_url) <= 2048),
  constraint ck_user_profiles_profile_visibility_is_public_or_private check (profile_visibility in ('public', 'private')),
  constraint ck_user_profiles_key_metrics_array_64_kb_32_levels check (
    pg_column_size(key_metrics) <= 131072 and key_metrics @> '[]' and not key_metrics @? '$.**{33}'
    and not key_metrics @? 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))'
    and octet_length(key_metrics::text) <= 65536
  ),
  constraint ck_user_profiles_preferences_object_64_kb_32_levels check (
    pg_column_size(preferences) <= 131072 and preferences @> '{}' and not preferences @? '$.**{33}'
    and not preferences @? 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))'
    and octet_length(preferences::text) <= 65536
  ),
  constraint ck_user_profiles_notification_settings_object_64_kb_32_levels check (
    pg_column_size(notification_settings) <= 131072 and notification_settings @> '{}' and not notification_settings @? '$.**{33}'
    and not notification_settings @? 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))'
    and octet_length(notification_settings::text) <= 65536
  ),
  constraint ck_user_profiles_language_is_a_bcp_47_tag check (language ~ '^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$' and char_length(language) <= 35),
  constraint ck_user_profiles_login_count_not_negative check (login_count >= 0),
  constraint ck_user_profiles_message_count_not_negative check (message_count >= 0),
  constraint ck_user_profiles_personality_traits_is_object check (personality_traits @> '{}'),
  constraint ck_user_profiles_appearance_traits_is_object check (appearance_traits @> '{}'),
  constraint ck_user_profiles_behavioral_metrics_is_object check (behavioral_metrics @> '{}'),
  constraint ck_user_profiles_cultural_attributes_is_object check (cultural_attributes @> '{}'),
  constraint ck_user_profiles_analysis_summary_is_object check (analysis_summary @> '{}'),
  constraint ck_user_profiles_metadata_is_object check (metadata @> '{}'),
  constraint fk_user_profiles_user_id_users foreign key(user_id) references auth.users (id) on delete cascade,
  constraint uq_user_profiles_external_id unique (external_id),
  constraint uq_user_profiles_referral_code unique (referral_code)
);

create index if not exists idx_user_profiles_appearance_gin on public.user_profiles using gin (appearance_traits jsonb_path_ops) where appearance_traits is not null;

create index if not exists idx_user_profiles_behavioral_gin on public.user_profiles using gin (behavioral_metrics jsonb_path_ops) where behavioral_metrics is not null;

create index if not exists idx_user_profiles_personality_gin on public.user_profiles using gin (personality_traits jsonb_path_ops) where personality_traits is not null;

create index if not exists idx_user_profiles_preferences_gin on public.user_profiles using gin (preferences jsonb_path_ops);

create index if not exists idx_user_profiles_last_analyzed on public.user_profiles (last_analyzed_at);

create index if not exists idx_user_profiles_updated_at on public.user_profiles (updated_at desc);

create unique index if not exists idx_user_profiles_user_id on public.user_profiles (user_id);

create unique index if not exists idx_user_profiles_username_lower on public.user_profiles (lower(username));

comment on table public.user_profiles is 'One profile per user, made by a trigger at sign-up';
comment on column public.user_profiles.id is 'The user id as text, for a profile made at sign-up';
comment on column public.user_profiles.external_id is 'The id of this user in an outside system, for example a Discord snowflake';
comment on column public.user_profiles.username is 'Unique without regard to case; lower case only';
comment on column public.user_profiles.email is 'Follows auth.users; not unique; see email_verified';
comment on column public.user_profiles.phone is 'The person''s contact number; not unique';
comment on column public.user_profiles.avatar_url is 'The picture of the identity provider';
comment on column public.user_profiles.profile_picture_url is 'The picture the user uploaded; takes precedence over avatar_url';
comment on column public.user_profiles.logo_url is 'The logo the user uploaded';
comment on column public.user_profiles.profile_visibility is 'public: get_public_profile shows it; private: nobody else sees it';
comment on column public.user_profiles.role is 'Set by the server only, never from sign-up metadata';
comment on column public.user_profiles.referral_code is 'Made by the server on first request, at random';
comment on column public.user_profiles.timezone is 'A name of pg_timezone_names; a trigger checks it';
comment on column public.user_profiles.language is 'A BCP 47 tag, for example pt-BR';
comment on column public.user_profiles.last_login is 'The last sign-in that the auth server recorded';
comment on column public.user_profiles.first_seen_at is 'Epoch seconds';
comment on column public.user_profiles.last_interaction_at is 'Epoch seconds';
comment on column public.user_profiles.last_analyzed_at is 'Epoch seconds';
comment on column public.user_profiles.last_photo_analyzed_at is 'Epoch seconds';
comment on column public.user_profiles.personality_traits is 'Traits of character, grouped';
comment on column public.user_profiles.appearance_traits is 'Traits of appearance, grouped';
comment on column public.user_profiles.behavioral_metrics is 'Measures of behaviour, grouped';
comment on column public.user_profiles.cultural_attributes is 'Cultural attributes, grouped';
comment on column public.user_profiles.analysis_summary is 'Results of analyses, grouped';
comment on column public.user_profiles.metadata is 'What belongs to no other group';

alter table public.user_profiles enable row level security;
"""
    )
    op.execute(
        r"""
do $only_where$
begin
  if exists (select from pg_catalog.pg_trigger as t where t.tgrelid = pg_catalog.to_regclass('public.user_profiles') and t.tgname in ('carry_user_id', 'carry_user_id_change')) or exists (select from pg_catalog.pg_class as c where c.relkind = 'v' and pg_catalog.obj_description(c.oid, 'pg_class') = 'profiles-schema: user_profiles under its old name') or exists (select from profiles_internal.adopted as a where a.object_type = 'rights' and a.object_name = 'public.user_profiles' and (a.data ->> 'inserts')::boolean) then
    execute $frozen$
-- Before a profile is inserted by way of the view that bears the old name of user_profiles. Old statements know neither
-- the username nor today's id, so both are filled here: those of the profile that is there (an upsert comes by here before
-- it finds the row to update), or else those that a sign-up gives, with what else it knows of the user.
-- An id that looks like the column's random default becomes the user's id: the two cannot be told apart.
-- A person cannot take a reserved username this way, nor date updated_at. Sign-up fills everything itself, and is not held up.
-- Definer: a person may read neither auth.users nor profile_values.
create or replace function profiles_internal.fill_profile_of_view()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $fill_profile_of_view$
declare
  by_person constant boolean := coalesce(current_setting('role', true), '') in ('anon', 'authenticated');
  username_now text;
  known record;
begin
  -- Another person's row: the policy refuses it, with nothing of that person filled in.
  if new.user_id is null or (by_person and new.user_id is distinct from auth.uid()) then
    return new;
  end if;
  if new.id is null or pg_typeof(new.id) = 'text'::regtype and new.id::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$' then
    new.id := new.user_id::text;
  end if;
  if by_person then
    new.updated_at := now();
  end if;

  select p.username into username_now from public.user_profiles as p where p.user_id = new.user_id;
  if not found then
    -- Of two upserts that make one profile, the second waits here, and then finds it: behind this it would fail on a key
    -- that its ON CONFLICT does not name.
    perform pg_advisory_xact_lock(hashtextextended('profiles_internal.fill_profile_of_view ' || new.user_id, 0));
    select p.username into username_now from public.user_profiles as p where p.user_id = new.user_id;
  end if;
  if username_now is not null then
    new.username := coalesce(new.username, username_now);
  else
    select v.* into known
    from profiles_internal.profile_values(array[coalesce(
      (profiles_internal.living_users(array[new.user_id]))[1], jsonb_build_object('id', new.user_id)
    )]) as v;
    if new.username is null then
      select c.name into new.username
      from unnest(array[known.first_username, known.second_username, known.third_username, replace(gen_random_uuid()::text, '-', '')])
        with ordinality as c (name, place)
      where (select 1 from public.user_profiles as p where lower(p.username) = c.name) is null
      order by c.place limit 1;
    end if;
    if new.email is null then
      new.email := known.email;
      new.email_verified := known.email_verified;
    end if;
    new.phone := coalesce(new.phone, known.phone);
    new.display_name := coalesce(new.display_name, known.display_name);
    new.first_name := coalesce(new.first_name, known.first_name);
    new.last_name := coalesce(new.last_name, known.last_name);
    new.avatar_url := coalesce(new.avatar_url, known.avatar_url);
    new.is_anonymous := known.is_anonymous;
    new.last_login := coalesce(new.last_login, known.last_login);
  end if;

  if by_person and new.username is distinct from username_now and new.username ~ '^[a-z0-9_.-]{3,32}$' and (
    select v.first_username
    from profiles_internal.profile_values(array[jsonb_build_object('id', new.user_id, 'email', new.username || '@')]) as v
  ) <> new.username then
    raise exception 'the username "%" is reserved', new.username
      using errcode = 'check_violation', schema = 'public', table = 'user_profiles', column = 'username';
  end if;
  return new;
end
$fill_profile_of_view$;

revoke all on function profiles_internal.fill_profile_of_view() from public, anon, authenticated, service_role;

create or replace trigger fill_profile_of_view
  before insert on public.user_profiles
  for each row
  when (current_setting('profiles_internal.creating', true) is distinct from 'yes' or current_user in ('anon', 'authenticated'))
  execute function profiles_internal.fill_profile_of_view();
$frozen$;
  end if;
end
$only_where$
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
do $keep_data$
declare
  table_name text;
  row_count bigint;
  holding text[] := '{}';
begin
  if current_setting('profiles_schema.allow_data_loss', true) = 'yes' then
    return;
  end if;
  foreach table_name in array array['public.user_profiles'] loop
    if to_regclass(table_name) is not null then
      -- Nobody may add a row between the count and the drop.
      execute format('lock table %s in access exclusive mode', table_name);
      execute format('select count(*) from %s', table_name) into row_count;
      if row_count > 0 then
        holding := holding || format('%s (%s rows%s)', table_name, row_count, case when exists (
          select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = table_name
        ) then '; of those it loses the columns that were added' else '' end);
      end if;
    end if;
  end loop;
  if holding <> '{}' then
    raise exception 'this downgrade would drop tables that hold rows: %', array_to_string(holding, ', ')
      using hint = 'Save them first, then run it again with: -x allow-data-loss=yes';
  end if;
end
$keep_data$;
"""
    )
    op.execute(
        r"""
drop function if exists profiles_internal.fill_profile_of_view() cascade; -- with its trigger

do $go_back$
begin
  if exists (
    select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = 'public.user_profiles'
  ) then
    perform profiles_internal.undo_adoption('0006_create_user_profiles');
  else
    drop table public.user_profiles;
    perform profiles_internal.undo_adoption('0006_create_user_profiles');
  end if;
end
$go_back$;

drop function if exists profiles_internal.old_name_rights(jsonb), profiles_internal.install_carry_user_id(text),
  profiles_internal.carry_user_id();
"""
    )
