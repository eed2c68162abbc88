"""What alembic runs for every command on the database: logging as alembic.ini says, then the runner."""

from logging.config import fileConfig

from alembic import context

from profiles_schema.migrations.runner import run

if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

run(context)
