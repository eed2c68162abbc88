"""Adoption, killed at any moment and on the way back: no row is lost. For long: tests/chaos/adopt.py (`make chaos`)."""

from pathlib import Path

import pytest

from chaos.adopt import ChaosOfAdoption

ROWS = 150
SEED = 1


@pytest.fixture
def chaos(server):
    """Runs alembic on copies of a shape, and kills it."""
    chaos = ChaosOfAdoption(Path(), SEED, server)
    yield chaos
    chaos.close()


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["e"])
def test_killed_on_the_way_and_back_no_row_is_lost(chaos, shape):
    chaos.prepare(shape, ROWS)
    chaos.killed("upgrade", 4)
    chaos.killed("downgrade", 2)
    assert chaos.broken == []
