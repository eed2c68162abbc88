"""Tables of real applications: in, the application's own statements, and out again; nothing changes meaning unless the plan says so."""

import re

import pytest
import real_shapes
from real_shapes import NAMES, Trial, load

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


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in NAMES])
def test_a_real_shape_goes_in_and_out_and_keeps_its_meaning(trial, name):
    problems = trial(name).run()
    assert problems == [], "\n".join(["", *problems])


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
