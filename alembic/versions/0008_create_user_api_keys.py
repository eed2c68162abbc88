"""Encrypted keys of users at other providers.

Why: keys belong in one guarded place, and only as ciphertext.
Locks: auth.users in SHARE ROW EXCLUSIVE mode for the foreign key: its writers wait for milliseconds, its readers not at all.
Compatible with: any code; until policies come the table is closed to the API roles.
Back: drops the table; refuses while it holds rows.
"""

from alembic import op

revision = "0008_create_user_api_keys"
down_revision = "0007_create_user_progress"
branch_labels = None
depends_on = None
downgrade_drops = ("public.user_api_keys",)


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
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint pk_user_api_keys primary key (id),
  constraint ck_user_api_keys_openai_api_key_is_encrypted check (openai_api_key ~ '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$' and char_length(openai_api_key) <= 4096),
  constraint ck_user_api_keys_unsplash_api_key_is_encrypted check (unsplash_api_key ~ '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$' and char_length(unsplash_api_key) <= 4096),
  constraint ck_user_api_keys_anthropic_api_key_is_encrypted check (anthropic_api_key ~ '^psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,}$' and char_length(anthropic_api_key) <= 4096),
  constraint ck_user_api_keys_validation_is_object check (validation @> '{}'),
  constraint fk_user_api_keys_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create unique index if not exists idx_user_api_keys_user_id on public.user_api_keys (user_id);

comment on table public.user_api_keys is 'Keys of users at other providers, encrypted before they reach the database';
comment on column public.user_api_keys.openai_api_key is 'Ciphertext envelope psk1.KEYID.DATA';
comment on column public.user_api_keys.unsplash_api_key is 'Ciphertext envelope psk1.KEYID.DATA';
comment on column public.user_api_keys.anthropic_api_key is 'Ciphertext envelope psk1.KEYID.DATA';
comment on column public.user_api_keys.validation is 'Per provider: whether the key is valid, when that was checked, and why not';

alter table public.user_api_keys enable row level security;
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
  foreach table_name in array array['public.user_api_keys'] loop
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
"""
    )
