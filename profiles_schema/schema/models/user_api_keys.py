"""``public.user_api_keys``: a user's own keys at other providers, encrypted by the application."""

import re
import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Dialect, Index, Text, TypeDecorator
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql import operators
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeEngine

from profiles_schema.errors import PlainApiKey
from profiles_schema.schema.models.base import (
    EMPTY_OBJECT,
    RANDOM_UUID,
    TRUE,
    Base,
    JsonObject,
    Timestamps,
    references_user,
)
from profiles_schema.schema.models.checks import is_an_object
from profiles_schema.schema.models.privacy import DELETE, label, label_all
from profiles_schema.settings import ENVELOPE, ENVELOPE_LIMIT

_PATTERNS = frozenset({
    operators.like_op, operators.not_like_op, operators.ilike_op, operators.not_ilike_op,
    operators.startswith_op, operators.not_startswith_op, operators.regexp_match_op, operators.not_regexp_match_op,
})  # fmt: skip


def is_encrypted(column: str) -> CheckConstraint:
    """Our ciphertext envelope, or null: a key in plain text never reaches the table."""
    return CheckConstraint(
        f"{column} ~ '{ENVELOPE}' and char_length({column}) <= {ENVELOPE_LIMIT}", name=f"{column}_is_encrypted"
    )


class _PlainApiKey(DontWrapMixin, PlainApiKey):
    # Not wrapped: SQLAlchemy's own error would show the parameters of the statement.
    __doc__ = PlainApiKey.__doc__


class Envelope(TypeDecorator[str]):
    """A text that only takes our ciphertext envelope.

    The table refuses anything else as well, but by then a driver may have written the value into the statement, which the
    server's log quotes.
    """

    impl = Text
    cache_ok = True

    def coerce_compared_value(self, op: OperatorType | None, value: object) -> TypeEngine[Any]:
        """Patterns are plain text: ``like("psk1.%")`` finds rows by the id of their encryption key."""
        return Text() if op in _PATTERNS else super().coerce_compared_value(op, value)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - the interface's
        """Hand an envelope on; refuse anything else without quoting it."""
        if value is not None and (
            not isinstance(value, str)
            or len(value) > ENVELOPE_LIMIT
            or not re.fullmatch(ENVELOPE, value)
            or value[-1] == "\n"
        ):
            raise _PlainApiKey
        return value


class UserApiKeys(Timestamps, Base):
    """The provider keys of a user, as ciphertext."""

    __tablename__ = "user_api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=RANDOM_UUID)
    user_id: Mapped[uuid.UUID] = mapped_column(references_user())
    openai_api_key: Mapped[str | None] = mapped_column(Envelope, comment="Ciphertext envelope psk1.KEYID.DATA")
    unsplash_api_key: Mapped[str | None] = mapped_column(Envelope, comment="Ciphertext envelope psk1.KEYID.DATA")
    anthropic_api_key: Mapped[str | None] = mapped_column(Envelope, comment="Ciphertext envelope psk1.KEYID.DATA")
    last_validated_at: Mapped[datetime | None]
    is_active: Mapped[bool] = mapped_column(server_default=TRUE)
    validation: Mapped[JsonObject] = mapped_column(
        server_default=EMPTY_OBJECT,
        comment="Per provider: whether the key is valid, when that was checked, and why not",
    )
    hints: Mapped[JsonObject] = mapped_column(
        server_default=EMPTY_OBJECT, comment="Per provider: the last four characters of the key, to know it by"
    )

    __table_args__ = (
        is_encrypted("openai_api_key"),
        is_encrypted("unsplash_api_key"),
        is_encrypted("anthropic_api_key"),
        is_an_object("validation"),
        is_an_object("hints"),
        CheckConstraint(
            'not hints @? \'$.** ? (@.type() != "object" && (@.type() != "string" || !(@ like_regex "^[!-~]{4}$")))\''
            " and octet_length(hints::text) <= 256",
            name="hints_four_characters",
        ),
        Index("idx_user_api_keys_user_id", "user_id", unique=True),
        {"comment": "Keys of users at other providers, encrypted before they reach the database"},
    )


label(UserApiKeys, "identifier", DELETE, "id", "user_id")
label(UserApiKeys, "secret", DELETE, "openai_api_key", "unsplash_api_key", "anthropic_api_key", "hints")
label_all(UserApiKeys, "activity", DELETE)
