"""Alembic glue: the runner that every ``env.py`` calls, and where our history lies."""
