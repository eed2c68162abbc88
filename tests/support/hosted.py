"""A hosted project: the auth schema, roles and default privileges that a host makes. Loaders of pytest-postgresql."""

from support.database import REPOSITORY, Database, Server


def host_a_project(host, port, user, dbname, password, autocommit):
    database = Database(Server(host=host, port=port, user=user, options="", dbname=dbname), dbname)
    database.script(
        (REPOSITORY / "tests" / "support" / "supabase.sql")
        .read_text(encoding="utf-8")
        .replace(':"database"', f'"{dbname}"')
    )


def open_by_default(host, port, user, dbname, password, autocommit):
    host_a_project(host, port, user, dbname, password, autocommit)
    Database(Server(host=host, port=port, user=user, options="", dbname=dbname), dbname).script(
        "alter default privileges for role project_owner in schema public grant all on tables to anon, authenticated, service_role;"
        "alter default privileges for role project_owner in schema public grant all on sequences to anon, authenticated, service_role;"
        "alter default privileges for role project_owner in schema public grant all on functions to anon, authenticated, service_role;"
    )


def owned(server, name):
    # A clone does not inherit the rights on its template.
    Database(server, name).script(f"grant create, connect, temporary on database {name} to project_owner")
    return Database(server, name, "project_owner")
