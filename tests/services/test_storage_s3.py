"""S3Storage, against a moto server in a process of its own, with the bucket in the path."""

import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid

import pytest

from profiles_schema.errors import StorageFailed
from profiles_schema.storage import DirectoryStorage, copy_object, export_key
from profiles_schema.storage_s3 import S3Storage
from support import profiles_schema, wait_until


@pytest.fixture(scope="module")
def endpoint():
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
    yield f"http://127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.fixture
def storage(endpoint):
    made = S3Storage(
        "exports", prefix="app", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="id",
        aws_secret_access_key="secret",
    )  # fmt: skip
    made._client.create_bucket(Bucket="exports")
    return made


@pytest.fixture
def key():
    return export_key(uuid.uuid4(), uuid.uuid4())


def put(storage, key, content):
    upload = storage.upload(key)
    upload.file.write(content)
    size = upload.publish()
    upload.discard()
    return size


def read(storage, key):
    with storage.open(key) as file:
        return file.read()


def test_objects_are_written_read_listed_and_removed(storage, key):
    assert put(storage, key, b"content") == 7
    assert read(storage, key) == b"content"
    assert key in list(storage.keys())
    assert storage.delete(key) is True
    assert storage.delete(key) is False
    with pytest.raises(FileNotFoundError):
        storage.open(key)


def test_all_objects_of_a_user_are_removed_and_no_others(storage, key):
    user = key.split("/")[1]
    keys = [key, export_key(user, uuid.uuid4())]
    other = export_key(uuid.uuid4(), uuid.uuid4())
    for each in (*keys, other):
        put(storage, each, b"content")
    assert storage.delete_all(user) == 2
    assert storage.delete_all(user) == 0
    assert not set(keys) & set(storage.keys())
    assert other in list(storage.keys())


def test_what_was_not_published_is_not_there(storage, key):
    upload = storage.upload(key)
    upload.file.write(b"half")
    upload.discard()
    assert key not in list(storage.keys())


def test_large_objects_go_in_parts_and_come_back_whole(storage, key):
    content = bytes(range(256)) * (20 << 12)
    assert put(storage, key, content) == len(content)
    assert read(storage, key) == content


def test_links_have_the_bucket_in_their_path_and_read_the_object(storage, endpoint, key):
    put(storage, key, b"content")
    link = storage.link(key, 60)
    assert link.startswith(f"{endpoint}/exports/app/{key}?")
    assert "X-Amz-Expires=60" in link
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"content"


def test_objects_can_be_archived(storage, key, tmp_path):
    put(storage, key, b"content")
    archive = DirectoryStorage(tmp_path)
    assert copy_object(storage, archive, key) is True
    assert read(archive, key) == b"content"


def test_the_command_line_works_on_a_bucket(database, storage, endpoint):
    user = database.sign_up("ada@example.org")
    export = database.run(
        "insert into public.export_history (user_id, export_type, export_format) values (:user, 'profile', 'json')"
        " returning id",
        user=user,
    )[0][0]
    variables = {
        "PROFILES_EXPORT_STORAGE": "s3://exports/app", "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    done = profiles_schema(database.url, "exports", "work", "--once", environment=variables)
    assert (done.returncode, done.stdout) == (0, "1 completed\n")
    assert str(user).encode() in read(storage, export_key(user, export))
    database.run("update public.export_history set expires_at = now()")
    assert profiles_schema(database.url, "exports", "purge", environment=variables).stdout == "purged 1 export\n"
    assert export_key(user, export) not in list(storage.keys())


def test_a_storage_that_does_not_answer_is_an_error_without_addresses(key):
    silent = S3Storage(
        "exports", endpoint_url="http://127.0.0.1:1", region_name="us-east-1", aws_access_key_id="id",
        aws_secret_access_key="secret",
    )  # fmt: skip
    with pytest.raises(StorageFailed) as failed:
        silent.open(key)
    assert "127.0.0.1" not in str(failed.value)
