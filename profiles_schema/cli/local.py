"""`profiles-schema local`: the embedded PostgreSQL."""

from __future__ import annotations

import json

import click

from profiles_schema.cli.help import Verbs, examples
from profiles_schema.errors import EmbeddedServerNotRunning
from profiles_schema.local import LocalServer, default_directory
from profiles_schema.local import start as start_server
from profiles_schema.local import status as server_status
from profiles_schema.local import stop as stop_server

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")


@click.group(
    cls=Verbs,
    epilog=examples('export DATABASE_URL="$(profiles-schema local start)"', "profiles-schema local stop"),
)
def local() -> None:
    """The embedded PostgreSQL, for development and tests.

    It keeps its data in PROFILES_LOCAL_DIR, or by default in this user's data directory.
    """


@local.command(epilog=examples("profiles-schema local start", 'psql "$(profiles-schema local start)"'))
@json_option
def start(as_json: bool) -> None:
    """Start it if it does not run, and print its URL."""
    server = start_server()
    click.echo(f"PostgreSQL {server.version} runs in {server.data_directory}, process {server.pid}.", err=True)
    click.echo(json.dumps(_described(server) | {"url": server.url()}) if as_json else server.url())


@local.command(epilog=examples("profiles-schema local stop"))
@json_option
def stop(as_json: bool) -> None:
    """Stop it and keep its data."""
    stopped = stop_server()
    if as_json:
        click.echo(json.dumps({"stopped": stopped}))
    else:
        click.echo("Stopped." if stopped else "It was not running.", err=True)


@local.command(epilog=examples('psql "$(profiles-schema local url)"'))
@json_option
def url(as_json: bool) -> None:
    """Print its URL; exit 3 if it does not run."""
    server = server_status()
    if server is None:
        raise EmbeddedServerNotRunning
    click.echo(json.dumps({"url": server.url()}) if as_json else server.url())


@local.command(epilog=examples("profiles-schema local status", "profiles-schema local status --json"))
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Say whether it runs; exit 1 if it does not."""
    server = server_status()
    if as_json:
        click.echo(json.dumps({"running": False} if server is None else _described(server)))
    elif server is None:
        click.echo(f"Not running (directory {default_directory()}).")
    else:
        click.echo(f"PostgreSQL {server.version} runs in {server.data_directory}, process {server.pid}.")
    if server is None:
        context.exit(1)


def _described(server: LocalServer) -> dict[str, str | int | bool]:
    return {
        "running": True,
        "version": server.version,
        "pid": server.pid,
        "port": server.port,
        "data_directory": str(server.data_directory),
        "socket_directory": str(server.socket_directory),
    }
