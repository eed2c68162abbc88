"""What the database does when an API key is set, replaced, disabled, used or deleted, by whatever road."""

import json
import uuid

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from support import ENVELOPE

OTHER = "psk1.test." + "B" * 60
SET_OPENAI = (
    "insert into public.user_api_keys (user_id, openai_api_key, hints)"
    """ values (:id, :key, '{"openai": "abcd"}') on conflict (user_id) do update set openai_api_key = :key"""
)
SET_DEEPL = "insert into public.user_provider_keys (user_id, provider, label, envelope, hint) values (:id, 'deepl', 'secret name', :key, 'abcd')"


def log(database, user):
    return [
        (row.action, row.origin, row.actor, row.metadata)
        for row in database.run(
            "select * from public.user_profile_audit_logs where user_id = :id order by created_at, action", id=user
        )
        if row.action.startswith("key_")
    ]


@pytest.fixture
def ada(database):
    return database.sign_up("ada@example.org")


def test_every_change_of_a_key_is_recorded_with_its_provider_and_nothing_else(database, ada):
    database.run(SET_OPENAI, id=ada, key=ENVELOPE)
    database.run(SET_DEEPL, id=ada, key=ENVELOPE)
    database.run("update public.user_api_keys set last_validated_at = now()")
    database.run("update public.user_provider_keys set envelope = envelope, last_used_at = now()")
    database.run("update public.user_provider_keys set is_active = false")
    database.run("update public.user_provider_keys set is_active = true")
    database.run("""update public.user_api_keys set validation = '{"openai": {"disabled": true}}'""")
    database.run("update public.user_provider_keys set envelope = :key", key=OTHER)
    database.run("update public.user_api_keys set openai_api_key = null, unsplash_api_key = :key", key=OTHER)
    database.run("delete from public.user_provider_keys")
    database.run("delete from public.user_api_keys")
    actions = [(action, metadata["provider"]) for action, _, _, metadata in log(database, ada)]
    assert sorted(actions) == sorted([
        ("key_set", "openai"), ("key_set", "deepl"), ("key_disabled", "deepl"), ("key_enabled", "deepl"),
        ("key_disabled", "openai"), ("key_set", "deepl"), ("key_deleted", "openai"), ("key_set", "unsplash"),
        ("key_deleted", "deepl"), ("key_deleted", "unsplash"),
    ])  # fmt: skip
    rows = str(database.run("select * from public.user_profile_audit_logs"))
    assert not [word for word in ("psk1", "abcd", "secret name") if word in rows]


def test_the_record_says_who_changed_the_key(database, ada):
    claims = json.dumps({"sub": str(ada)})
    with database.engine.begin() as connection:
        connection.execute(
            text("select set_config('request.jwt.claims', :claims, true), set_config('role', 'authenticated', true)"),
            {"claims": claims},
        )
        connection.execute(text("select set_config('profiles_schema.context', '{\"request\": 7}', true)"))
        connection.execute(text(SET_DEEPL), {"id": ada, "key": ENVELOPE})
    assert log(database, ada) == [("key_set", "manual", ada, {"provider": "deepl", "context": {"request": 7}})]


def test_a_user_cannot_keep_a_change_out_of_the_record(database, ada):
    with database.acting_as("authenticated", ada) as connection:
        connection.execute(text("select set_config('profiles_internal.api_keys', 'rotated', true)"))
        connection.execute(text(SET_DEEPL), {"id": ada, "key": ENVELOPE})
        actions = connection.scalars(
            text("select action from public.user_profile_audit_logs where action like 'key%'")
        ).all()
    assert actions == ["key_set"]


def test_a_rotation_by_the_owner_changes_the_envelope_alone(database, ada):
    database.run(SET_OPENAI, id=ada, key=ENVELOPE)
    database.run(SET_DEEPL, id=ada, key=ENVELOPE)
    database.run("""update public.user_api_keys set validation = '{"openai": {"valid": true}}'""")
    database.run("""update public.user_provider_keys set validation = '{"valid": false}', is_active = false""")
    before = database.run("select * from public.user_api_keys"), database.run("select * from public.user_provider_keys")
    recorded = log(database, ada)
    with database.engine.begin() as connection:
        connection.execute(text("select set_config('profiles_internal.api_keys', 'rotated', true)"))
        connection.execute(text("update public.user_api_keys set openai_api_key = :key"), {"key": OTHER})
        connection.execute(text("update public.user_provider_keys set envelope = :key"), {"key": OTHER})
    after = database.run("select * from public.user_api_keys"), database.run("select * from public.user_provider_keys")
    changed = [
        {name for name in old._fields if getattr(old, name) != getattr(new, name)}
        for (old,), (new,) in zip(before, after, strict=True)
    ]
    assert changed == [{"openai_api_key"}, {"envelope"}]
    assert log(database, ada) == recorded


