"""health, called as its command does; and the role that monitors with it."""

from contextlib import contextmanager

from profiles_schema.operations.health import Health, examine
from support.database import Database


def look(database, **options) -> Health:
    with database.engine.connect() as connection:
        return examine(connection, **options)


@contextmanager
def monitored(database, role="bypassrls"):
    """The database as the role that docs/how-to/monitor-a-database.md makes for monitoring, and as if it were a standby."""
    administrator = database.administrator
    administrator.script(
        f"set transaction read write; create role monitor_of_health login {role}; grant pg_read_all_data to monitor_of_health"
    )
    administrator.script(
        f'set transaction read write; alter database "{database.name}" set default_transaction_read_only = on'
    )
    try:
        yield Database(database.server, database.name, "monitor_of_health")
    finally:
        administrator.script("set transaction read write; drop owned by monitor_of_health; drop role monitor_of_health")


def finding_codes(database, **options) -> set[str]:
    """The codes of all findings."""
    return {finding.code for finding in look(database, **options).findings}
