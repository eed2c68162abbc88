"""The envelope and the ring: what is encrypted comes back for its user and column only, and no key is ever shown."""

import base64
import copy
import hashlib
import pickle
import re
import traceback
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles_schema import UserApiKeys
from profiles_schema.encryption import LONGEST_TEXT_BYTES, KeyRing, bound_to, is_envelope, key_id_of, new_entry
from profiles_schema.errors import (
    CiphertextMismatch,
    DamagedEnvelope,
    DecryptionFailed,
    InvalidKeyRing,
    KeyRingMissing,
    NotAnEnvelope,
    TextNotEncryptable,
    UnknownEncryptionKey,
)

OLD, NEW, OTHER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
RING = KeyRing({"k2": NEW, "k1": OLD})
RING_TEXT = ",".join(f"{i}:{base64.b64encode(key).decode()}" for i, key in (("k2", NEW), ("k1", OLD)))
ADA = uuid.UUID(int=1)
COLUMN = "openai_api_key"
SECRET = "sk-geheim-"


# The envelope


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(max_size=600),
    user=st.uuids(),
    column=st.sampled_from(["openai_api_key", "unsplash_api_key", "anthropic_api_key"]),
    key_id=st.from_regex(r"[A-Za-z0-9_-]{1,42}", fullmatch=True),
)
def test_what_is_encrypted_comes_back_for_the_same_user_and_column_only(text, user, column, key_id):
    ring = KeyRing({key_id: NEW})
    envelope = ring.encrypt(text, user_id=user, column=column)
    assert is_envelope(envelope)
    assert key_id_of(envelope) == key_id
    assert ring.decrypt(envelope, user_id=user, column=column) == text
    assert ring.encrypt(text, user_id=user, column=column) != envelope
    with pytest.raises(CiphertextMismatch):
        ring.decrypt(envelope, user_id=uuid.UUID(int=user.int ^ 1), column=column)
    with pytest.raises(CiphertextMismatch):
        ring.decrypt(envelope, user_id=user, column="gemini_api_key")


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_character_of_an_envelope_can_be_changed_unnoticed(data):
    envelope = RING.encrypt(SECRET, user_id=ADA, column=COLUMN)
    place = data.draw(st.integers(0, len(envelope) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != envelope[place]))
    with pytest.raises(DecryptionFailed) as refused:
        RING.decrypt(envelope[:place] + other + envelope[place + 1 :], user_id=ADA, column=COLUMN)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("length", [10, 11, 12])
def test_another_spelling_of_the_same_base64_does_not_open(length):
    envelope = RING.encrypt(SECRET[:10].ljust(length), user_id=ADA, column=COLUMN)
    for last in set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") - {envelope[-1]}:
        with pytest.raises(DecryptionFailed):
            RING.decrypt(envelope[:-1] + last, user_id=ADA, column=COLUMN)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.from_regex(r"psk1[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]{38,80}\n?", fullmatch=True)))
def test_nothing_but_an_envelope_of_ours_opens(text):
    with pytest.raises(DecryptionFailed):
        RING.decrypt(text, user_id=ADA, column=COLUMN)


def test_the_failures_of_decryption_have_names():
    envelope = RING.encrypt(SECRET, user_id=ADA, column=COLUMN)
    later = KeyRing({"k3": OTHER})
    with pytest.raises(UnknownEncryptionKey, match='"k2"'):
        later.decrypt(envelope, user_id=ADA, column=COLUMN)
    with pytest.raises(CiphertextMismatch):
        KeyRing({"k2": OTHER}).decrypt(envelope, user_id=ADA, column=COLUMN)
    with pytest.raises(CiphertextMismatch):  # the same key under another id
        KeyRing({"k9": NEW}).decrypt(envelope.replace(".k2.", ".k9."), user_id=ADA, column=COLUMN)
    for damaged in (envelope[:40], envelope + "=", envelope + "\n", envelope[:-1] + "!", "psk1."):
        with pytest.raises(DamagedEnvelope) as refused:
            RING.decrypt(damaged, user_id=ADA, column=COLUMN)
        assert type(refused.value) is DamagedEnvelope
    for other in ("psk2" + envelope[4:], SECRET, ""):
        with pytest.raises(NotAnEnvelope):
            RING.decrypt(other, user_id=ADA, column=COLUMN)


def test_a_key_of_user_provider_keys_is_bound_to_its_provider_and_label():
    envelope = RING.encrypt(SECRET, user_id=ADA, column=bound_to("deepl", "work"))
    assert RING.decrypt(envelope, user_id=ADA, column=bound_to("deepl", "work")) == SECRET
    for other in (bound_to("deepl", ""), bound_to("openai", "work"), bound_to("deepl", "work/"), "deepl", COLUMN):
        with pytest.raises(CiphertextMismatch):
            RING.decrypt(envelope, user_id=ADA, column=other)


