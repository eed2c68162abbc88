"""The client that wrote tables of a bot's shape is Prisma, which qualifies every table: the real one, on schema profiles_compat.

It is installed once, into a directory that is kept, and needs no network from then on; without it the test is skipped.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support import shapes

SOURCES = Path(__file__).parent / "prisma"
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "profiles-schema" / "prisma"


def call(*command, seconds=240, **environment):
    return subprocess.run(
        command, cwd=KEPT, capture_output=True, text=True, timeout=seconds, check=False,
        env={**os.environ, "CHECKPOINT_DISABLE": "1", **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def client():
    """The directory with the client, generated for our model."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not there")
    shutil.copytree(SOURCES, KEPT, dirs_exist_ok=True)
    try:
        if not (KEPT / "node_modules" / ".package-lock.json").is_file():
            done = call(npm, "install", "--no-audit", "--no-fund", "--ignore-scripts")
            if done.returncode != 0:
                pytest.skip(f"npm could not install Prisma: {done.stderr.strip()[-300:]}")
        # The engine that this names is not needed: the model is given, and no database is looked at.
        generated = call(
            node,
            "node_modules/prisma/build/index.js",
            "generate",
            PRISMA_SCHEMA_ENGINE_BINARY=shutil.which("true") or "true",
        )
    except subprocess.TimeoutExpired as late:
        pytest.skip(f"{late.cmd[0]} took too long")
    if generated.returncode != 0:
        pytest.skip(f"prisma generate failed: {(generated.stdout + generated.stderr).strip()[-300:]}")
    return node


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["expanded", "contracted"])
def test_the_statements_of_the_real_client_work_on_the_old_shape(empty, client, phase):
    shapes.create(empty, "e")
    shapes.fill(empty, "e", 20)
    empty.upgrade(**shapes.options("e"), **({"contract": "now"} if phase == "contracted" else {}))
    connection = {
        "host": empty.server.host, "port": empty.server.port, "user": empty.server.user, "database": empty.name, "password": "unused",
    }  # fmt: skip
    done = call(client, "client.mjs", CONNECTION=json.dumps(connection))
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    values = {name: result.get("value") for name, result in results.items()}
    refused = {name: result for name, result in results.items() if "value" not in result}
    assert (values["create"]["username"], values["create"]["created_at"]) == ("ada", 1700000002)
    assert values["findUnique"] == values["create"]
    assert values["update"]["message_count"] == 2
    assert values["createMany"] == {"count": 2}
    assert [row["username"] for row in values["findMany"]] == ["ada", "robert", "cleo"]
    assert set(refused) == {"upsert", "createMany again"}, refused
    assert "42P10" in refused["upsert"]["message"]
    assert values["upsert with a second condition"]["message_count"] == 3
    assert values["upsert of a new one with a second condition"]["username"] == "dora"
    assert values["delete"]["user_id"] == "334567890123456789"
    assert values["findUnique of nobody"] is None
