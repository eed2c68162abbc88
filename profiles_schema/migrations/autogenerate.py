"""Autogenerate beyond tables and columns: functions, triggers, policies, grants, CHECKs, index definitions.

What is not ours (tables, columns, indexes, constraints of the application) is never proposed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import MigrateOperation, MigrationScript, ModifyTableOps, UpgradeOps
from alembic.runtime.migration import MigrationContext
from alembic.runtime.plugins import Plugin
from alembic.script import ScriptDirectory
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy import UUID, Dialect, MetaData, text
from sqlalchemy.dialects.postgresql.base import PGDialect

from profiles_schema.migrations import alembic_internals as internals
from profiles_schema.migrations.paths import script_location, versions
from profiles_schema.migrations.sql_objects import Change, changes, our_tables
from profiles_schema.schema.catalog import Key, kept_columns
from profiles_schema.schema.models.base import ProfileId
from profiles_schema.schema.models.base import metadata as our_metadata

PLUGIN = "profiles_schema.objects"
_KEPT = "profiles_schema.kept_columns"
_NO_CHECKS = "~alembic.autogenerate.checkconstraint_byname"
_MAX_REVISION_ID = 32  # alembic_version.version_num
_PLAIN: Dialect = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]

_registered = False


class ReplaceSqlOp(MigrateOperation):
    """An operation that runs frozen SQL, with the SQL that goes back."""

    def __init__(self, change: Change) -> None:
        self.change = change

    def reverse(self) -> ReplaceSqlOp:
        """The way back."""
        return ReplaceSqlOp(self.change.inverse())

    def to_diff_tuple(self) -> tuple[str, str, tuple[str, ...]]:
        """What `alembic check` lists."""
        return ("replace_sql", str(self.change.what), self.change.why)


def includes_ours(metadata: MetaData | Sequence[MetaData]) -> bool:
    """Whether a metadata, or one of a list, holds tables of this package."""
    collections = [metadata] if isinstance(metadata, MetaData) else metadata
    return any(our_metadata.tables.keys() & each.tables.keys() for each in collections)


def configure_options(metadata: MetaData | Sequence[MetaData], *, ours_too: bool = True) -> dict[str, Any]:
    """Options for ``context.configure`` of a revision or check command.

    Args:
        metadata: What is compared: our metadata, or a list of it and the application's own.
        ours_too: Whether to look at our tables, which takes objects made in a savepoint.
    """
    _register()
    collections = [metadata] if isinstance(metadata, MetaData) else list(metadata)
    ours = {key for each in collections for key in (t.key for t in our_tables(each))}
    tables = {key: table for each in collections for key, table in each.tables.items() if ours_too or key not in ours}
    schemas = {table.schema for table in tables.values()} - {"auth"}

    def include_name(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name in schemas
        if kind == "table":
            return parents.get("schema_qualified_table_name") in tables
        return True

    def include_object(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
        if kind == "table":
            if item.schema == "auth" or not (reflected or item.key in tables):
                return False
            if not reflected and name == "sessions" and item.key in ours and compare_to is not None:
                return str(compare_to.comment or "").startswith("profiles-schema:")
            return not reflected or item.key in tables
        table = getattr(item, "table", None)
        # What the application added to one of our tables.
        return not (reflected and compare_to is None and table is not None and table.key in ours)

    def render_item(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
        # A revision imports alembic and sqlalchemy alone.
        return "sa.Text()" if kind == "type" and isinstance(item, ProfileId) else False

    return {
        "target_metadata": metadata,
        "render_item": render_item,
        "include_schemas": True,
        "include_name": include_name,
        "include_object": include_object,
        "compare_type": True,
        "compare_server_default": True,
        "process_revision_directives": number_revision,
        # Only alembic 1.19 compares CHECKs unasked; those of our tables are compared here.
        "autogenerate_plugins": ["alembic.autogenerate.*", _NO_CHECKS, *([PLUGIN] if ours_too else [])],
    }


def _keep_column(
    context: AutogenContext, _operation: Any, _schema: Any, table: Any, name: Any, found: Any, declared: Any
) -> PriorityDispatchResult:
    """What adoption left of a column is right: an id that came as uuid, a type or a default of the application."""
    key = Key("column", declared.table.schema or "public", table, name)
    if _KEPT not in context.opts:  # asked once in a comparison, not for every column
        context.opts[_KEPT] = {kept for kept, _ in kept_columns(context.connection)} if context.connection else set()
    kept = (isinstance(declared.type, ProfileId) and isinstance(found.type, UUID)) or key in context.opts[_KEPT]
    return PriorityDispatchResult.STOP if kept else PriorityDispatchResult.CONTINUE


def number_revision(
    context: MigrationContext, _revision: str | Iterable[str | None] | Iterable[str], directives: list[MigrationScript]
) -> None:
    """Name a new revision NNNN_what_it_does: the next number and the message, 32 characters at most."""
    if not directives or context.config is None:
        return
    script = directives[0]
    _put_into_application(ScriptDirectory.from_config(context.config), script)
    if internals.asked_revision_id(context):
        return
    existing = list(_revisions_beside(ScriptDirectory.from_config(context.config)))
    numbers = [int(match[0]) for r in existing if (match := re.match(r"\d{4}", r))]
    slug = re.sub(r"\W+", "_", script.message or "change").strip("_").lower()
    script.rev_id = f"{max(numbers, default=0) + 1:04d}_{slug}"[:_MAX_REVISION_ID].rstrip("_")


def _put_into_application(directory: ScriptDirectory, script: MigrationScript) -> None:
    """In an application that has included our history, put a new revision into its own branch, never into our directory.

    Its first one begins the branch ``app`` and depends on our newest. What the command line says counts.
    """
    ours = versions().resolve()
    locations = [place for place in internals.version_locations(directory) if Path(place).resolve() != ours]
    if (
        Path(directory.dir).resolve() == script_location().resolve()
        or not locations
        or script.head not in {None, "head"}
    ):
        return
    heads = [revision for revision in directory.get_revisions("heads") if revision is not None]
    theirs = [revision.revision for revision in heads if Path(revision.path).parent.resolve() != ours]
    if len(theirs) == 1:
        script.head = theirs[0]
    elif not theirs:
        script.head = "base"
        script.branch_label = script.branch_label or "app"
        script.depends_on = script.depends_on or [revision.revision for revision in heads]
        script.version_path = script.version_path or str(locations[0])


def _revisions_beside(script: ScriptDirectory) -> Iterator[str]:
    """The revisions that the new one is numbered after: the application's own, where it has included ours."""
    revisions = list(script.walk_revisions())
    theirs = [r for r in revisions if Path(r.path).parent.resolve() != versions().resolve()]
    own_history = Path(script.dir).resolve() == script_location().resolve()
    yield from (r.revision for r in (revisions if own_history else theirs))