def test_a_check_value_tells_keys_apart_and_nothing_about_them():
    values = RING.check_values
    assert [*values] == ["k2", "k1"]
    assert values == KeyRing.parse(RING_TEXT).check_values
    assert KeyRing({"k2": OTHER}).check_values["k2"] != values["k2"]
    # The key itself is not hashed as it is: a leaked list of SHA-256 hashes would match it.
    assert not any(value in hashlib.sha256(key).hexdigest() for value in values.values() for key in (OLD, NEW))


def test_the_first_key_encrypts_and_all_decrypt():
    before = KeyRing({"k1": OLD}).encrypt(SECRET, user_id=ADA, column=COLUMN)
    assert RING.decrypt(before, user_id=ADA, column=COLUMN) == SECRET
    assert key_id_of(RING.encrypt(SECRET, user_id=ADA, column=COLUMN)) == "k2"


def test_the_longest_text_fits_under_the_longest_id_and_one_byte_more_is_refused():
    ring = KeyRing({"k" * 64: NEW})
    assert is_envelope(ring.encrypt("x" * LONGEST_TEXT_BYTES, user_id=ADA, column=COLUMN))
    for text in ("x" * (LONGEST_TEXT_BYTES + 1), "ä" * LONGEST_TEXT_BYTES, "\ud800"):
        with pytest.raises(TextNotEncryptable):
            RING.encrypt(text, user_id=ADA, column=COLUMN)
    assert str(LONGEST_TEXT_BYTES) in str(TextNotEncryptable()).replace(",", "")


def test_the_check_of_the_table_and_the_module_agree(database):
    checks = {str(c.sqltext) for c in UserApiKeys.__table__.constraints if COLUMN in str(getattr(c, "sqltext", ""))}
    assert len(checks) == 1
    good = [RING.encrypt(text, user_id=ADA, column=COLUMN) for text in ("", SECRET, "x" * LONGEST_TEXT_BYTES)]
    bad = [good[0][:-1], good[0] + "=", good[0] + "\n", SECRET, "", "psk1." + "k" * 65 + "." + "A" * 40, "x" * 5000]
    for value in good + bad:
        assert database.value(
            f"select {checks.copy().pop()} from (values (cast(:v as text))) as t({COLUMN})", v=value
        ) == (is_envelope(value)), value[:80]


# The ring


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("k1", "entry 1 has no colon"),
        ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "entry 1 has no colon"),
        ("k1:c2hvcnQ=", 'entry 1 ("k1") has 5 bytes and must have 32'),
        ("k1:" + "ab" * 32, 'entry 1 ("k1") has 48 bytes and must have 32'),
        ("k1:", 'entry 1 ("k1") has 0 bytes'),
        ("k1:!!geheim!!", 'the key of entry 1 ("k1") is not base64'),
        (f"{RING_TEXT},k2:{base64.b64encode(OTHER).decode()}", 'entry 3 ("k2") has the id of an earlier one'),
        (f"{RING_TEXT},", "entry 3 is empty"),
        (f"k 1:{base64.b64encode(OTHER).decode()}", 'the id of entry 1 ("k 1") must be'),
        (f":{base64.b64encode(OTHER).decode()}", "the id of entry 1 must be"),
        # The wrong way round: what stands where the id belongs is the key.
        (f"{base64.b64encode(OTHER).decode()}:k1", "the id of entry 1 must be"),
        (f"{base64.urlsafe_b64encode(OTHER).decode().rstrip('=')}:k1", "the id of entry 1 looks like a key"),
        (f"{'ab' * 32}:k1", "the id of entry 1 looks like a key"),
        ("", "is not set"),
        (" \n", "is not set"),
    ],
)
def test_a_wrong_ring_is_one_error_that_names_the_entry_and_the_remedy_and_never_a_key(text, says):
    with pytest.raises(InvalidKeyRing) as refused:
        KeyRing.parse(text)
    message = "".join(traceback.format_exception(refused.value))
    assert says in str(refused.value)
    assert "profiles-schema keys generate" in message or "Remove" in message
    assert not refused.value.__context__
    for part in re.split(r"[,:]", text):
        assert len(part.strip()) < 6 or part not in message
    assert refused.value.exit_code == 2


def test_a_ring_takes_both_kinds_of_base64_and_blanks_round_entries():
    key = bytes(range(220, 252))
    spellings = {base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode().rstrip("=")}
    assert len(spellings) == 2
    envelope = KeyRing({"k": key}).encrypt(SECRET, user_id=ADA, column=COLUMN)
    for spelling in spellings:
        ring = KeyRing.parse(f"\n k : {spelling} ,\n {new_entry('k0')}\n")
        assert ring.ids == ("k", "k0")
        assert ring.decrypt(envelope, user_id=ADA, column=COLUMN) == SECRET


def test_a_ring_shows_ids_only_and_is_not_pickled():
    assert repr(RING) == str(RING) == "KeyRing(k2, k1)"
    for away in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            away(RING)
    with pytest.raises(KeyRingMissing):
        KeyRing.from_environment({})
