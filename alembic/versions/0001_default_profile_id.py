"""Give an existing text id of profiles its default.

Why: programs that insert profiles may leave `id` out from here on, if this step is deployed alone before everything else.
Locks: the table of profiles in ACCESS EXCLUSIVE mode for milliseconds, where its text `id` has no default; else nothing.
Compatible with: any code; what inserts an id of its own goes on doing so.
Back: takes that default away, where it was given here.
"""

from alembic import op

revision = "0001_default_profile_id"
down_revision = None
branch_labels = None
depends_on = None
downgrade_drops = ()


def upgrade() -> None:
    op.execute(
        r"""
-- An upgrade that goes on takes the table over, which gives the default, too. It can still be refused, and has then changed
-- nothing; so it is given here only when this step is deployed alone.
-- The comment of our schema is the mark by which the way back knows that it was.
do $default_profile_id$
declare
  relation constant regclass := coalesce(
    to_regclass('public.user_profiles'),
    to_regclass('public.' || quote_ident(nullif(current_setting('profiles_schema.adopt_table', true), '')))
  );
begin
  if current_setting('profiles_schema.goes_on', true) = 'yes' or not exists (
    select from pg_attribute as a
    join pg_class as c on c.oid = a.attrelid and c.relkind = 'r'
    where a.attrelid = relation and a.attname = 'id' and not a.attisdropped
      and not a.atthasdef and a.attidentity = ''
      and (a.atttypid = 'text'::regtype or a.atttypid = 'varchar'::regtype and (a.atttypmod < 0 or a.atttypmod >= 36 + 4))
  ) then
    return;
  end if;
  execute format('alter table %s alter column id set default (gen_random_uuid())::text', relation);
  execute format('comment on schema profiles_internal is %L', 'profiles-schema: gave a default to the id of ' || relation);
end
$default_profile_id$;
"""
    )


def downgrade() -> None:
    op.execute(
        r"""
do $default_profile_id$
declare
  relation constant regclass := to_regclass(
    substring(obj_description(to_regnamespace('profiles_internal'), 'pg_namespace') from '^profiles-schema: gave a default to the id of (.+)$')
  );
begin
  if relation is not null then
    execute format('alter table %s alter column id drop default', relation);
    comment on schema profiles_internal is null;
  end if;
end
$default_profile_id$;
"""
    )