def _register() -> None:
    # env.py runs many times in one process, a plugin can be named once.
    global _registered  # noqa: PLW0603 - the registry it mirrors is global, too
    if _registered:
        return
    plugin = Plugin(PLUGIN)
    plugin.add_autogenerate_comparator(_compare_sql_objects, "autogenerate", priority=DispatchPriority.LAST)
    for aspect in ("types", "server_default"):
        plugin.add_autogenerate_comparator(_keep_column, "column", aspect, priority=DispatchPriority.FIRST)
    renderers.dispatch_for(ReplaceSqlOp)(_render)
    _registered = True


def _compare_sql_objects(context: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    if context.connection is not None and includes_ours(context.metadata or []):
        found = changes(context.connection, our_metadata)
        # An index in use is rebuilt concurrently; alembic would lock the table.
        rebuilt = {change.what.name for change in found if change.concurrently}
        for operations in upgrade_ops.ops:
            if isinstance(operations, ModifyTableOps):
                operations.ops = [o for o in operations.ops if getattr(o, "index_name", None) not in rebuilt]
        upgrade_ops.ops = [o for o in upgrade_ops.ops if not (isinstance(o, ModifyTableOps) and o.is_empty())]
        upgrade_ops.ops.extend(ReplaceSqlOp(change) for change in found)
    return PriorityDispatchResult.CONTINUE


def _render(_context: AutogenContext, operation: ReplaceSqlOp) -> list[str]:
    sql = operation.change.upgrade_sql.strip()
    if not operation.change.concurrently:
        return [_render_statement(sql)]
    statements = [s for s in re.split(r";\s*\n", sql.rstrip(";")) if s]
    # Alembic's printer indents after a colon, and goes back at an empty line.
    return [
        "with op.get_context().autocommit_block():",
        *(f"op.execute({_escape(statement)!r})" for statement in statements),
        "",
    ]


def _render_statement(sql: str) -> str:
    escaped = _escape(sql)
    if str(text(escaped).compile(dialect=_PLAIN)) != sql:
        # Words between colons, such as [[:space:]], cannot be written for text() at all.
        return f"op.execute(sa.DDL({sql.replace('%', '%%')!r}))"
    if '"""' in escaped:
        return f"op.execute({escaped!r})"
    return f'op.execute(\n    r"""\n{escaped}\n"""\n)'


def _escape(sql: str) -> str:
    # text() takes a colon before a word for a parameter, and a backslash before a colon for our own.
    return re.sub(r"(?<![:\w\\]):(\w+)(?!:)", r"\\:\1", re.sub(r"\\(?=:)", r"\\\\", sql))