def test_what_was_known_of_a_replaced_key_goes_with_it(database, ada):
    database.run(SET_OPENAI, id=ada, key=ENVELOPE)
    database.run(
        """update public.user_api_keys set unsplash_api_key = :key, hints = hints || '{"unsplash": "wxyz"}',
           validation = '{"openai": {"disabled": true}, "unsplash": {"valid": true}}'""",
        key=ENVELOPE,
    )
    database.run("update public.user_api_keys set openai_api_key = :key", key=OTHER)
    row = database.run("select * from public.user_api_keys")[0]
    assert (row.hints, row.validation) == ({"unsplash": "wxyz"}, {"unsplash": {"valid": True}})
    database.run("update public.user_api_keys set unsplash_api_key = null")
    row = database.run("select * from public.user_api_keys")[0]
    assert (row.hints, row.validation) == ({}, {})

    database.run(SET_DEEPL, id=ada, key=ENVELOPE)
    database.run(
        """update public.user_provider_keys set validation = '{"refusals": 3}', is_active = false, last_used_at = now()"""
    )
    database.run("update public.user_provider_keys set envelope = :key", key=OTHER)
    row = database.run("select * from public.user_provider_keys")[0]
    assert (row.hint, row.validation, row.is_active, row.last_used_at) == (None, {}, True, None)


def test_the_keys_of_a_deleted_user_leave_no_record_and_no_rows(database, ada):
    database.run(SET_OPENAI, id=ada, key=ENVELOPE)
    database.run(SET_DEEPL, id=ada, key=ENVELOPE)
    database.run("delete from auth.users where id = :id", id=ada)
    assert database.value("select count(*) from public.user_provider_keys") == 0
    assert database.value("select count(*) from public.user_profile_audit_logs where action = 'key_deleted'") == 0


def test_an_erasure_deletes_the_keys(database, ada):
    database.run(SET_DEEPL, id=ada, key=ENVELOPE)
    database.run("update auth.users set deleted_at = now() where id = :id", id=ada)
    assert database.value("select count(*) from public.user_provider_keys") == 0


def test_with_audit_level_failures_nothing_of_it_is_recorded(database, ada):
    database.run("""update profiles_internal.settings set value = '"failures"' where key = 'audit_level'""")
    database.run(SET_DEEPL, id=ada, key=ENVELOPE)
    assert log(database, ada) == []


def test_a_log_that_cannot_be_written_does_not_keep_a_key_from_being_stored(database, ada):
    database.script("alter table public.user_profile_audit_logs add constraint closed check (false) not valid")
    database.run(SET_DEEPL, id=ada, key=ENVELOPE)
    assert database.value("select count(*) from public.user_provider_keys") == 1


def test_last_used_at_moves_at_most_once_an_hour_and_alone(database, ada):
    use = "select profiles_internal.record_key_use(:id, 'deepl', 'secret name')"
    database.run(SET_DEEPL, id=ada, key=ENVELOPE)
    before = database.value("select updated_at from public.user_provider_keys")
    database.run(use, id=ada)
    first = database.value("select last_used_at from public.user_provider_keys")
    assert first is not None
    database.run(use, id=ada)
    assert database.value("select last_used_at from public.user_provider_keys") == first
    database.run("update public.user_provider_keys set last_used_at = now() - interval '61 minutes'")
    database.run(use, id=ada)
    assert database.value("select last_used_at > now() - interval '1 minute' from public.user_provider_keys")
    assert database.value("select updated_at from public.user_provider_keys") == before
    # Nobody waits for who changes the row, or reads it at the same time.
    with database.engine.connect() as other, other.begin():
        other.execute(text("update public.user_provider_keys set last_used_at = null"))
        database.run(use, id=ada)


