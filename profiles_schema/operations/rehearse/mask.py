"""Blank personal values in the copy, before anything else happens to it.

The labels of the models say which columns (``info["personal"]``). A table of profiles that is to be adopted has other columns, too:
what bears a name of ours is blanked, everything else stays as it is, and the result names it.

What decides how an upgrade fares stays as far as it can: nulls, the number of rows, keys, and that names and addresses are unique.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Table, text
from sqlalchemy.engine import Connection

from profiles_schema import data_rights
from profiles_schema.driver import execute_literally, quote_name
from profiles_schema.schema.models import metadata
from profiles_schema.schema.traits import trait_columns

_MASKED_KINDS: Final = frozenset({"contact", "content", "secret"})
_MASKED_IDENTIFIERS: Final = frozenset({"username", "external_id", "referral_code"})
# Of a closed set of values, and of no use to tell somebody by.
_HARMLESS: Final = frozenset({"profile_visibility", "timezone", "language"})
# Ciphertext that a CHECK wants to see.
_ENCRYPTED: Final = frozenset({"envelope"})
# What auth servers keep of a user besides the columns that we read.
_AUTH_SECRETS: Final = (
    "encrypted_password", "confirmation_token", "recovery_token", "email_change", "email_change_token_new",
    "email_change_token_current", "phone_change", "phone_change_token", "reauthentication_token",
)  # fmt: skip
_AUTH_TABLES: Final = {
    "auth.identities": {"identity_data"},
    "auth.sessions": {"ip", "user_agent"},
    "auth.refresh_tokens": {"token"},
    "auth.audit_log_entries": {"payload", "ip_address"},
    "auth.mfa_factors": {"friendly_name", "phone", "secret", "web_authn_credential"},
    "auth.mfa_challenges": {"ip_address", "otp_code", "web_authn_session_data"},
    "auth.one_time_tokens": {"token_hash", "relates_to"},
    "auth.flow_state": {"auth_code", "code_challenge", "provider_access_token", "provider_refresh_token"},
}
_TEXTS: Final = frozenset({"text", "character varying", "character", "citext"})


def mask(connection: Connection, adopted_table: str | None) -> list[str]:
    """Blank what is personal, as the superuser of the copy; returns the columns of texts and JSON that were left as they are.

    Args:
        connection: In a transaction, on the copy.
        adopted_table: The table that is to become user_profiles, if it has another name.
    """
    # No trigger and no foreign key of the application has a say.
    connection.execute(text("set local session_replication_role = replica"))
    left: list[str] = []
    tables = {f"{table.schema or 'public'}.{table.name}": table for table in metadata.tables.values()}
    for other in ("profiles", adopted_table):
        if other:
            tables.setdefault(other if "." in other else f"public.{other}", metadata.tables["user_profiles"])
    for name, table in tables.items():
        left += _mask_table(connection, name, _wanted(table), set(table.columns.keys()))
    for name, wanted in _AUTH_TABLES.items():
        _mask_table(connection, name, wanted, None)
    if connection.scalar(text("select to_regclass('profiles_internal.settings') is not null")):
        for each in data_rights.registered(connection):
            named = {*each.export, *([] if isinstance(each.on_erase, str) else each.on_erase)} - {each.user_column}
            _mask_table(connection, each.table, named, None)
    return left


def rewrite(connection: Connection) -> None:
    """Write the tables anew, so that their files no longer hold the old rows. Outside a transaction."""
    connection.execute(text("vacuum (full, analyze)"))
    connection.execute(text("checkpoint"))


def _mask_table(connection: Connection, name: str, wanted: set[str], known: set[str] | None) -> list[str]:
    """Blank columns of a table; returns those of texts and JSON that are neither wanted nor known, or cannot be blanked."""
    schema, _, relation = name.partition(".")
    quoted = f"{quote_name(schema)}.{quote_name(relation)}"
    present = connection.execute(
        text(
            "select a.attname::text as name, a.attnotnull as required, a.attgenerated <> '' as generated,"
            " coalesce(nullif(t.typbasetype, 0), t.oid)::regtype::text as kind,"
            " case when a.atttypmod > 4 and t.typcategory = 'S' then a.atttypmod - 4 end as length"
            " from pg_attribute as a join pg_type as t on t.oid = a.atttypid join pg_class as c on c.oid = a.attrelid"
            " where a.attrelid = to_regclass(:name) and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped"
            " order by a.attnum"
        ),
        {"name": quoted},
    ).all()
    sets, left = [], []
    for column in present:
        if column.generated:
            continue
        value = (
            _blank(column.name, column.kind, column.length, required=column.required) if column.name in wanted else None
        )
        if value is not None:
            sets.append(f"{quote_name(column.name)} = {value}")
        elif column.name in wanted or (
            known is not None and column.name not in known and column.kind in {*_TEXTS, "json", "jsonb"}
        ):
            left.append(f"{name}.{column.name}")
    if sets:
        execute_literally(connection, f"update {quoted} set {', '.join(sets)}")
    return left


def _wanted(table: Table) -> set[str]:
    """The names of columns to blank."""
    wanted = {
        column.name
        for column in table.columns
        if column.info["personal"] in _MASKED_KINDS or column.name in _MASKED_IDENTIFIERS
    }
    if table.name == "user_profiles":
        wanted |= {trait.name for trait in trait_columns()} | {"full_name", "name"}
    if table.schema == "auth":
        wanted |= set(_AUTH_SECRETS)
    if table.name == "identity_links":
        wanted.clear()  # the key of a row in the application's table
    return wanted - _HARMLESS - _ENCRYPTED


def _blank(name: str, kind: str, length: int | None, *, required: bool) -> str | None:
    """What takes the place of a value, in SQL; None where nothing can."""
    quoted = quote_name(name)
    random = "md5(random()::text || clock_timestamp()::text)"
    if name == "email":
        made = f"left({random}, 20) || '@masked.invalid'"
    elif name == "username":
        made = f"left({random}, {min(length or 20, 20)})"
    elif not required:
        return "null"
    elif kind in {"json", "jsonb"}:
        return f"(case jsonb_typeof({quoted}::jsonb) when 'array' then '[]' else '{{}}' end)::{kind}"
    elif kind == "inet":
        return "'0.0.0.0'"
    elif kind in _TEXTS:
        made = f"left({random}, {length or 32})"
    else:
        return None
    return f"case when {quoted} is null then null else {made} end"
