"""Where our migration history lies: in the package of an installed wheel, in alembic/ of a checkout."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.config import Config


def script_location() -> Path:
    """The directory with ``env.py`` and ``versions/``."""
    installed = Path(__file__).parent / "history"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "alembic"


def versions() -> Path:
    """The directory of our revisions, for the ``version_locations`` of an application's own alembic.ini."""
    return script_location() / "versions"


def is_ours(step: Any) -> bool:
    """Whether a step of alembic's runs a revision of this package, and not one of the application's."""
    script = getattr(step, "revision", None)
    return script is not None and Path(script.path).resolve().parent == versions().resolve()


def config(*, x: Iterable[str] = ()) -> Config:
    """An alembic configuration of our history that needs no ini file.

    Args:
        x: ``KEY=VALUE`` pairs, as after ``alembic -x``.
    """
    from alembic.config import Config

    result = Config(cmd_opts=argparse.Namespace(x=list(x)))
    # ConfigParser interpolates, hence the doubled percent signs.
    result.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    result.set_main_option("file_template", "%%(rev)s")
    result.set_main_option("path_separator", "newline")
    return result
