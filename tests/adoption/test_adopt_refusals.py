"""Existing deployments with things that nobody expected: taken over and given back, or refused before the first change."""

import re

import pytest

from profiles_schema.errors import DependentsRefused, MigrationFailed
from profiles_schema.operations import adopt
from profiles_schema.operations.health import examine
from support import adoption_oracle as oracle
from support import drift, shapes

ROWS = 60


@pytest.fixture
def found(request):
    """A database of a shape with something more, and how it was found."""

    def make(shape, more="", *, rows=ROWS, **fill):
        database = request.getfixturevalue("empty" if shape == "e" else "hosted_open")
        database.answering = ("replace", "accept")
        shapes.create(database, shape)
        shapes.fill(database, shape, rows, **fill)
        if more:
            database.script(more)
        database.shape, database.found = shape, shapes.look(database, shape)
        return database

    return make


def refusal(database, **options):
    """What the upgrade says; nothing is changed, and nothing is left."""
    roles = "select rolname from pg_roles order by 1"
    before = database.administrator.run(roles)
    with pytest.raises(MigrationFailed) as refused:
        database.upgrade(**{**shapes.options(database.shape), **options})
    assert shapes.changes(database, database.found) == []
    assert [str(change) for change in shapes.row_changes(database, database.found)] == []
    assert database.administrator.run(roles) == before
    return str(refused.value)


def stops(message):
    """The things that stand against it."""
    return [line.strip().split(": ")[0] for line in message.splitlines() if ". Wanted: " in line]


def explained(database, **renamed):
    """Every row and value is accounted for, and the catalog is as declared."""
    for table, columns in renamed.items():
        database.found.renamed[table] = columns
    assert oracle.unexplained(database, database.found, database.shape) == []
    assert drift(database) == []
    with database.engine.connect() as connection:
        findings = examine(connection, full=True).problems
    assert [f.message for f in findings if f.code not in {"failures", "quarantine"}] == []


def given_back(database, *, more=frozenset()):
    """Downgrade restores catalog and rows; ``more`` are tables that have rows more."""
    database.downgrade("base", allow_data_loss="yes")
    assert shapes.changes(database, database.found) == []
    changed = shapes.row_changes(database, database.found)
    assert [str(c) for c in changed if c.missing or c.changed or c.columns or c.table not in more] == []


PROFILES = {"public.user_profiles", "public.profiles", "public.user_progress"}


# Taken over


@pytest.mark.slow
def test_what_an_application_added_to_its_profiles_stays_and_works(found):
    database = found(
        "a",
        """
        alter table public.user_profiles
          add column tenant text,
          add column invited_by uuid references public.user_profiles (id) on delete set null,
          add column initials text generated always as (upper(left(display_name, 2))) stored,
          add column "select" text default 'quoted "%s" name',
          add column "row_id" integer, add column "reason" text, add column "old" jsonb default '{"a": null}',
          add column gone text;
        alter table public.user_profiles drop column gone;
        update public.user_profiles set tenant = 'acme', invited_by = case when favourite_colour = 'blue' then id end;
        alter table public.user_profiles alter column tenant set not null;
        create index "Tenants of %" on public.user_profiles (tenant) include (username);
        create index by_name_and_tenant on public.user_profiles (lower(display_name), tenant);
        create table public.journal (what text);
        create function public.write_journal() returns trigger language plpgsql as $$
        begin
          insert into public.journal values (tg_op || ' ' || coalesce(new.bio, ''));
          return new;
        end
        $$;
        create trigger "a journal" after insert or update on public.user_profiles
          for each row when (new.bio is distinct from '') execute function public.write_journal();
        create trigger disabled_journal after delete on public.user_profiles for each row execute function public.write_journal();
        alter table public.user_profiles disable trigger disabled_journal;
        comment on constraint posts_author_fkey on public.posts is 'Who wrote it';
        comment on index public.idx_user_profiles_updated_at is 'For the list';
        create materialized view public.colours as select favourite_colour, count(*) from public.user_profiles group by 1;
        """,
    )
    journal = database.value("select count(*) from public.journal")
    database.upgrade()
    explained(database)
    assert database.value("select count(*) from public.journal") == journal + 1  # one user had no profile
    me = database.sign_up("new@example.org")
    database.run("update public.user_profiles set bio = 'seen' where user_id = :u", u=me)
    assert database.value("select count(*) from public.journal where what = 'UPDATE seen'") == 1
    assert database.value("select count(*) from public.user_profiles where invited_by = user_id") > 0
    database.run("delete from auth.users where id = :u", u=me)
    # The profile of whoever had none has no tenant.
    database.run("update public.user_profiles set tenant = 'acme' where tenant is null")
    database.script("delete from public.journal where what <> 'UPDATE ' or what is null")
    database.downgrade("base", allow_data_loss="yes")
    assert shapes.changes(database, database.found) == []
    changed = shapes.row_changes(database, database.found)
    assert [str(c) for c in changed if c.table != "public.journal" and (c.missing or c.changed or c.columns)] == []


