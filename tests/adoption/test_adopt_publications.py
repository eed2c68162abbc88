"""What logical replication shows of an adopted table: each change of it is a question."""

import pytest

from profiles_schema.errors import MigrationFailed
from profiles_schema.operations import adopt
from support import drift

PROFILES = """
create table public.user_profiles (id uuid primary key references auth.users (id) on delete cascade, username text not null unique);
alter table public.user_profiles enable row level security;
create policy "Own" on public.user_profiles for select using (auth.uid() = id);
create policy "Own name" on public.user_profiles for update using (auth.uid() = id);
grant select, update on public.user_profiles to authenticated;
insert into auth.users (id, email) values (gen_random_uuid(), 'ada@example.org');
insert into public.user_profiles select id, 'ada' from auth.users;
"""
PUBLISHED = (
    "select p.pubname, p.tablename, array_to_string(p.attnames, ',') as columns, p.rowfilter"
    " from pg_publication_tables as p where p.tablename like '%profiles' order by 1"
)


@pytest.fixture
def application(hosted):
    hosted.script(PROFILES)
    return hosted


def question(database):
    with database.engine.connect() as connection:
        (asked,) = adopt.plan(connection).questions
    return asked


@pytest.mark.slow
def test_a_publication_is_a_question_with_the_columns_that_it_would_show(application):
    application.script("create publication realtime for table public.user_profiles")
    asked = question(application)
    assert asked.id == "publication:realtime:public.user_profiles"
    assert set(asked.answers) == {"keep", "remove"}
    for column in ("email", "phone", "role"):
        assert column in asked.answers["keep"]
    with pytest.raises(MigrationFailed, match="Answer"):
        application.upgrade()
    application.upgrade(answers={asked.id: "keep"})
    assert drift(application) == []
    assert [row.pubname for row in application.run(PUBLISHED)] == ["realtime"]


def test_a_table_leaves_a_publication_and_comes_back_with_the_downgrade(application):
    application.script(
        "create publication realtime for table public.user_profiles;"
        "create publication part for table public.user_profiles (id, username) where (username <> 'x')"
    )
    before = application.run(PUBLISHED)
    application.upgrade(answers={f"publication:{name}:public.user_profiles": "remove" for name in ("realtime", "part")})
    assert application.run(PUBLISHED) == []
    application.downgrade("base", allow_data_loss="yes")
    assert application.run(PUBLISHED) == before


@pytest.mark.slow
def test_an_index_as_replica_identity_is_a_question(application):
    application.script("alter table public.user_profiles replica identity using index user_profiles_username_key")
    asked = question(application)
    assert asked.id == "replica:public.user_profiles"
    identity = "select c.relreplident::text, (select i.indexrelid::regclass::text from pg_index as i where i.indrelid = c.oid and i.indisreplident) from pg_class as c where c.oid = 'public.user_profiles'::regclass"
    before = application.run(identity)
    application.upgrade(answers={asked.id: "default"})
    assert application.run(identity)[0][0] == "d"
    application.downgrade("base", allow_data_loss="yes")
    assert application.run(identity) == before
