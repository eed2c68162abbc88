"""Users whom the tests of services share; a file whose users need more has fixtures of its own."""

import pytest


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org")


@pytest.fixture
def bob(database):
    return database.sign_up("bob@example.org")
