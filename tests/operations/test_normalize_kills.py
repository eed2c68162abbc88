"""normalize, killed and cut off at any moment: no cell is lost. For long: tests/chaos/normalize.py (`make chaos`)."""

from pathlib import Path

import pytest

from chaos.normalize import ChaosOfNormalize
from profiles_schema.operations.batch_job import Limits
from profiles_schema.operations.normalize import contract, convert, restore, status

PROFILES = 2_000
SEED = 1


@pytest.fixture
def chaos(wide):
    """Runs commands on a wide table and kills them."""
    chaos = ChaosOfNormalize(Path(), SEED, wide.url)
    yield chaos
    chaos.close()


@pytest.mark.slow
def test_killed_on_the_way_and_back_no_cell_is_lost(chaos):
    chaos.fill(PROFILES)
    chaos.run_killed(PROFILES, 3)
    assert chaos.finished(("normalize", "run"))[0] == 0
    chaos.cells("run", columns=True)
    chaos.contract_killed(1)
    chaos.restore_killed(PROFILES, 2)
    assert chaos.broken == []


@pytest.mark.slow
def test_a_connection_lost_on_the_way_keeps_nothing_from_being_finished(wide, chaos):
    chaos.fill(300)

    def cut_off(steps):
        next(steps)
        wide.run(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        return list(steps)[-1].state

    def phase():
        with wide.engine.connect() as connection:
            return status(connection).phase

    with wide.engine.connect() as connection:
        assert cut_off(convert(connection, limits=Limits(10, 5))) == "completed"
    assert phase() == "converted"
    with wide.engine.connect() as connection:
        list(contract(connection, now=True))
    with wide.engine.connect() as connection:
        assert cut_off(restore(connection, limits=Limits(10, 5))) == "completed"
    assert phase() == "converted"
    chaos.cells("restore", columns=True)
    assert chaos.broken == []