@pytest.mark.slow
def test_columns_of_other_types_are_converted_and_come_back(found):
    database = found(
        "b",
        """
        drop view public.campaign_owners;
        alter table public.profiles
          alter column language type varchar(5) using left(language, 5),
          alter column login_count type bigint,
          alter column created_at type timestamp using created_at at time zone 'UTC',
          alter column updated_at drop default, alter column updated_at type numeric using case when isfinite(updated_at) then extract(epoch from updated_at) end,
          alter column email type varchar(255),
          alter column preferences drop default,
          alter column preferences type text using case when preferences is not null then replace(preferences::text, ': ', ' :   ') end,
          alter column notification_settings drop default,
          alter column notification_settings type json using notification_settings::json,
          alter column phone type char(60),
          alter column email_verified type integer using email_verified::integer;
        """,
    )
    database.upgrade(adopt_table="profiles")
    explained(database)
    given_back(database, more=PROFILES)


@pytest.mark.slow
def test_an_enumeration_becomes_text_and_other_roles_keep_their_rights(found):
    database = found(
        "a",
        """
        drop policy "Posts of public profiles" on public.posts;
        create type public.visibility as enum ('public', 'private', 'friends');
        alter table public.user_profiles alter column profile_visibility drop default;
        update public.user_profiles set profile_visibility = 'friends' where profile_visibility not in ('public', 'private');
        alter table public.user_profiles alter column profile_visibility type public.visibility using profile_visibility::public.visibility;
        alter table public.user_profiles alter column profile_visibility set default 'friends';

        do $$ begin if not exists (select from pg_roles where rolname = 'reporting') then create role reporting nologin; end if; end $$;
        grant select on public.user_profiles to reporting;
        grant update (bio), insert (id, bio) on public.user_profiles to reporting;
        alter table public.user_profiles force row level security;
        alter table public.user_profiles replica identity full;
        -- Named as ours are, and no better for it.
        create policy "Owners can read their own profile" on public.user_profiles for select to anon using (true);
        create policy "Owners can do as they like" on public.user_profiles using (true);
        """,
    )
    database.upgrade()
    explained(database)
    assert database.value(
        "select has_table_privilege('reporting', 'public.user_profiles', 'select')"
        " and has_column_privilege('reporting', 'public.user_profiles', 'bio', 'update')"
    )
    policies = dict(
        database.run(
            "select polname, polroles::regrole[]::text from pg_policy"
            " where polrelid = 'public.user_profiles'::regclass and polname like 'Owners%'"
        )
    )
    assert "Owners can do as they like" not in policies
    assert policies["Owners can read their own profile"] == "{authenticated}"
    given_back(database, more=PROFILES)


@pytest.mark.slow
def test_a_key_that_nothing_hangs_on_becomes_text_in_place(found):
    database = found("d", "drop table public.referrals; drop view public.profile_directory;")
    database.upgrade()
    explained(database, user_profiles={})
    given_back(database, more=PROFILES)


@pytest.mark.slow
def test_a_second_row_of_a_user_goes_to_quarantine(found):
    database = found(
        "d",
        """
        drop table public.devices;
        alter table public.user_profiles drop constraint user_profiles_user_id_key;
        insert into public.user_profiles (user_id, email, created_at)
        select user_id, 'second@example.org', created_at + interval '1 day' from public.user_profiles
        where user_id is not null and (created_at is null or isfinite(created_at)) order by id limit 7;
        """,
    )
    database.upgrade()
    explained(database)
    assert (
        database.value("select count(*) from profiles_internal.quarantine where reason = 'second row of the same user'")
        == 7
    )
    given_back(database, more=PROFILES)


