"""What adoption keeps of old values goes with the person they are of."""

import pytest
import shapes

KEPT = "select count(*) from profiles_internal.adopted where object_type in ('value', 'found value')"


@pytest.fixture
def adopted(hosted):
    shapes.create(hosted, "a")
    shapes.fill(hosted, "a", 60)
    hosted.answering = ("replace", "accept")
    hosted.upgrade()
    return hosted


@pytest.mark.parametrize(
    "erasure",
    ["update auth.users set deleted_at = now() where id = :id", "delete from auth.users where id = :id"],
    ids=["soft", "hard"],
)
def test_old_values_of_an_erased_user_are_forgotten_and_nobody_elses(adopted, erasure):
    key, own = adopted.run(
        f"select data ->> 'key', count(*) from ({KEPT.replace('count(*)', '*')}) as k group by 1 order by 1 limit 1"
    )[0]
    before = adopted.value(KEPT)
    adopted.administrator.run(erasure, id=key)
    assert own > 0
    assert adopted.value(KEPT) == before - own
    assert adopted.value(f"{KEPT} and data ->> 'key' = :key", key=key) == 0
    adopted.downgrade("base", allow_data_loss="yes")
