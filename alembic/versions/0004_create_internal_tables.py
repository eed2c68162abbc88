"""The tables that the database keeps for itself.

Why: settings, jobs, the record of what an upgrade set aside, and the log of migrations outlive a session.
Locks: auth.users in SHARE ROW EXCLUSIVE mode for a foreign key: its writers wait for milliseconds, its readers not at all.
Compatible with: any code; profiles_internal is closed to the roles of the API.
Back: drops the tables.
"""

from alembic import op

revision = "0004_create_internal_tables"
down_revision = "0003_create_identity"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        r"""
create table if not exists profiles_internal.settings (
  key text not null,
  value jsonb not null,
  updated_at timestamp with time zone default now() not null,
  constraint pk_settings primary key (key)
);

comment on table profiles_internal.settings is 'Settings that the database itself reads: the feature flag, the audit level, thresholds';
comment on column profiles_internal.settings.key is 'Name of the setting';
comment on column profiles_internal.settings.value is 'Its value';
comment on column profiles_internal.settings.updated_at is 'When it was last set';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.timezones (
  name text not null,
  constraint pk_timezones primary key (name)
);

comment on table profiles_internal.timezones is 'Time zones the server knows, so that validating one is an index probe instead of a directory walk';
comment on column profiles_internal.timezones.name is 'A name of pg_timezone_names';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.jobs (
  id bigint generated always as identity,
  kind text not null,
  state text default 'pending'::text not null,
  parameters jsonb default '{}'::jsonb not null,
  cursor jsonb,
  rows_total bigint,
  rows_done bigint default 0 not null,
  rows_failed bigint default 0 not null,
  batch_rows integer,
  target_ms integer default 100 not null,
  fence bigint default 0 not null,
  runner text,
  heartbeat_at timestamp with time zone,
  created_at timestamp with time zone default now() not null,
  started_at timestamp with time zone,
  finished_at timestamp with time zone,
  constraint pk_jobs primary key (id),
  constraint ck_jobs_state_is_known check (state::text in ('pending', 'running', 'paused', 'completed', 'cancelled'))
);

comment on table profiles_internal.jobs is 'Work in batches: where each job stands, so that it can be paused, resumed and taken over';
comment on column profiles_internal.jobs.id is 'Number of the job';
comment on column profiles_internal.jobs.kind is 'What it does, for example backfill';
comment on column profiles_internal.jobs.state is 'Where it stands';
comment on column profiles_internal.jobs.parameters is 'What it was called with; under left_out, until it ends, the rows skipped';
comment on column profiles_internal.jobs.cursor is 'Key of the last row done; null before the first batch';
comment on column profiles_internal.jobs.rows_total is 'Rows to do, as estimated at the start';
comment on column profiles_internal.jobs.rows_done is 'Rows done so far';
comment on column profiles_internal.jobs.rows_failed is 'Rows recorded and skipped';
comment on column profiles_internal.jobs.batch_rows is 'Rows of the present batch size';
comment on column profiles_internal.jobs.target_ms is 'Milliseconds that a batch should take';
comment on column profiles_internal.jobs.fence is 'Grows with every runner; a runner with an older one may not write';
comment on column profiles_internal.jobs.runner is 'Who works on it: host and process id';
comment on column profiles_internal.jobs.heartbeat_at is 'Last sign of life of the runner';
comment on column profiles_internal.jobs.created_at is 'When it was registered';
comment on column profiles_internal.jobs.started_at is 'When the first runner began';
comment on column profiles_internal.jobs.finished_at is 'When it completed or was cancelled';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.adopted (
  id bigint generated always as identity,
  revision text not null,
  object_type text not null,
  object_name text not null,
  definition text,
  data jsonb,
  created_at timestamp with time zone default now() not null,
  constraint pk_adopted primary key (id)
);

create index if not exists ix_adopted_key on profiles_internal.adopted ((data ->> 'key'));

comment on table profiles_internal.adopted is 'What an upgrade found and set aside; downgrade restores it';
comment on column profiles_internal.adopted.id is 'Order in which things were set aside';
comment on column profiles_internal.adopted.revision is 'The revision that set it aside';
comment on column profiles_internal.adopted.object_type is 'What it is, for example policy, trigger, column';
comment on column profiles_internal.adopted.object_name is 'Its qualified name';
comment on column profiles_internal.adopted.definition is 'SQL that brings it back';
comment on column profiles_internal.adopted.data is 'Values it held that were changed';
comment on column profiles_internal.adopted.created_at is 'When it was set aside';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.quarantine (
  id bigint generated always as identity,
  table_name text not null,
  row_data jsonb not null,
  reason text not null,
  created_at timestamp with time zone default now() not null,
  constraint pk_quarantine primary key (id)
);

comment on table profiles_internal.quarantine is 'Rows that adoption could not keep in their table, for example those without a user';
comment on column profiles_internal.quarantine.id is 'Order in which rows were set aside';
comment on column profiles_internal.quarantine.table_name is 'Qualified name of the table the row was in';
comment on column profiles_internal.quarantine.row_data is 'The whole row';
comment on column profiles_internal.quarantine.reason is 'Why it could not stay';
comment on column profiles_internal.quarantine.created_at is 'When it was set aside';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.legacy_columns (
  table_name text not null,
  column_name text not null,
  data_type text not null,
  column_default text,
  jsonb_column text not null,
  path text not null,
  state text default 'expanded'::text not null,
  recorded_at timestamp with time zone default now() not null,
  converted_at timestamp with time zone,
  contracted_at timestamp with time zone,
  constraint pk_legacy_columns primary key (table_name, column_name)
);

comment on table profiles_internal.legacy_columns is 'Wide columns that become JSON, as they were found; downgrade recreates them from here';
comment on column profiles_internal.legacy_columns.table_name is 'Name of the table';
comment on column profiles_internal.legacy_columns.column_name is 'Name of the column';
comment on column profiles_internal.legacy_columns.data_type is 'Its type as the server prints it';
comment on column profiles_internal.legacy_columns.column_default is 'Its default as the server prints it';
comment on column profiles_internal.legacy_columns.jsonb_column is 'The JSON column that takes its values';
comment on column profiles_internal.legacy_columns.path is 'The path inside that column, keys separated by dots';
comment on column profiles_internal.legacy_columns.state is 'Where its normalization stands, from expanded to contracted';
comment on column profiles_internal.legacy_columns.recorded_at is 'When it was found';
comment on column profiles_internal.legacy_columns.converted_at is 'When all its values had been converted';
comment on column profiles_internal.legacy_columns.contracted_at is 'When it was dropped';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.kept_json (
  id bigint generated always as identity,
  user_id uuid not null,
  jsonb_column text not null,
  path text not null,
  value jsonb not null,
  kept_at timestamp with time zone default now() not null,
  superseded_at timestamp with time zone,
  constraint pk_kept_json primary key (id),
  constraint fk_kept_json_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create index if not exists ix_kept_json_user_id on profiles_internal.kept_json (user_id);

comment on table profiles_internal.kept_json is 'JSON values that no wide column can hold, kept over a downgrade';
comment on column profiles_internal.kept_json.id is 'Order in which values were kept';
comment on column profiles_internal.kept_json.user_id is 'Whose value';
comment on column profiles_internal.kept_json.jsonb_column is 'The JSON column it was in';
comment on column profiles_internal.kept_json.path is 'Its path inside that column';
comment on column profiles_internal.kept_json.value is 'The value';
comment on column profiles_internal.kept_json.kept_at is 'When it was put here';
comment on column profiles_internal.kept_json.superseded_at is 'When something newer stood in its place; it does not come back';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.held_usernames (
  username text not null,
  user_id uuid not null,
  held_until timestamp with time zone not null,
  constraint pk_held_usernames primary key (username),
  constraint fk_held_usernames_user_id_users foreign key(user_id) references auth.users (id) on delete cascade
);

create index if not exists ix_held_usernames_user_id on profiles_internal.held_usernames (user_id);

comment on table profiles_internal.held_usernames is 'Usernames that their owners gave up lately: get_public_profile answers them, and nobody else can take them';
comment on column profiles_internal.held_usernames.username is 'In lower case';
comment on column profiles_internal.held_usernames.user_id is 'Who had it';
comment on column profiles_internal.held_usernames.held_until is 'From then on anybody can take it';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.erasures (
  user_id uuid not null,
  requested_at timestamp with time zone default now() not null,
  requested_by text not null,
  finished_at timestamp with time zone,
  constraint pk_erasures primary key (user_id),
  constraint fk_erasures_user_id_users foreign key(user_id) references auth.users (id) on delete cascade,
  constraint ck_erasures_requested_by_is_known check (requested_by::text in ('user', 'operator'))
);

create index if not exists ix_erasures_pending on profiles_internal.erasures (requested_at) where finished_at is null;

comment on table profiles_internal.erasures is 'Accounts that end or have ended: they stay shut, and their profiles no longer follow auth.users';
comment on column profiles_internal.erasures.user_id is 'Whose account ends';
comment on column profiles_internal.erasures.requested_at is 'When that was asked for';
comment on column profiles_internal.erasures.requested_by is 'user: delete_my_account; operator: users erase';
comment on column profiles_internal.erasures.finished_at is 'When everything was erased; null until then';
"""
    )
    op.execute(
        r"""
create table if not exists profiles_internal.migration_log (
  id bigint generated always as identity,
  revision text not null,
  direction text not null,
  started timestamp with time zone not null,
  seconds double precision,
  role text default CURRENT_USER not null,
  package_version text,
  outcome text default 'running'::text not null,
  users bigint,
  missing bigint,
  constraint pk_migration_log primary key (id),
  constraint ck_migration_log_direction_is_known check (direction::text in ('upgrade', 'downgrade')),
  constraint ck_migration_log_outcome_is_known check (outcome::text in ('running', 'done', 'failed'))
);

comment on table profiles_internal.migration_log is 'Every run of a revision: when, by whom, how long, and the users it left without a profile';
comment on column profiles_internal.migration_log.id is 'Order of the runs';
comment on column profiles_internal.migration_log.revision is 'The revision';
comment on column profiles_internal.migration_log.direction is 'upgrade or downgrade';
comment on column profiles_internal.migration_log.started is 'When it began';
comment on column profiles_internal.migration_log.seconds is 'How long it took; null while it runs';
comment on column profiles_internal.migration_log.role is 'The role that ran it';
comment on column profiles_internal.migration_log.package_version is 'Version of profiles-schema';
comment on column profiles_internal.migration_log.outcome is 'How it ended';
comment on column profiles_internal.migration_log.users is 'Users when it ended';
comment on column profiles_internal.migration_log.missing is 'Users without a profile when it ended';

-- They ran before there was a log.
insert into profiles_internal.migration_log (revision, direction, started, outcome) values
  ('0001_default_profile_id', 'upgrade', now(), 'done'),
  ('0002_look_at_what_exists', 'upgrade', now(), 'done'),
  ('0003_create_identity', 'upgrade', now(), 'done');
"""
    )
    op.execute(
        r"""
insert into profiles_internal.timezones (name)
select z.name from pg_timezone_names as z
where z.name !~ '^posix' and z.name <> 'localtime'
on conflict do nothing;

insert into profiles_internal.settings (key, value) values
  ('auto_create_profiles', 'true'),
  ('audit_level', '"changes"'),
  ('audit_key_reads', 'false'),
  ('normalize_verification_days', '7'),
  ('audit_keep_days', '365'),
  ('username_hold_days', '90')
on conflict do nothing;
"""
    )
    op.execute(
        r"""
-- profiles_internal is closed. One can enter it only to reach the functions that the callable functions of public
-- lead to; each of those carries its own grant, in its own file.
revoke all on schema profiles_internal from public, anon, authenticated, service_role;
revoke all on all tables in schema profiles_internal from public, anon, authenticated, service_role;
revoke all on all sequences in schema profiles_internal from public, anon, authenticated, service_role;

grant usage on schema profiles_internal to anon, authenticated, service_role;
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
drop table profiles_internal.migration_log;
drop table profiles_internal.erasures;
drop table profiles_internal.held_usernames;
drop table profiles_internal.kept_json;
drop table profiles_internal.legacy_columns;
drop table profiles_internal.quarantine;
drop table profiles_internal.adopted;
drop table profiles_internal.jobs;
drop table profiles_internal.timezones;
drop table profiles_internal.settings;
"""
    )
