"""A Secret shows itself to nobody."""

import copy
import inspect
import io
import json
import logging
import pickle
import pprint
import traceback

import psycopg2.extensions
import pytest
from rich.pretty import pretty_repr

from profiles_schema import Secret
from profiles_schema.errors import ProfilesSchemaError
from profiles_schema.secret import SHORTEST_WITH_HINT, hint_of

KEY = "sk-proj-geheimgeheimgeheim-WXYZ"


def test_what_shows_a_secret_shows_its_hint():
    secret = Secret(KEY)
    shown = "sk-…WXYZ"
    assert str(secret) == f"{secret}" == f"{secret!s}" == "%s" % secret == "{}".format(secret) == shown  # noqa: UP031, UP032
    assert f"{secret:>10}" == f"{shown:>10}"
    assert repr(secret) == f"{secret!r}" == f"Secret({shown})"
    assert secret.reveal() == KEY


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("x" * SHORTEST_WITH_HINT, "xxxx"), ("x" * (SHORTEST_WITH_HINT - 1), None), ("", None), ("abcd", None),
        ("x" * 30 + "a cd", None), ("x" * 30 + "abcü", None), ("x" * 30 + "ab\nd", None),
    ],
)  # fmt: skip
def test_a_short_key_shows_nothing(text, hint):
    assert hint_of(text) == hint
    assert str(Secret(text)) == f"…{hint or ''}"


def test_nothing_that_prints_objects_finds_the_key():
    secret = Secret(KEY)
    log = io.StringIO()
    logger = logging.getLogger("test.secret")
    logger.addHandler(logging.StreamHandler(log))
    logger.warning("%s %r", secret, [secret], extra={"key": secret})
    with pytest.raises(ValueError, match="WXYZ") as raised:
        raise ValueError(secret)
    logger.error("failed", exc_info=raised.value)
    printed = "".join(traceback.TracebackException.from_exception(raised.value, capture_locals=True).format())
    seen = [
        log.getvalue(), printed, pprint.pformat({"key": secret}), pretty_repr(secret), str(inspect.getmembers(secret)),
        json.dumps({"key": secret}, default=str), json.dumps({"key": secret}, default=repr), str(dir(secret)),
        str([secret]), str({"a": secret}), str(getattr(secret, "__dict__", "")), str([secret.__getstate__()]),
    ]  # fmt: skip
    for text in seen:
        assert "geheim" not in text, text
    assert "WXYZ" in log.getvalue()


def test_json_pickle_and_drivers_refuse_it():
    secret = Secret(KEY)
    with pytest.raises(TypeError):
        json.dumps(secret)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError) as refused:
            pickle.dumps({"key": secret}, protocol)
        assert isinstance(refused.value, ProfilesSchemaError)
    with pytest.raises(psycopg2.ProgrammingError):
        psycopg2.extensions.adapt(secret)


def test_secrets_are_compared_and_copied_but_not_hashed():
    secret = Secret(KEY)
    assert secret == Secret(KEY)
    assert secret != Secret(KEY + "x")
    assert secret != KEY
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret
    with pytest.raises(TypeError):
        hash(secret)
