"""An upgrade of a live database, killed and interrupted: nothing is lost. For long: tests/chaos/upgrade.py (`make chaos`)."""

import pytest

from chaos.upgrade import INTERRUPTIONS, chaos_of_upgrade

USERS = 2_000
SEED = 1

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chaos():
    """A server of its own, for it is restarted."""
    with chaos_of_upgrade(SEED, USERS) as chaos:
        yield chaos


def test_replicas_of_which_some_are_killed_complete_the_upgrade_under_load(chaos):
    chaos.replicas(3, 2)
    assert chaos.broken == []


@pytest.mark.parametrize("kind", INTERRUPTIONS)
def test_an_interrupted_upgrade_ends_in_one_line_and_the_next_run_completes(chaos, kind):
    chaos.broken.clear()
    chaos.interrupted(kind, 2)
    assert chaos.broken == []
