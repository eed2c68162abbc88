"""Tables of real applications: in, the application's own statements, and out again; nothing changes meaning unless the plan says so."""

import json
import re
import tempfile
from pathlib import Path

import pytest

from profiles_schema.local import DIRECTORY_VARIABLE
from support import profiles_schema, real_shapes
from support.real_shapes import ADA, NAMES, Trial, load

QUICK = ["private_posts", "no_id_column", "collectors", "team_accounts"]
# Each case that was found to be silent, or to fail, and the shape that holds it.
CASES = {
    "an open policy that another table's policy reads through": ("private_posts", r"not exists \(select 1 from public.profiles"),
    "the same, replaced": ("private_posts_closed", '= "replace"'),
    "a table without a column id, with a row that has no user": ("no_id_column", "user_id uuid primary key"),
    "outside ids beside a uuid of the table's own": ("clerk_beside_uuid", "clerk_user_id text not null unique"),
    "outside ids on a plain server": ("clerk_on_plain_server", "user_2abcDEF"),
    "a user_id that is NULL everywhere": ("legacy_user_id_null", "user_id uuid,"),
    "a key of another name": ("collectors", "collector_id uuid primary key references auth.users"),
    "a default that needs somebody signed in": ("created_by_default", r"not null default auth.uid\(\)"),
    "contact data that contradicts the auth server": ("contact_data", "ada.private@example.net"),
    "is_admin() in another table's policy": ("admin_function", r"not secret or public.is_admin\(\)"),
    "an enum role": ("enum_role", "role public.app_role not null"),
    "rows of the table's type": ("setof_profiles", "returns setof public.profiles"),
    "a realtime publication": ("realtime", "create publication supabase_realtime"),
    "own columns of a soft-deleted user": ("soft_deleted", "dob date"),
    "defaults of its own": ("greek_members", "default 'el'"),
    "more rows without a user than with one": ("many_orphans", "Gone"),
    "a trigger that does more": ("trigger_does_more", "into workspaces"),
}  # fmt: skip


@pytest.fixture
def trial(request, tmp_path):
    """A shape in its database."""

    def make(name):
        shape = load(name)
        return Trial(request.getfixturevalue(shape.place), shape, tmp_path)

    return make


@pytest.fixture
def copies():
    """Where a copy may live: not below pytest's own directory, which is closed to the account that serves root."""
    with tempfile.TemporaryDirectory(prefix="profiles-shapes-") as directory:
        Path(directory).chmod(0o755)
        yield directory


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_real_shape_keeps_its_meaning(trial, name):
    problems = trial(name).run(again=False)
    assert problems == [], "\n".join(["", *problems])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_real_shape_goes_in_and_out_and_in_again_and_keeps_its_meaning(trial, name):
    problems = trial(name).run()
    assert problems == [], "\n".join(["", *problems])


@pytest.mark.slow
def test_a_rehearsal_shows_what_it_means_to_close_an_open_policy(trial, copies, tmp_path, monkeypatch):
    shape = trial("private_posts_closed")
    shape.create()
    answers = tmp_path / "adopt.toml"
    answers.write_text(
        "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in shape.asked_for().items())
    )
    (tmp_path / "feed.sql").write_text(
        f"-- as authenticated {ADA}\n-- name: the feed\nselect id from posts;\n-- as service_role\nselect id from posts",
        encoding="utf-8",
    )
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(copies))
    done = profiles_schema(
        None, "rehearse", "--source", shape.database.url, "--probe", str(tmp_path / "feed.sql"), *shape.shape.x,
        "-x", f"answers={answers}",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    attention = [line for line in done.stdout.splitlines() if line.startswith("attention")]
    assert [line for line in attention if "probe after" in line] == attention, done.stdout
    assert f"feed.sql:3 the feed as authenticated {ADA}: 4 rows before, 12 rows after" in done.stdout


def test_there_are_shapes_of_every_case():
    assert len(NAMES) >= 25
    for case, (name, found) in CASES.items():
        assert re.search(found, (real_shapes.HERE / "real" / f"{name}.sql").read_text(encoding="utf-8")), case


@pytest.mark.parametrize("name", NAMES)
def test_a_shape_has_probes_of_everybody_and_names_only_probes_that_it_has(name):
    shape = load(name)
    names = {probe.name for probe in shape.probes}
    assert {*shape.differs} <= names, "a difference of no probe"
    if shape.place != "empty" and not shape.stops:
        assert {(probe.role, probe.user is None) for probe in shape.probes} >= {
            ("anon", True), ("authenticated", False), ("service_role", True),
        }  # fmt: skip
        assert len({probe.user for probe in shape.probes if probe.user}) >= 2
        assert any(re.match("update|insert|delete", probe.statement) for probe in shape.probes)