@pytest.mark.slow
def test_keys_and_users_of_other_types_are_taken_over(found):
    database = found(
        "c",
        """
        alter table public.user_api_keys drop constraint user_api_keys_user_id_fkey, drop constraint unique_user_api_keys;
        drop policy "Users can view their own API keys" on public.user_api_keys;
        drop policy "Users can insert their own API keys" on public.user_api_keys;
        drop policy "Users can update their own API keys" on public.user_api_keys;
        drop policy "Users can delete their own API keys" on public.user_api_keys;
        alter table public.user_api_keys alter column user_id type varchar(36) using upper(user_id::text);
        create policy "Own keys" on public.user_api_keys using (user_id = upper(auth.uid()::text));
        drop table public.export_downloads;
        alter table public.export_history drop column id;
        alter table public.export_history add column id bigint generated always as identity primary key;
        create table public.export_downloads (export_id bigint references public.export_history);
        insert into public.export_downloads select id from public.export_history;
        """,
    )
    database.upgrade()
    explained(database, export_history={"id": "legacy_id"})
    assert (
        database.value("select count(*) from public.export_downloads")
        == database.found.contents.tables["public.export_downloads"].rows
    )
    given_back(database, more=PROFILES)


@pytest.mark.slow
def test_rows_on_a_plain_server_get_users_of_their_own(empty):
    empty.script(
        """
        create table public.user_profiles (id uuid primary key, username varchar(80), email text, created_at timestamp default now());
        insert into public.user_profiles
        select md5(g::text)::uuid, case when g % 3 > 0 then 'Ada Lovelace' end, 'ada' || g % 4 || '@example.org', '2020-01-01'
        from generate_series(1, 30) as g;
        create table public.orders (buyer uuid references public.user_profiles);
        insert into public.orders select id from public.user_profiles;
        """
    )
    empty.shape, empty.found = "a", shapes.look(empty, "e")
    empty.found.users = {str(row[0]) for row in empty.run("select id from public.user_profiles")}
    empty.upgrade()
    explained(empty)
    assert (
        empty.value(
            "select count(*) from auth.users as u join public.user_profiles as p on p.user_id = u.id and p.email = u.email"
        )
        == 30
    )
    empty.upgrade()
    given_back(empty)


@pytest.mark.slow
def test_functions_that_ours_replace_come_back_and_others_of_our_names_stay(found):
    database = found(
        "a",
        """
        drop function public.handle_new_user() cascade;
        drop function public.gen_available_username(text);
        create function public.gen_available_username(address text, tries integer default 3) returns varchar[]
          language sql immutable parallel safe cost 7 as 'select array[address]';
        create function public.gen_available_username(integer) returns table (name text, n integer)
          language plpgsql security definer set search_path = '' as 'begin return query select ''x'', $1; end';
        create procedure public.create_user(name text) language sql as 'select 1';
        create function public.get_public_profile() returns setof public.posts language sql as 'select * from public.posts';
        revoke execute on function public.get_public_profile() from public, anon;
        comment on function public.get_public_profile() is 'Not what it says';
        """,
    )
    given = database.answers("keep")
    assert {key: given[key] for key in given if key.startswith("function:")} == {
        "function:public.gen_available_username(text,integer)": "replace",
        "function:public.gen_available_username(integer)": "keep",
    }
    database.upgrade(answers=given)
    explained(database)
    assert database.value("select public.gen_available_username('new@example.org')") == "new"
    assert len(database.run("select public.gen_available_username(3)")) == 1
    database.run("select * from public.get_public_profile()")
    assert drift(database) == []
    given_back(database, more=PROFILES)


@pytest.mark.slow
def test_a_unique_email_is_set_aside_and_comes_back(found):
    database = found(
        "d",
        """
        update public.user_profiles set email = id || '@example.org';
        alter table public.user_profiles add constraint one_email unique (email);
        create unique index one_email_in_any_case on public.user_profiles (lower(email)) where phone is not null;
        """,
    )
    database.upgrade()
    explained(database)
    for _ in range(2):
        user = database.sign_up("twice@example.org", is_sso_user=True)
        assert database.profile(user) is not None
    # Two rows written since do not keep it, so it does not come back; everything else does.
    database.downgrade("base", allow_data_loss="yes")
    gone = shapes.changes(database, database.found)
    assert len(gone) > 0
    assert [line for line in gone if "one_email:" not in line and "one_email " not in line] == []
    assert any("one_email_in_any_case" in key for key in database.found.more)


# Refused


