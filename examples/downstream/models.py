"""The application's own tables. They have a declarative base of their own and refer to profiles by foreign key."""

import uuid

from sqlalchemy import ForeignKey, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from profiles_schema import UserProfile


class Base(DeclarativeBase):
    """The application's declarative base."""


class Post(Base):
    """A text that a user wrote."""

    __tablename__ = "posts"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    author_id: Mapped[str] = mapped_column(ForeignKey(UserProfile.id, ondelete="CASCADE"), index=True)
    title: Mapped[str] = mapped_column(Text)