@pytest.mark.parametrize(("setting", "recorded"), [("false", 0), ("true", 2)])
def test_reading_a_key_is_recorded_where_the_setting_says_so(database, ada, setting, recorded):
    database.run(
        "update profiles_internal.settings set value = cast(:v as jsonb) where key = 'audit_key_reads'", v=setting
    )
    database.run(SET_DEEPL, id=ada, key=ENVELOPE)
    database.run(SET_OPENAI, id=ada, key=ENVELOPE)
    with database.acting_as("authenticated", ada) as connection:
        for provider, label in (("deepl", "secret name"), ("openai", ""), ("nobody", "x"), ("anthropic", "")):
            connection.execute(
                text("select profiles_internal.record_key_use(:id, :provider, :label)"),
                {"id": ada, "provider": provider, "label": label},
            )
        rows = connection.execute(
            text("select actor, metadata from public.user_profile_audit_logs where action = 'key_read'")
        ).all()
    assert len(rows) == recorded
    assert all(row.actor == ada and set(row.metadata) == {"provider"} for row in rows)


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_only_who_may_act_for_a_user_says_that_a_key_was_used(database, ada, role):
    database.run(SET_DEEPL, id=ada, key=ENVELOPE)
    eve = database.sign_up("eve@example.org")
    with database.acting_as(role, eve if role == "authenticated" else None) as connection:
        use = text("select profiles_internal.record_key_use(:id, 'deepl', 'secret name')")
        if role == "service_role":
            connection.execute(use, {"id": ada})
        else:
            with pytest.raises(DBAPIError) as refused:
                connection.execute(use, {"id": ada})
            assert refused.value.orig.pgcode == "42501"


def test_the_first_key_under_an_id_is_recorded_by_service_role_only(database, ada):
    ask = text("select profiles_internal.check_encryption_key(:id, :value)")

    def answer(role, value, user=None, key_id="k1"):
        with database.engine.begin() as connection:
            claims = json.dumps({"sub": str(user)} if user else {})
            connection.execute(
                text("select set_config('request.jwt.claims', :c, true), set_config('role', :role, true)"),
                {"c": claims, "role": role},
            )
            return connection.scalar(ask, {"id": key_id, "value": value})

    assert answer("authenticated", "mine", ada) == "new"
    assert answer("authenticated", "mine", ada) == "new"
    assert answer("service_role", "first") == "same"
    assert answer("service_role", "first") == "same"
    assert answer("service_role", "second") == "other"
    assert answer("authenticated", "first", ada) == "same"
    assert answer("authenticated", "mine", ada) == "other"
    assert answer("none", "third", key_id="k2") == "same"  # the owner
    with database.acting_as("anon") as connection, pytest.raises(DBAPIError):
        connection.execute(ask, {"id": "k1", "value": "first"})
    assert database.run("select key_id, check_value from profiles_internal.encryption_keys order by 1") == [
        ("k1", "first"), ("k2", "third")
    ]  # fmt: skip


def test_a_key_has_one_place(database, ada):
    stored = "insert into public.user_provider_keys (user_id, provider, label, envelope) values (:id, :p, :l, :key)"
    with pytest.raises(DBAPIError, match="label_for_these_providers"):
        database.run(stored, id=ada, p="openai", l="", key=ENVELOPE)
    database.run(stored, id=ada, p="openai", l="work", key=ENVELOPE)
    database.run(stored, id=ada, p="deepl", l="", key=ENVELOPE)
    with pytest.raises(DBAPIError, match="idx_user_provider_keys_user_id"):
        database.run(stored, id=ada, p="deepl", l="", key=OTHER)
    with pytest.raises(DBAPIError, match="fk_user_provider_keys_user_id_users"):
        database.run(stored, id=uuid.uuid4(), p="deepl", l="", key=OTHER)


def export(database, user, *statements):
    """Request an export as the owner, after these statements; what the audit log then says of exports."""
    with database.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.execute(
            text("insert into public.export_history (user_id, export_type, export_format) values (:id, 'all', 'csv')"),
            {"id": user},
        )
        connection.execute(text("update public.export_history set status = 'processing'"))
        connection.execute(text("update public.export_history set status = 'failed'"))
    return [
        (row.metadata["status"], row.metadata.get("context"), row.origin)
        for row in database.run(
            "select metadata, origin from public.user_profile_audit_logs where metadata ? 'export' order by created_at"
        )
    ]


def test_an_export_is_recorded_with_the_context_of_its_request(database, ada):
    context = "select set_config('profiles_schema.context', '{\"request\": \"r-1\"}', true)"
    assert export(database, ada, context) == [
        ("pending", {"request": "r-1"}, "manual"),
        ("failed", {"request": "r-1"}, "manual"),
    ]


def test_with_audit_level_failures_only_the_failed_export_is_recorded(database, ada):
    database.run(
        "insert into profiles_internal.settings (key, value) values ('audit_level', '\"failures\"')"
        " on conflict (key) do update set value = excluded.value"
    )
    assert export(database, ada) == [("failed", None, "manual")]
