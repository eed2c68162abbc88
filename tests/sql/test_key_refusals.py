"""A plain API key that is refused is quoted nowhere: not in the error, not in the server's log."""

import traceback
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from profiles_schema import UserApiKeys
from profiles_schema import database as database_module
from profiles_schema.errors import PlainApiKey
from support import ENVELOPE

SECRET = "sk-live-SECRET-7f3a"
COLUMNS = ("openai_api_key", "unsplash_api_key", "anthropic_api_key")


@pytest.fixture
def log(database):
    """What the server writes to its log from now on."""
    path = Path(database.value("show data_directory")).parent / "log"
    start = path.stat().st_size

    def read():
        with path.open(encoding="utf-8", errors="replace") as file:
            file.seek(start)
            return file.read()

    return read


def all_of(error):
    """The traceback that this error prints, and the fields of the server's message."""
    diagnosis = getattr(getattr(error, "orig", error), "diag", None)
    fields = [str(getattr(diagnosis, name)) for name in dir(diagnosis) if name[0] != "_"]
    return "\n".join([*traceback.format_exception(error), repr(error), *fields])


@pytest.mark.parametrize("role", ["service_role", "authenticated", "postgres"])
def test_the_servers_refusal_of_a_plain_key_quotes_nothing(database, log, role):
    """Parameters are sent apart from the statement, as every driver but psycopg2 does it."""
    user = database.sign_up("ada@example.org")
    statements = {
        **{
            f"insert {c}": f"insert into public.user_api_keys (user_id, {c}) values (%(user)s, %(key)s)"
            for c in COLUMNS
        },
        "no user": "insert into public.user_api_keys (user_id, openai_api_key) values (null, %(key)s)",
        "upsert": "insert into public.user_api_keys (user_id, openai_api_key) values (%(user)s, %(key)s)"
        " on conflict (user_id) do update set openai_api_key = excluded.openai_api_key",
        "update": "update public.user_api_keys set unsplash_api_key = %(key)s",
    }
    database.run("insert into public.user_api_keys (user_id) values (:user)", user=database.sign_up("eve@example.org"))
    with psycopg.connect(database.url, autocommit=True) as connection:
        if role != "postgres":
            connection.execute("select set_config('request.jwt.claims', %s, false)", [f'{{"sub": "{user}"}}'])
            connection.execute(f"set role {role}")
        if role == "authenticated":
            connection.execute("insert into public.user_api_keys (user_id) values (%s)", [user])
        for name, statement in statements.items():
            with pytest.raises(psycopg.errors.CheckViolation) as caught:
                connection.execute(statement, {"user": user, "key": SECRET})
            diagnosis = caught.value.diag
            assert SECRET not in all_of(caught.value), name
            assert diagnosis.message_detail is None
            assert diagnosis.column_name in COLUMNS
            assert diagnosis.constraint_name == f"ck_user_api_keys_{diagnosis.column_name}_is_encrypted"
            assert "KeyRing" in diagnosis.message_hint
    written = log()
    assert "openai_api_key must be encrypted" in written
    assert SECRET not in written


def test_the_trigger_refuses_all_that_the_check_refuses(database):
    """So the CHECK, whose error quotes the row, never speaks."""
    database.run("insert into public.user_api_keys (user_id) values (:user)", user=database.sign_up("ada@example.org"))
    values = [
        SECRET, "", " ", "psk1.k." + "A" * 37, "psk1.k." + "A" * 4090, ENVELOPE + "\n", "psk1.k." + "ä" * 60, ENVELOPE + "=",
    ]  # fmt: skip
    for column in COLUMNS:
        for value in values:
            with pytest.raises(DBAPIError) as caught:
                database.run(f"update public.user_api_keys set {column} = :value", value=value)
            assert caught.value.orig.diag.message_detail is None
            assert caught.value.orig.diag.column_name == column
        database.run(f"update public.user_api_keys set {column} = :value", value=ENVELOPE)
        database.run(f"update public.user_api_keys set {column} = null")
    database.script("alter table public.user_api_keys disable trigger refuse_plain_api_keys")
    for value in values:
        with pytest.raises(DBAPIError, match="is_encrypted"):
            database.run("update public.user_api_keys set openai_api_key = :value", value=value)


