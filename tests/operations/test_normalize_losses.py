"""Ways in which a value could get lost beside the dual write, each tried."""

from support import drift
from support.trait_oracle import BEFORE, widen

UPSERT = (
    "insert into public.user_profiles (id, user_id, username) values (:u, cast(:u as uuid), 'somebody')"
    " on conflict (user_id) do update set appearance_traits = coalesce(excluded.appearance_traits, user_profiles.appearance_traits)"
)


def test_an_upsert_does_not_meet_a_column_default_in_its_own_json(database):
    (ada,) = widen(database, 1)
    database.upgrade()
    database.run(
        "update public.user_profiles set appearance_traits ="
        ' cast(\'{"confidence": 0.5, "hair": {"color": "red"}}\' as jsonb) where user_id = cast(:u as uuid)',
        u=ada,
    )
    database.run(UPSERT, u=ada)
    assert tuple(database.run("select appearance_traits, hair_color from public.user_profiles")[0]) == (
        {"confidence": 0.5, "hair": {"color": "red"}},
        "red",
    )


def test_erasure_reaches_columns_that_nobody_has_recorded(database):
    (ada,) = widen(database, 1)
    database.run("update public.user_profiles set omega_thoughts = 'secret'")
    database.run("update auth.users set deleted_at = now() where id = cast(:u as uuid)", u=ada)
    assert database.value("select omega_thoughts from public.user_profiles") is None
    database.upgrade()
    assert "secret" not in str(database.value("select analysis_summary from public.user_profiles"))


def test_json_that_differs_from_its_column_is_kept_by_a_downgrade(database):
    widen(database, 1)
    database.run(
        'update public.user_profiles set personality_traits = cast(\'{"bigFive": {"openness": 9}}\' as jsonb), openness_score = 5'
    )
    database.upgrade(backfill="defer")
    database.downgrade(BEFORE)
    assert [tuple(row) for row in database.run("select path, value from profiles_internal.kept_json")] == [
        ("bigFive.openness", 9)
    ]
    assert database.value("select openness_score from public.user_profiles") == 5


def test_check_sees_a_dual_write_that_is_broken(database):
    widen(database, 1)
    database.upgrade()
    assert drift(database) == []
    database.script("alter table public.user_profiles disable trigger zz_dual_write")
    assert any("zz_dual_write" in line for line in drift(database))
