"""``--sql`` output: the revisions in a frame of settings, lock and schema before, and the tidying after.

A script for psql: ``psql -v ON_ERROR_STOP=1 -f``, without ``--single-transaction``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from alembic.util import CommandError

from profiles_schema._version import __version__
from profiles_schema.driver import quote_name
from profiles_schema.migrations import identity, indexes, locking, paths, session, summary
from profiles_schema.migrations.environment import Environment
from profiles_schema.migrations.options import Options
from profiles_schema.settings import INTERNAL_SCHEMA

if TYPE_CHECKING:
    from alembic.ddl.impl import DefaultImpl
    from alembic.runtime.migration import MigrationContext


def write_script(environment: Environment) -> None:
    """Print what the command would run.

    Raises:
        ProfilesSchemaError: alembic does not find its way to what was asked for.
    """
    table = {"schema": environment.version_table_schema, "version_table": environment.version_table}
    heads_after: set[str] = set()

    def steps(_heads: tuple[str, ...], context: MigrationContext) -> Iterator[Any]:
        for step in environment.steps:
            context.impl.static_output(search_path(session.OWN_SEARCH_PATH if paths.is_ours(step) else None))
            yield step
        context.impl.static_output(search_path(None))

    def log_step(ctx: MigrationContext, step: Any, heads: Any, run_args: Any) -> None:
        del run_args  # alembic passes it by name
        heads_after.clear()
        heads_after.update(heads)
        if step.is_migration:
            direction = "upgrade" if step.is_upgrade else "downgrade"
            ctx.impl.static_output(summary.offline_log(step.up_revision_id, direction))

    environment.alembic.configure(
        dialect_name="postgresql+psycopg2",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        transaction_per_migration=True,
        version_table=environment.version_table,
        version_table_schema=environment.version_table_schema,
        on_version_apply=log_step,
        fn=steps,
    )
    context = environment.alembic.get_context()
    apply_index_rules(context.impl, environment.options)
    try:
        start = context.get_current_heads()
        environment.steps = list(environment.find_steps(start, context))
    except CommandError as error:
        raise environment.path_error(error, ()) from error
    for text in head(environment.options, start=start, goes_on=environment.goes_on, **table):
        context.impl.static_output(text)
    environment.alembic.run_migrations()
    for text in foot(at_base=bool(environment.steps) and not heads_after, **table):
        context.impl.static_output(text)


def head(options: Options, *, schema: str, version_table: str, start: Sequence[str], goes_on: str) -> list[str]:
    """The statements before the first revision.

    Args:
        options: the run's options.
        schema: where the version table lives.
        version_table: its name.
        start: the revisions that the script starts from.
        goes_on: the value of ``session.GOES_ON``.
    """
    lines = [
        f"-- profiles-schema {__version__}. Run it with: psql -v ON_ERROR_STOP=1 -f THIS_FILE",
        "\n".join(
            f"select pg_catalog.set_config({_text(n)}, {_text(v)}, false);"
            for n, v in {**session.session_settings(options), session.GOES_ON: goes_on}.items()
        ),
        locking.offline_acquire(options.lock_wait_seconds),
        _start_guard(f"{quote_name(schema)}.{quote_name(version_table)}", start),
    ]
    if options.values["identity"]:
        lines += ["begin;\nset local search_path = pg_catalog, pg_temp;", identity.preflight(), "commit;"]
    lines += [create_schema(name) for name in dict.fromkeys((INTERNAL_SCHEMA, schema))]
    return lines


def foot(*, schema: str, version_table: str, at_base: bool) -> list[str]:
    """The statements after the last revision."""
    tidy = [f"drop table if exists {quote_name(schema)}.{quote_name(version_table)};", drop_schema()] if at_base else []
    return [*tidy, locking.offline_release()]


def search_path(names: str | None) -> str:
    """Set the search path; without names, back to that of the database."""
    return f"set search_path = {names};" if names else "reset search_path;"


def create_schema(name: str) -> str:
    """Create a schema only where it is missing: IF NOT EXISTS alone asks for the privilege even if it exists."""
    return f"""do $create_schema$
begin
  if pg_catalog.to_regnamespace({_text(quote_name(name))}) is null then
    create schema {quote_name(name)};
  end if;
end
$create_schema$;"""


def drop_schema() -> str:
    """Drop our schema where nothing is left in it."""
    return f"""do $drop_schema$
begin
  if pg_catalog.to_regnamespace('{INTERNAL_SCHEMA}') is not null and not exists (
    select from pg_catalog.pg_depend
    where refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
      and refobjid = pg_catalog.to_regnamespace('{INTERNAL_SCHEMA}') and deptype = 'n'
  ) then
    drop schema {INTERNAL_SCHEMA};
  end if;
end
$drop_schema$;"""


def apply_index_rules(impl: DefaultImpl, options: Options) -> None:
    """Give CREATE and DROP INDEX CONCURRENTLY their own lock_timeout in the script too, and check the result."""
    write = impl.static_output
    wait_ms = max(1, int(options.deadline_seconds * 1000))

    def static_output(text: str) -> None:
        if not indexes.is_concurrent(text):
            write(text)
            return
        write(f"set lock_timeout = {wait_ms};")
        write(text)
        write(f"set lock_timeout = {options.lock_timeout_ms};")
        if created := indexes.created_index(text):
            write(_assert_valid(*created))

    impl.static_output = static_output  # type: ignore[method-assign]


def _assert_valid(index: str, table: str) -> str:
    return f"""do $assert_valid$
begin
  if exists (
    select from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
    where i.indrelid = pg_catalog.to_regclass({_text(table)}) and c.relname = {_text(index)} and not i.indisvalid
  ) then
    raise exception using message = {_text(f"index {index} is not valid: drop it and run this script again")};
  end if;
end
$assert_valid$;"""


def _start_guard(table: str, start: Sequence[str]) -> str:
    expected = ", ".join(sorted(start))
    return f"""do $start$
declare
  found text;
begin
  if pg_catalog.to_regclass({_text(table)}) is not null then
    execute {_text(f"select pg_catalog.string_agg(version_num, ', ' order by version_num) from {table}")} into found;
  end if;
  if coalesce(found, '') <> {_text(expected)} then
    raise exception using message = pg_catalog.format('the database is at %s, this script starts at %s',
      coalesce(found, 'base'), {_text(expected or "base")});
  end if;
end
$start$;"""


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
