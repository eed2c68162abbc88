"""Encrypted keys of users at other providers.

Why: keys belong in guarded tables, and only as ciphertext.
Locks: auth.users in SHARE ROW EXCLUSIVE mode for the foreign key: its writers wait for milliseconds, its readers not at all.
Compatible with: any code; until policies come the table is closed to the API roles.
Back: drops the tables; refuses while they hold rows.
"""

from alembic import op

revision = "0008_create_user_api_keys"
down_revision = "0007_create_user_progress"
branch_labels = None
depends_on = None
downgrade_drops = ("public.user_api_keys", "public.user_provider_keys")


def upgrade() -> None:
    op.execute(
        r"""
-- A table that is here already is taken over, with its rows; what follows then finds nothing left to make.
select profiles_internal.adopt('0008_create_user_api_keys');
"""
    )
    op.execute(
        r"""
create table if not exists public.user_api_keys (
  id uuid default gen_random_uuid() not null,
  user_id uuid not null,
  openai_api_key text,
  unsplash_api_key text,
  anthropic_api_key text,
  last_validated_at timestamp with time zone,
  is_active boolean default true not null,
  validation jsonb default '{}'::jsonb not null,
  hints jsonb default '{}'::jsonb not null,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint pk_user_api_keys primary key (id),
  constraint ck_user_api_keys_openai_api_key_is_encrypted check (openai_api_key ~ '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$' and char_length(openai_api_key) <= 4096),
  constraint ck_user_api_keys_unsplash_api_key_is_encrypted check (unsplash_api_key ~ '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$' and char_length(unsplash_api_key) <= 4096),
  constraint ck_user_api_keys_anthropic_api_key_is_encrypted check (anthropic_api_key ~ '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$' and char_length(anthropic_api_key) <= 4096),
  constraint ck_user_api_keys_validation_is_object check (validation @> '{}'),
  constraint ck_user_api_keys_hints_is_object check (hints @> '{}'),
  constraint ck_user_api_keys_hints_four_characters check (not hints @? '$.** ? (@.type() != "object" && (@.type() != "string" || !(@ like_regex "^[!-~]{4}$")))' and octet_length(hints::text) <= 256),
  constraint fk_user_api_keys_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create unique index if not exists idx_user_api_keys_user_id on public.user_api_keys (user_id);

comment on table public.user_api_keys is 'Keys of users at other providers, encrypted before they reach the database';
comment on column public.user_api_keys.openai_api_key is 'Ciphertext envelope psk1.KEYID.DATA';
comment on column public.user_api_keys.unsplash_api_key is 'Ciphertext envelope psk1.KEYID.DATA';
comment on column public.user_api_keys.anthropic_api_key is 'Ciphertext envelope psk1.KEYID.DATA';
comment on column public.user_api_keys.validation is 'Per provider: whether the key is valid, when that was checked, and why not';
comment on column public.user_api_keys.hints is 'Per provider: the last four characters of the key, to know it by';

alter table public.user_api_keys enable row level security;
"""
    )
    op.execute(
        r"""
-- Never adopted: a table of the application that has this name stops the upgrade (0002_look_at_what_exists). Ours is here
-- already if only profiles_internal was dropped; its policies went with the functions that they call, but for this one.
do $ours_is_here$
begin
  if exists (
    select from pg_policy as p
    where p.polrelid = to_regclass('public.user_provider_keys') and p.polname = 'Service role can do what its grants allow'
  ) then
    drop policy "Service role can do what its grants allow" on public.user_provider_keys;
  end if;
end
$ours_is_here$;

create table if not exists public.user_provider_keys (
  id uuid default gen_random_uuid() not null,
  user_id uuid not null,
  provider text not null,
  label text default ''::text not null,
  envelope text not null,
  hint text,
  is_active boolean default true not null,
  validation jsonb default '{}'::jsonb not null,
  last_used_at timestamp with time zone,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint pk_user_provider_keys primary key (id),
  constraint ck_user_provider_keys_envelope_is_encrypted check (envelope ~ '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$' and char_length(envelope) <= 4096),
  constraint ck_user_provider_keys_hint_four_characters check (hint ~ '^[!-~]{4}$'),
  constraint ck_user_provider_keys_validation_is_object check (validation @> '{}'),
  constraint ck_user_provider_keys_provider_is_a_name check (provider ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
  constraint ck_user_provider_keys_label_up_to_64_characters check (label ~ '^[^\u0001-\u001f\u007f-\u009f]{0,64}$'),
  constraint ck_user_provider_keys_label_for_these_providers check (label <> '' or provider not in ('openai', 'unsplash', 'anthropic')),
  constraint fk_user_provider_keys_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create unique index if not exists idx_user_provider_keys_user_id on public.user_provider_keys (user_id, provider, label);

comment on table public.user_provider_keys is 'Keys of users at any provider, encrypted before they reach the database';
comment on column public.user_provider_keys.provider is 'Name of the provider, for example deepl';
comment on column public.user_provider_keys.label is 'The user''s name for it, where there are several; bound to the ciphertext';
comment on column public.user_provider_keys.envelope is 'Ciphertext envelope psk1.KEYID.DATA';
comment on column public.user_provider_keys.hint is 'The last four characters of the key, to know it by';
comment on column public.user_provider_keys.validation is 'Whether the key is valid, when that was checked, and why not';
comment on column public.user_provider_keys.last_used_at is 'When it was last read to be used, to the hour';

alter table public.user_provider_keys enable row level security;

create table profiles_internal.encryption_keys (
  key_id text not null,
  check_value text not null,
  recorded_at timestamp with time zone default now() not null,
  constraint pk_encryption_keys primary key (key_id)
);

comment on table profiles_internal.encryption_keys is 'Which key each id of the ring stood for when it was first used: another one under that id is noticed';
comment on column profiles_internal.encryption_keys.key_id is 'Id of the key, as in the envelopes';
comment on column profiles_internal.encryption_keys.check_value is 'Fingerprint of the key, which tells nothing about it';
comment on column profiles_internal.encryption_keys.recorded_at is 'When it was first used here';

revoke all on table profiles_internal.encryption_keys from public, anon, authenticated, service_role;
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
  foreach table_name in array array['public.user_api_keys', 'public.user_provider_keys'] loop
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
do $go_back$
begin
  if exists (select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = 'public.user_api_keys') then
    perform profiles_internal.undo_adoption('0008_create_user_api_keys');
  else
    drop table public.user_api_keys;
  end if;
end
$go_back$;

drop table public.user_provider_keys;
drop table profiles_internal.encryption_keys;
"""
    )
