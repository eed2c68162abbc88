"""Exports that users asked for.

Why: an export takes longer than a request; its state must outlive both.
Locks: auth.users in SHARE ROW EXCLUSIVE mode for the foreign key: its writers wait for milliseconds, its readers not at all.
Compatible with: any code; until policies come the table is closed to the API roles.
Back: drops the table; refuses while it holds rows.
"""

from alembic import op

revision = "0009_create_export_history"
down_revision = "0008_create_user_api_keys"
branch_labels = None
depends_on = None
downgrade_drops = ("public.export_history",)


def upgrade() -> None:
    op.execute(
        r"""
-- A table that is here already is taken over, with its rows; what follows then finds nothing left to make.
select profiles_internal.adopt('0009_create_export_history');
"""
    )
    op.execute(
        r"""
create table if not exists public.export_history (
  id uuid default gen_random_uuid() not null,
  user_id uuid not null,
  export_type varchar(50) not null,
  export_format varchar(20) not null,
  status varchar(20) default 'pending'::character varying not null,
  records_count integer default 0 not null,
  file_size_bytes bigint,
  file_url text,
  filters jsonb,
  data jsonb,
  error_message text,
  retry_count integer default 0 not null,
  started_at timestamp with time zone,
  completed_at timestamp with time zone,
  processing_time_seconds integer,
  expires_at timestamp with time zone,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  constraint pk_export_history primary key (id),
  constraint ck_export_history_status_is_known check (status::text in ('pending', 'processing', 'completed', 'failed', 'expired')),
  constraint ck_export_history_records_count_not_negative check (records_count >= 0),
  constraint ck_export_history_file_size_bytes_not_negative check (file_size_bytes >= 0),
  constraint ck_export_history_retry_count_not_negative check (retry_count >= 0),
  constraint ck_export_history_filters_object_64_kb_32_levels check (
    pg_column_size(filters) <= 131072 and filters @> '{}' and not filters @? '$.**{33}'
    and not filters @? 'strict $.** ? (@ > 1e40 || @ < -1e40 || (@ != 0 && @ > -1e-40 && @ < 1e-40))'
    and octet_length(filters::text) <= 65536
  ),
  constraint fk_export_history_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create index if not exists idx_export_history_created_at on public.export_history (created_at desc);

create index if not exists idx_export_history_expires_at on public.export_history (expires_at) where expires_at is not null;

create index if not exists idx_export_history_export_type on public.export_history (export_type);

create index if not exists idx_export_history_status on public.export_history (status);

create index if not exists idx_export_history_user_id on public.export_history (user_id, created_at desc);

comment on table public.export_history is 'Exports that users asked for, from pending to expired';
comment on column public.export_history.filters is 'What the user asked for; fixed once work has begun';
comment on column public.export_history.data is 'The export itself, where it is small enough to keep here';
comment on column public.export_history.processing_time_seconds is 'From started_at to completed_at; set by a trigger';
comment on column public.export_history.expires_at is 'From then on the export may be purged';

alter table public.export_history enable row level security;
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
  foreach table_name in array array['public.export_history'] loop
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
  if exists (select from profiles_internal.adopted as a where a.object_type = 'table' and a.object_name = 'public.export_history') then
    perform profiles_internal.undo_adoption('0009_create_export_history');
  else
    drop table public.export_history;
  end if;
end
$go_back$;
"""
    )
