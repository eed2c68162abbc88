"""Where the key ring comes from: the environment, a file, AWS KMS (a moto server in a process of its own)."""

import base64
import logging
import socket
import subprocess
import sys
import traceback
import uuid

import boto3
import pytest

from profiles_schema.encryption import new_entry
from profiles_schema.errors import InvalidKeyRing, KeyRingMissing, KeyServiceFailed
from profiles_schema.key_kms import KmsKeys, new_wrapped_entry
from profiles_schema.key_providers import EnvironmentKeys, FileKeys, keys_from_environment
from support import profiles_schema, wait_until

ADA = uuid.UUID(int=1)
KEY = base64.b64encode(b"\x01" * 32).decode()


def test_the_environment_names_one_source(tmp_path):
    file = tmp_path / "ring"
    file.write_text(new_entry("f"))
    assert keys_from_environment({"PROFILES_ENCRYPTION_KEYS": new_entry("e")}).ring().ids == ("e",)
    assert keys_from_environment({"PROFILES_ENCRYPTION_KEYS_FILE": f" {file}\n"}).ring().ids == ("f",)
    assert EnvironmentKeys({"PROFILES_ENCRYPTION_KEYS": new_entry("e")}).ring().ids == ("e",)
    for nothing in ({}, {"PROFILES_ENCRYPTION_KEYS": " "}):
        with pytest.raises(KeyRingMissing):
            keys_from_environment(nothing)
    with pytest.raises(InvalidKeyRing, match="PROFILES_ENCRYPTION_KEYS and PROFILES_ENCRYPTION_KEYS_FILE"):
        keys_from_environment({"PROFILES_ENCRYPTION_KEYS": new_entry(), "PROFILES_ENCRYPTION_KEYS_FILE": str(file)})


def test_a_file_is_read_again_when_it_changes(tmp_path, caplog):
    file = tmp_path / "ring"
    old, new = new_entry("old"), new_entry("new")
    file.write_text(f"{old}\n")
    keys = FileKeys(file)
    ring = keys.ring()
    assert ring.ids == ("old",)
    assert keys.ring() is ring
    # As a deploy replaces it: at once.
    (tmp_path / "next").write_text(f"{new},\n\n{old}\n")
    (tmp_path / "next").replace(file)
    assert keys.ring().ids == ("new", "old")
    assert keys.ring().decrypt(ring.encrypt("x", user_id=ADA, column="c"), user_id=ADA, column="c") == "x"
    # What is wrong, half written or gone changes nothing; the log says it once, and no key.
    caplog.set_level(logging.WARNING)
    for change in (lambda: file.write_text(f"new:{KEY[:-6]}"), lambda: file.write_bytes(b"\xff\xfe"), file.unlink):
        caplog.clear()
        change()
        for _ in range(3):
            assert keys.ring().ids == ("new", "old")
        assert len(caplog.records) == 1
        assert KEY[:12] not in caplog.text
    file.write_text(new_entry("third"))
    assert keys.ring().ids == ("third",)


def test_a_file_that_is_missing_or_wrong_from_the_beginning_is_an_error(tmp_path):
    with pytest.raises(InvalidKeyRing, match="PROFILES_ENCRYPTION_KEYS_FILE") as refused:
        FileKeys(tmp_path / "none")
    assert not refused.value.__context__
    (tmp_path / "ring").write_text("k1:short")
    with pytest.raises(InvalidKeyRing):
        FileKeys(tmp_path / "ring")


@pytest.fixture(scope="module")
def options():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers():
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, seconds=60)
    yield {
        "endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1", "aws_access_key_id": "id",
        "aws_secret_access_key": "secret",
    }  # fmt: skip
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def master(options):
    return boto3.client("kms", **options).create_key()["KeyMetadata"]["KeyId"]


def test_keys_that_kms_made_and_encrypted(options, master):
    entries = [new_wrapped_entry(master, key_id, **options) for key_id in ("k2", "k1")]
    keys = KmsKeys(",".join(entries), **options)
    ring = keys.ring()
    assert ring.ids == ("k2", "k1")
    assert keys.ring() is ring
    envelope = ring.encrypt("x", user_id=ADA, column="c")
    assert KmsKeys(entries[0], **options).ring().decrypt(envelope, user_id=ADA, column="c") == "x"
    assert new_wrapped_entry(master, **options).startswith("k20")


def test_a_wrapped_key_does_not_open_under_another_id_or_without_kms(options, master):
    entry = new_wrapped_entry(master, "k1", **options)
    _, _, data = entry.partition(":")
    for text, others in ((f"k2:{data}", {}), (entry, {"endpoint_url": "http://127.0.0.1:1"})):
        with pytest.raises(KeyServiceFailed) as refused:
            KmsKeys(text, **{**options, **others}).ring()
        assert not refused.value.__context__
        assert data[:20] not in "".join(traceback.format_exception(refused.value))
    with pytest.raises(KeyServiceFailed, match="NotFoundException"):
        new_wrapped_entry(str(uuid.uuid4()), **options)


def test_the_command_line_makes_and_uses_keys_of_kms(options, master, database, monkeypatch):
    for name, option in (
        ("AWS_ENDPOINT_URL", "endpoint_url"), ("AWS_DEFAULT_REGION", "region_name"),
        ("AWS_ACCESS_KEY_ID", "aws_access_key_id"), ("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key"),
    ):  # fmt: skip
        monkeypatch.setenv(name, options[option])
    made = profiles_schema(database.url, "keys", "generate", "--kms", master, "--id", "k1")
    assert made.stdout.startswith("k1:")
    monkeypatch.setenv("PROFILES_ENCRYPTION_KMS_KEYS", made.stdout.strip())
    assert "ring       k1\n" in profiles_schema(database.url, "keys", "status").stdout
    again = profiles_schema(database.url, "keys", "generate", "--kms", master, "--id", "k1")
    assert (again.returncode, again.stdout) == (2, "")
    monkeypatch.setenv("PROFILES_ENCRYPTION_KEYS", new_entry())
    both = profiles_schema(database.url, "keys", "status")
    assert both.returncode == 2
    assert "PROFILES_ENCRYPTION_KEYS and PROFILES_ENCRYPTION_KMS_KEYS are set" in both.stderr


@pytest.mark.parametrize("text", ["", "k1", "k1:", ":AAAA", "k1:!!", "k1:AAAA,k1:AAAA", "k 1:AAAA"])
def test_wrong_entries_are_named(options, text):
    with pytest.raises(InvalidKeyRing):
        KmsKeys(text, **options)
