"""Traits: the mapping of old columns to JSONB paths."""

import pytest

from profiles_schema import UserProfile
from profiles_schema.schema.traits import TraitColumn, trait_columns

GROUPS = (
    "personality_traits",
    "appearance_traits",
    "behavioral_metrics",
    "cultural_attributes",
    "analysis_summary",
    "metadata",
)


def test_the_mapping_holds_106_columns_in_six_groups():
    columns = trait_columns()
    assert len({column.name for column in columns}) == len(columns) == 106
    assert {column.group for column in columns} == set(GROUPS) <= set(UserProfile.__table__.columns.keys())
    assert {column.data_type for column in columns} == {"text", "integer", "bigint", "real", "jsonb"}
    assert [column for column in columns if column.default is not None] == [
        TraitColumn("appearance_confidence", "real", "appearance_traits", ("confidence",), "0.0")
    ]
    assert not {column.name for column in columns} & set(UserProfile.__table__.columns.keys())
    assert trait_columns() is columns


@pytest.mark.parametrize("group", GROUPS)
def test_no_path_of_a_group_leads_through_another(group):
    paths = {column.path for column in trait_columns() if column.group == group}
    assert len(paths) == len([column for column in trait_columns() if column.group == group])
    assert not {path for path in paths for length in range(1, len(path)) if path[:length] in paths}
