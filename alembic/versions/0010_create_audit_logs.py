"""The audit log of profiles.

Why: a failure that is caught must be found again.
Locks: auth.users in SHARE ROW EXCLUSIVE mode for the foreign key: its writers wait for milliseconds, its readers not at all.
Compatible with: any code; until policies come the table is closed to the API roles.
Back: drops the table; refuses while it holds rows.
"""

from alembic import op

revision = "0010_create_audit_logs"
down_revision = "0009_create_export_history"
branch_labels = None
depends_on = None
downgrade_drops = ("public.user_profile_audit_logs",)


def upgrade() -> None:
    op.execute(
        r"""
-- A table that is here already is taken over, with its rows; what follows then finds nothing left to make.
select profiles_internal.adopt('0010_create_audit_logs');
"""
    )
    op.execute(
        r"""
create table if not exists public.user_profile_audit_logs (
  id uuid default gen_random_uuid() not null,
  user_id uuid,
  action text not null,
  origin text not null,
  actor uuid,
  changed text[],
  error_code text,
  error_message text,
  retry_count integer default 0 not null,
  metadata jsonb default '{}'::jsonb not null,
  created_at timestamp with time zone default now() not null,
  constraint pk_user_profile_audit_logs primary key (id),
  constraint ck_user_profile_audit_logs_action_is_known check (action::text in ('created', 'updated', 'failed', 'skipped', 'repaired', 'deleted', 'key_set', 'key_deleted', 'key_disabled', 'key_enabled', 'key_read')),
  constraint ck_user_profile_audit_logs_origin_is_known check (origin::text in ('trigger', 'manual', 'backfill', 'registration', 'sync', 'normalize')),
  constraint ck_user_profile_audit_logs_retry_count_not_negative check (retry_count >= 0),
  constraint fk_user_profile_audit_logs_user_id_users foreign key(user_id) references auth.users (id) on delete set null
);

create index if not exists idx_user_profile_audit_logs_actor on public.user_profile_audit_logs (actor) where actor is not null and actor is distinct from user_id;

create index if not exists idx_user_profile_audit_logs_failures on public.user_profile_audit_logs (created_at desc) where action in ('failed', 'skipped');

create index if not exists idx_user_profile_audit_logs_user_id on public.user_profile_audit_logs (user_id, created_at desc);

comment on table public.user_profile_audit_logs is 'What happened to profiles: who, by which road, which columns; failures with their SQLSTATE';
comment on column public.user_profile_audit_logs.user_id is 'Whose profile; null once the user is deleted';
comment on column public.user_profile_audit_logs.origin is 'The road by which it happened';
comment on column public.user_profile_audit_logs.actor is 'The user who did it; null for the server';
comment on column public.user_profile_audit_logs.changed is 'Names of the columns that changed, never their values';
comment on column public.user_profile_audit_logs.error_code is 'SQLSTATE of a failure';
comment on column public.user_profile_audit_logs.error_message is 'Names of the objects involved, never quoted values';

alter table public.user_profile_audit_logs enable row level security;
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
  foreach table_name in array array['public.user_profile_audit_logs'] loop
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
  if exists (select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = 'public.user_profile_audit_logs') then
    perform profiles_internal.undo_adoption('0010_create_audit_logs');
  else
    drop table public.user_profile_audit_logs;
  end if;
end
$go_back$;
"""
    )
