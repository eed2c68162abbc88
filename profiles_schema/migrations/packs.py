"""Objects that only some databases use, made where one needs them later than its revisions did.

What serves wide columns, another table of users, or old names is created by the revision of that name, where there is
something to serve (``Where`` in schema/objects.py). A database that gets it afterwards gets the functions then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from profiles_schema.driver import execute_literally
from profiles_schema.schema import objects
from profiles_schema.schema.objects import Where

if TYPE_CHECKING:
    from sqlalchemy import Connection


def is_installed(connection: Connection, pack: Where) -> bool:
    """Whether the database has the functions of a pack."""
    first = next(each.name for each in objects.FUNCTIONS if each.where is pack)
    return connection.scalar(text("select to_regproc(:name) is not null"), {"name": first}) is True


def install(connection: Connection, pack: Where) -> bool:
    """Create the functions of a pack if the database needs them and has none; whether it has them afterwards."""
    if not is_installed(connection, pack):
        for each in objects.FUNCTIONS:
            if each.where is pack:
                execute_literally(connection, each.statement)
    return is_installed(connection, pack)
