"""Does row level security bind the roles that the application logs in as?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import Connection

from profiles_schema.operations.findings import Finding, notice, problem
from profiles_schema.row_security import Role, look_at_application_roles, look_at_role


def examine_roles(connection: Connection, named: Iterable[str]) -> Iterator[Finding]:
    """A problem for a named role that is not bound; a notice for every other one that seems to be the application's."""
    names = set(named)
    for name in sorted(names):
        role = look_at_role(connection, name)
        if role is None:
            yield problem("application_role", f"There is no role {name}.")
        elif role.reasons:
            yield problem("application_role", _sentence(role), role.remedy)
    for role in look_at_application_roles(connection):
        if role.reasons and role.name not in names:
            yield notice("application_role", _sentence(role), role.remedy)


def _sentence(role: Role) -> str:
    return f"Row level security does not bind the role {role.name}: it {', and '.join(role.reasons)}."
