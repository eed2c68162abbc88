"""The commands that only look: current, check, and the comparison of ``revision --autogenerate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic.util import CommandError
from sqlalchemy.exc import NoReferencedTableError

from profiles_schema.database import refuse_read_only
from profiles_schema.errors import SchemaDrift
from profiles_schema.migrations import alembic_internals as internals
from profiles_schema.migrations import failures, standing
from profiles_schema.migrations.environment import Environment
from profiles_schema.migrations.session import public_by_default, session

if TYPE_CHECKING:
    from sqlalchemy import Connection


def read(environment: Environment, connection: Connection) -> None:
    """Let alembic look, and change nothing.

    Raises:
        SchemaDrift: ``check`` has found differences.
    """
    options: dict[str, Any] = {"dont_mutate": True}
    if environment.compares:
        from profiles_schema.migrations.autogenerate import configure_options

        if not environment.is_check:
            refuse_read_only(connection, "The comparison makes objects in a transaction that it rolls back.")
        options |= configure_options(environment.models, ours_too=not environment.is_check)
    with session(connection, environment.options), public_by_default(connection):
        context = environment.configure(connection, **options)
        try:
            environment.alembic.run_migrations()
        except CommandError as error:
            connection.rollback()
            heads = context.get_current_heads()
            if not heads:
                standing.refuse_lost_version(connection)
            raise environment.path_error(error, heads) from error
        except NoReferencedTableError as error:
            raise failures.foreign_key_error(error) from error
        connection.rollback()
        if environment.compares and environment.is_check:
            _refuse_drift(environment, connection)


def _refuse_drift(environment: Environment, connection: Connection) -> None:
    from profiles_schema.migrations import drift, expected
    from profiles_schema.migrations.autogenerate import includes_ours

    proposals = internals.proposed_operations(environment.alembic)
    differences = [line for operations in proposals for line in drift.sentences(operations)]
    if includes_ours(environment.models):
        differences += expected.sentences(connection)
    connection.rollback()
    if differences:
        raise SchemaDrift(differences=differences)
