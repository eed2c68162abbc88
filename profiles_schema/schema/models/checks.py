"""The CHECKs that several tables share, named by what they allow.

Plain built-in functions only: a function of our own would need EXECUTE for every role that writes.
Each column has its own CHECK, so that the error names the column.
"""

from sqlalchemy import CheckConstraint

JSON_LIMIT_BYTES = 65_536
URL_LIMIT = 2_048


def is_up_to(limit: int, column: str) -> CheckConstraint:
    """A text of ``limit`` characters at most, or null."""
    return CheckConstraint(f"char_length({column}) <= {limit}", name=f"{column}_up_to_{limit}_characters")


def is_a_web_address(column: str) -> CheckConstraint:
    """An http or https URL of 2,048 characters at most, or null."""
    return CheckConstraint(
        f"{column} ~ '^https?://' and char_length({column}) <= {URL_LIMIT}", name=f"{column}_is_a_web_address"
    )


def is_json_up_to_64_kb(kind: str, column: str) -> CheckConstraint:
    """JSON of one kind (``object`` or ``array``), 65,536 bytes as text at most, or null."""
    return CheckConstraint(
        f"jsonb_typeof({column}) = '{kind}' and octet_length({column}::text) <= {JSON_LIMIT_BYTES}",
        name=f"{column}_is_{kind}_up_to_64_kb",
    )


def is_an_object(column: str) -> CheckConstraint:
    """A JSON object of any size, or null."""
    return CheckConstraint(f"jsonb_typeof({column}) = 'object'", name=f"{column}_is_object")


def is_one_of(column: str, *values: str) -> CheckConstraint:
    """One of the values that are known."""
    listed = ", ".join(f"'{value}'" for value in values)
    # ::text, because the server prints such a list over a varchar in a form that it reads back differently.
    return CheckConstraint(f"{column}::text in ({listed})", name=f"{column}_is_known")


def is_not_negative(column: str) -> CheckConstraint:
    """Zero or more."""
    return CheckConstraint(f"{column} >= 0", name=f"{column}_not_negative")