@pytest.mark.parametrize("column", ["envelope", "hint"])
def test_a_plain_provider_key_is_refused_without_being_quoted(database, log, column):
    user = database.sign_up("ada@example.org")
    values = {"user": user, "envelope": ENVELOPE, "hint": None} | {column: SECRET}
    stored = "insert into public.user_provider_keys (user_id, provider, envelope, hint) values (%(user)s, 'deepl', "
    with psycopg.connect(database.url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            connection.execute(stored + "%(envelope)s, %(hint)s)", values)
        assert SECRET not in all_of(caught.value)
        assert caught.value.diag.column_name == column
        connection.execute(stored + "%(envelope)s, null)", values | {"envelope": ENVELOPE})
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            connection.execute(f"update public.user_provider_keys set {column} = %s", [SECRET])
        assert caught.value.diag.message_detail is None
        connection.execute("insert into public.user_api_keys (user_id) values (%s)", [user])
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            connection.execute(
                "update public.user_api_keys set hints = jsonb_build_object('openai', %s::text)", [SECRET]
            )
        assert caught.value.diag.message_detail is None
    assert SECRET not in log()
    database.script("alter table public.user_provider_keys disable trigger refuse_plain_api_keys")
    with pytest.raises(DBAPIError, match=f"ck_user_provider_keys_{column}_"):
        database.run(f"update public.user_provider_keys set {column} = :value", value=SECRET)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("hide_parameters", [False, True])
def test_the_model_refuses_a_plain_key_before_it_leaves_the_program(database, log, driver, hide_parameters):
    user = database.sign_up("ada@example.org")
    engine = create_engine(
        database.url.replace("postgresql://", f"postgresql+{driver}://", 1), hide_parameters=hide_parameters
    )
    with Session(engine) as session:

        def flushed(attempt):
            attempt()
            session.flush()

        row = UserApiKeys(user_id=user, openai_api_key=ENVELOPE)
        session.add(row)
        session.commit()
        for attempt in (
            lambda: session.add(UserApiKeys(user_id=user, anthropic_api_key=SECRET)),
            lambda: session.add(UserApiKeys(user_id=user, anthropic_api_key=SECRET.encode())),
            lambda: setattr(row, "unsplash_api_key", SECRET),
            lambda: session.execute(insert(UserApiKeys).values(user_id=user, openai_api_key=SECRET)),
            lambda: session.execute(insert(UserApiKeys), [{"user_id": user, "openai_api_key": SECRET}]),
            lambda: session.execute(update(UserApiKeys).values(openai_api_key=SECRET)),
            lambda: session.scalars(select(UserApiKeys).where(UserApiKeys.openai_api_key == SECRET)).all(),
        ):
            with pytest.raises(PlainApiKey) as caught:
                flushed(attempt)
            session.rollback()
            assert SECRET not in all_of(caught.value)
            assert str(caught.value) == str(PlainApiKey())
        by_key_id = UserApiKeys.openai_api_key.startswith(ENVELOPE.rpartition(".")[0])
        assert session.scalars(select(UserApiKeys).where(by_key_id)).one() is row
        assert session.scalars(select(UserApiKeys)).one().openai_api_key == ENVELOPE
    engine.dispose()
    assert SECRET not in log()


def test_our_own_engine_hides_the_parameters_of_a_failed_statement(database):
    engine = database_module.create_engine(database_module.normalize_url(database.url))
    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text("select cast(:value as text)::uuid, 1 / 0"), {"value": 5})
    assert "parameters hidden" in str(caught.value)