# What is in the way, by shape: the statement, and the object that is named. All of a shape stand in its way at once.
REFUSED = {
    "a": [
        # a trigger that reads a column of another type
        (
            """create function public.check_name() returns trigger language plpgsql as
               $$ begin if new.is_active = 'no' then raise 'no'; end if; return new; end $$;
               create trigger check_name before insert or update on public.user_profiles
               for each row execute function public.check_name();""",
            "trigger check_name on public.user_profiles",
        ),
        # a policy of another table that reads a column of another type
        (
            """drop policy "Posts of public profiles" on public.posts;
               alter table public.user_profiles alter column is_active drop default, alter column is_active type text;
               create policy "Posts of the active" on public.posts using (exists (
                 select from public.user_profiles as p where p.id = author and p.is_active = 'true'))""",
            "public.user_profiles.is_active",
        ),
        # a sign-up trigger that does more
        (
            """create table public.teams (owner uuid);
               create function public.make_team() returns trigger language plpgsql security definer as
               $$ begin
                 insert into public.teams (owner) values (new.id);
                 update public.user_profiles set bio = 'in a team' where id = new.id;
                 return new;
               end $$;
               create trigger on_user_make_team after insert on auth.users for each row execute function public.make_team();""",
            "trigger on_user_make_team on auth.users",
        ),
        # a function of ours that a policy asks
        (
            """create policy "By name" on public.posts using (public.gen_available_username('x') = 'x')""",
            "function public.gen_available_username(text)",
        ),
    ],
    "b": [
        # text that is no JSON
        (
            "alter table public.profiles alter column preferences drop default, alter column preferences type text using 'theme=dark'",
            "public.profiles.preferences",
        ),
        # numbers that are too big
        (
            "alter table public.profiles alter column login_count type bigint; update public.profiles set login_count = 3000000000",
            "public.profiles.login_count",
        ),
        # a view that reads a column of another type
        (
            """alter table public.profiles alter column language type varchar(5) using left(language, 5);
               create view public.languages as select language, count(*) from public.profiles group by 1""",
            "public.profiles.language",
        ),
        # an array
        (
            "alter table public.profiles alter column key_metrics drop default, alter column key_metrics type text[] using '{}'",
            "public.profiles.key_metrics",
        ),
    ],
    "c": [
        # a generated column of ours
        (
            """alter table public.export_history drop column processing_time_seconds;
               alter table public.export_history
               add column processing_time_seconds integer generated always as (least(records_count, 9)) stored""",
            "public.export_history.processing_time_seconds",
        ),
        # a user_id of text that is no uuid
        (
            """alter table public.user_api_keys drop constraint user_api_keys_user_id_fkey;
               drop policy "Users can view their own API keys" on public.user_api_keys;
               drop policy "Users can insert their own API keys" on public.user_api_keys;
               drop policy "Users can update their own API keys" on public.user_api_keys;
               drop policy "Users can delete their own API keys" on public.user_api_keys;
               alter table public.user_api_keys alter column user_id type text;
               update public.user_api_keys set user_id = 'nobody' where id = (select min(id::text)::uuid from public.user_api_keys)""",
            "public.user_api_keys.user_id",
        ),
        # nobody's rows
        ("alter table public.user_progress drop column user_id cascade", "public.user_progress"),
    ],
    "d": [
        # a name of an index that is taken
        ("create index idx_user_profiles_updated_at on public.referrals (email)", "public.idx_user_profiles_updated_at"),
        # a rule
        (
            "create rule no_deletion as on delete to public.user_profile_audit_logs do instead nothing",
            "public.user_profile_audit_logs",
        ),
    ],
    "d+c": [
        # an heir
        ("create table public.vip_profiles () inherits (public.user_profiles)", "public.user_profiles"),
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shape", REFUSED)
def test_what_cannot_be_taken_over_is_named_at_once_before_the_first_change(found, shape):
    statements, objects = zip(*REFUSED[shape], strict=True)
    plain_keys = shape == "d+c"
    database = found(shape, ";".join(statements), plain_keys=plain_keys)
    message = refusal(database)
    assert "Nothing was changed" in message
    assert sorted(stops(message)) == sorted([*objects, *["public.user_api_keys"] * plain_keys])
    assert not re.search(r"sk-plain|nobody|theme=dark|Name \d", message)


def test_plain_text_keys_are_refused_and_the_message_names_the_command(found):
    message = refusal(found("c", plain_keys=True))
    assert stops(message) == ["public.user_api_keys"]
    assert "profiles-schema keys encrypt" in message
    assert "sk-plain" not in message


def test_a_table_of_another_role_is_refused(found):
    database = found("a")
    database.administrator.script("alter table public.user_profiles owner to supabase_auth_admin")
    database.administrator.script(f"drop schema {shapes.contents.KEPT} cascade")
    database.found = shapes.look(database, "a")
    message = refusal(database)
    assert stops(message) == ["public.user_profiles"]
    assert "supabase_auth_admin" in message


@pytest.mark.parametrize(
    "definition",
    [
        "create table public.user_profiles (id text, user_id uuid) partition by hash (user_id)",
        "create view public.user_profiles as select id::text, id as user_id from public.users",
    ],
)
def test_what_is_no_ordinary_table_is_refused(found, definition):
    assert stops(refusal(found("c", definition, rows=20))) == ["public.user_profiles"]


def test_outside_ids_on_a_hosted_project_are_refused(hosted_open):
    shapes.create(hosted_open, "e")
    shapes.fill(hosted_open, "e", 20)
    hosted_open.answering = ("replace", "accept")
    hosted_open.shape, hosted_open.found = "e", shapes.look(hosted_open, "e")
    assert stops(refusal(hosted_open)) == ["public.user_profiles"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "table", "named"),
    [("b", "profile", "no such table"), ("a+b", "profiles", "public.user_profiles exists, too")],
)
def test_a_wrong_adopt_table_is_refused(found, shape, table, named):
    message = refusal(found(shape), adopt_table=table)
    assert stops(message) == [f"public.{table}"]
    assert named in message


def test_many_rows_that_cannot_stay_are_refused_without_an_answer(found):
    database = found("c", rows=20)
    database.answering = ()
    database.administrator.script(
        "set local session_replication_role = replica;"
        "insert into public.user_api_keys (user_id) select gen_random_uuid() from generate_series(1, 11)"
    )
    with pytest.raises(MigrationFailed) as refused:
        database.upgrade()
    assert "\n  public.user_api_keys: " in str(refused.value)
    assert '"quarantine:public.user_api_keys"' in str(refused.value)
    assert "profiles-schema adopt --dry-run --write-answers adopt.toml" in str(refused.value)
    assert shapes.changes(database, database.found) == []


@pytest.mark.slow
def test_what_stops_it_names_the_table_as_it_is_called_now(found):
    database = found(
        "b",
        "alter table public.profiles add column message_count text; update public.profiles set message_count = 'many';"
        "create publication some_of_it for table public.profiles (id)",
    )
    message = refusal(database)
    assert "public.user_profiles" not in message
    assert stops(message) == ["public.profiles.message_count"]
    database.script("update public.profiles set message_count = '1'")
    with database.engine.connect() as connection:
        questions = adopt.plan(connection, x=["adopt-table=profiles"]).questions
    assert "publication:some_of_it:public.user_profiles" in {each.id for each in questions}
    assert {each.object for each in questions if each.id.startswith(("publication:", "policy:"))} == {"public.profiles"}
    assert not [each.found for each in questions if "public.user_profiles" in each.found]


@pytest.mark.slow
def test_a_policy_or_trigger_made_anew_under_an_old_name_stops_a_downgrade_before_its_first_step(found):
    database = found("a")
    database.upgrade()
    head = database.value("select version_num from profiles_internal.alembic_version")
    database.script(
        'create policy "Public profiles are viewable by everyone." on public.user_profiles for select using (is_active);'
        "create function public.stamp() returns trigger language plpgsql as $$ begin return new; end $$;"
        "create trigger set_updated_at before update on public.user_profiles for each row execute function public.stamp()"
    )
    with pytest.raises(DependentsRefused) as refused:
        database.downgrade("base", allow_data_loss="yes")
    assert database.value("select version_num from profiles_internal.alembic_version") == head
    said, _, remedy = str(refused.value).partition("\n")
    assert 'policy "Public profiles are viewable by everyone." on public.user_profiles' in said
    assert "trigger set_updated_at on public.user_profiles" in said
    database.script(remedy + "drop function public.stamp()")
    given_back(database, more={"public.user_profiles"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "there",
    ["create table public.user_provider_keys (id uuid)", "create view public.user_provider_keys as select 1 as one"],
)
def test_another_table_of_the_name_of_one_that_is_never_taken_over_stops_the_upgrade(found, there):
    database = found("c", there)
    message = refusal(database)
    assert stops(message) == ["public.user_provider_keys"]
    assert "Rename it: that name is needed." in message
    database.script(f"drop {there.split()[1]} public.user_provider_keys")
    database.upgrade()
    # Ours is in nobody's way, neither here nor after a way back.
    with database.engine.connect() as connection:
        assert adopt.plan(connection).stoppers == []
    database.downgrade("0007_create_user_progress", allow_data_loss="yes")
    database.upgrade()
