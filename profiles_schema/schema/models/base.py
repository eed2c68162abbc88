"""What all models share: the declarative base, names of constraints, column types, timestamps."""

import uuid
from datetime import date, datetime
from typing import Any, ClassVar

from sqlalchemy import Boolean, Date, DateTime, Dialect, FetchedValue, ForeignKey, Integer, MetaData, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

JsonObject = dict[str, Any]
JsonArray = list[Any]

# None is SQL NULL, never the JSON value null: the CHECKs on JSON columns admit objects and arrays only.
Json = JSONB(none_as_null=True)


class _Uncast(Text):
    """A text whose parameters carry no type: the server takes them for what they are compared with or written to."""

    def adapt(self, cls: Any, **kw: Any) -> Any:
        """One like itself: psycopg's and asyncpg's own type of texts casts."""
        del cls, kw
        return type(self)()


class ProfileId(TypeDecorator[str]):
    """The id of a profile: text, or uuid in a table that came with uuid. Reads as str, takes a str or a UUID."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text, without the cast that psycopg and asyncpg get of SQLAlchemy: no uuid equals a text."""
        return _Uncast() if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: str | uuid.UUID | None, dialect: Dialect) -> str | None:
        """As text."""
        del dialect
        return None if value is None else str(value)

    def process_result_value(self, value: str | uuid.UUID | None, dialect: Dialect) -> str | None:
        """As text."""
        del dialect
        return None if value is None else str(value)


NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
}

# Spelled as the server prints them: a comparison of volatile defaults by value is never equal.
NOW = text("now()")
RANDOM_UUID = text("gen_random_uuid()")
RANDOM_UUID_AS_TEXT = text("(gen_random_uuid())::text")
EPOCH_SECONDS_NOW = text("(EXTRACT(epoch FROM now()))::bigint")
EMPTY_OBJECT = text("'{}'::jsonb")
EMPTY_ARRAY = text("'[]'::jsonb")
EMPTY_TEXT = text("''::text")
ZERO = text("0")
TRUE = text("true")
FALSE = text("false")


class Base(DeclarativeBase):
    """The declarative base of this package; ``Base.metadata`` holds every table."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        bool: Boolean(),
        date: Date(),
        datetime: DateTime(timezone=True),
        int: Integer(),
        str: Text(),
        uuid.UUID: UUID(as_uuid=True),
        JsonArray: Json,
        JsonObject: Json,
        list[str]: ARRAY(Text()),
    }
    # What the server fills in comes back in the same statement (RETURNING), also on UPDATE: a value that
    # is loaded later would fail on a detached object and in asynchronous sessions.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - a declarative directive, not a class attribute

    # The only columns a repr may show; personal values and keys end up in logs otherwise.
    shown_in_repr: ClassVar[tuple[str, ...]] = ("id",)

    def __repr__(self) -> str:
        # Read without loading: a repr must work on a detached object and never query.
        shown = ", ".join(f"{name}={self.__dict__.get(name)!r}" for name in self.shown_in_repr)
        return f"{type(self).__name__}({shown})"


metadata = Base.metadata


class Timestamps:
    """``created_at`` and ``updated_at``, last in the table; a trigger keeps ``updated_at``."""

    created_at: Mapped[datetime] = mapped_column(server_default=NOW, sort_order=100)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, server_onupdate=FetchedValue(), sort_order=101)


def references_user(on_delete: str = "CASCADE") -> ForeignKey:
    """A foreign key to ``auth.users(id)``."""
    return ForeignKey("auth.users.id", ondelete=on_delete)
