"""The application's env.py: the runner of profiles-schema does the work, on both sets of models."""

import logging

from models import Base

from profiles_schema import metadata
from profiles_schema.migrations.runner import run

logging.basicConfig(format="%(message)s")
logging.getLogger("profiles_schema").setLevel(logging.INFO)

run(metadata=[metadata, Base.metadata])
