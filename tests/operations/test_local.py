"""The embedded PostgreSQL: real servers, each in a directory of its own."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg2
import pytest
from click.testing import CliRunner

from profiles_schema import local
from profiles_schema.errors import EmbeddedServerFailed
from profiles_schema.local.account import make_private
from profiles_schema.local.layout import Place
from profiles_schema.local.processes import hold_lock
from support import REPOSITORY, wait_until

ROOT = os.geteuid() == 0
NOBODY = 65534
only_root = pytest.mark.skipif(not ROOT, reason="only root can become another user")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Where every account may enter: on macOS, the usual temporary directory is closed to others, and its path is long.
OPEN = "/tmp" if sys.platform == "darwin" else None
START = "import sys; from profiles_schema import local; print(local.start(sys.argv[1]).pid, flush=True)"


@pytest.fixture
def base():
    # Not tmp_path: pytest closes its parents, and the account that serves root has to get through.
    path = Path(tempfile.mkdtemp(prefix="profiles-local-", dir=OPEN)).resolve()
    path.chmod(0o755)
    yield path
    for pid_file in path.rglob("postmaster.pid"):
        end(pid_file)
    shutil.rmtree(path)


@pytest.fixture
def directory(base):
    return base / "postgres"


@pytest.fixture(scope="module")
def shared():
    """A server that no test changes."""
    path = Path(tempfile.mkdtemp(prefix="profiles-local-", dir=OPEN)).resolve()
    path.chmod(0o755)
    yield local.start(path / "postgres")
    end(path / "postgres" / "server" / "data" / "postmaster.pid")
    shutil.rmtree(path)


def end(pid_file):
    """End the server of this file, and see that it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        pid = int(pid_file.read_text().split("\n", 1)[0])
        if Path(f"/proc/{pid}/cwd").exists() and not Path(f"/proc/{pid}/cwd").samefile(pid_file.parent):
            return
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not alive(pid))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(FileNotFoundError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return sys.platform != "linux"


def python(*arguments, program=sys.executable, path=REPOSITORY, environment=None, **options):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROFILES_")}
    return subprocess.Popen(
        [program, *arguments],
        env=inherited | {"PYTHONPATH": str(path)} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def said(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return out.strip()


def query(server, statement):
    connection = psycopg2.connect(server.url())
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None
    finally:
        connection.close()


def postmasters(data):
    """The processes that work in this data directory and whose parent does not: servers, without their children."""
    inside = {}
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int(process.name) and (process / "cwd").samefile(data):
                inside[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return [pid for pid, parent in inside.items() if parent not in inside]


def test_starting_twice_gives_the_server_that_runs(shared):
    again = local.start(shared.data_directory.parent.parent)
    assert again == shared
    assert local.status(shared.data_directory.parent.parent) == shared
    assert shared.version.startswith("18.")


def test_the_url_opens_the_database_whatever_the_users_environment_names(shared, monkeypatch):
    monkeypatch.setenv("PGHOST", "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGUSER", "somebody")
    assert query(shared, "select current_database(), current_user") == [("profiles", "postgres")]
    assert query(local.start(shared.data_directory.parent.parent), "show fsync") == [("on",)]


def test_text_sorts_the_same_on_every_machine(shared):
    settings = "select datlocprovider, datlocale, pg_encoding_to_char(encoding) from pg_database"
    assert set(query(shared, settings)) == {("b", "C.UTF-8", "UTF8")}
    assert query(shared, "show timezone") == [("UTC",)]


def test_data_survive_stop_and_start(directory):
    query(local.start(directory), "create table kept as select 42 as answer")
    assert local.stop(directory) is True
    assert local.status(directory) is None
    assert local.stop(directory) is False
    assert query(local.start(directory), "select answer from kept") == [(42,)]


def test_the_database_comes_back_when_it_was_dropped(directory):
    server = local.start(directory)
    connection = psycopg2.connect(server.url("postgres"))
    connection.autocommit = True
    connection.cursor().execute("drop database profiles")
    connection.close()
    assert query(local.start(directory), "select current_database()") == [("profiles",)]


def test_looking_at_no_server_makes_nothing(directory):
    assert local.status(directory) is None
    assert local.stop(directory) is False
    assert not directory.exists()


def test_the_server_outlives_kill_9_of_its_starter_and_its_group(directory):
    script = f"{START}; import time; time.sleep(60)"
    starter = python("-c", script, str(directory), start_new_session=True)
    pid = int(starter.stdout.readline())
    os.killpg(starter.pid, signal.SIGKILL)
    starter.communicate()
    server = local.status(directory)
    assert server is not None
    assert server.pid == pid
    assert query(server, "select 1") == [(1,)]


@pytest.mark.parametrize("killed_by", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("after_seconds", [0.6, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.05, 0.2, 0.4))])
def test_a_starter_ended_at_any_moment_leaves_nothing_broken(directory, killed_by, after_seconds):
    starter = python("-c", START, str(directory), start_new_session=True)
    wait_until(lambda: (directory / "lock").exists() or starter.poll() is not None)
    time.sleep(after_seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(starter.pid, killed_by)
    starter.communicate(timeout=30)
    server = local.start(directory)
    assert query(server, "select current_database()") == [("profiles",)]
    assert not list(server.data_directory.parent.glob("data.new-*"))


@pytest.mark.slow
def test_a_half_made_cluster_is_made_anew(directory):
    local.start(directory)
    local.stop(directory)
    data = directory / "server" / "data"
    half = data.rename(data.with_name("data.new-0123abcd"))
    (half / "PG_VERSION").unlink()
    assert query(local.start(directory), "select current_database()") == [("profiles",)]
    assert not half.exists()


def test_what_an_interrupted_initdb_left_beside_a_whole_cluster_goes_with_the_next_start(directory):
    server = local.start(directory)
    left = server.data_directory.with_name("data.new-0123abcd")
    (left / "base").mkdir(parents=True)
    assert local.start(directory) == server
    assert not left.exists()


def test_a_child_of_a_killed_initdb_that_still_writes_keeps_nothing_back(directory):
    left = local.start(directory).data_directory.with_name("data.new-0123abcd")
    left.mkdir()
    # Like PostgreSQL it works inside the directory, so it ends when that is gone.
    writer = subprocess.Popen(
        ["sh", "-c", "i=0; while : > $i; do i=$((i+1)); sleep 0.02; done"], cwd=left, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: sum(1 for _ in left.iterdir()) > 10)
        local.start(directory)
        assert not left.exists()
        assert writer.wait(10) != 0
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.slow
def test_what_a_living_starter_makes_is_left_alone(directory):
    server = local.start(directory)
    made = server.data_directory.with_name("data.new-0123abcd")
    with hold_lock(Place.at(directory)):
        made.mkdir()
        other = python("-c", START, str(directory))
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(2)
        assert made.exists()
    assert int(said(other)) == server.pid
    assert not made.exists()


@pytest.mark.slow
@only_linux
def test_six_processes_at_once_share_one_server(directory):
    starters = [python("-c", START, str(directory)) for _ in range(6)]
    pids = {int(said(starter)) for starter in starters}
    assert len(pids) == 1
    assert postmasters(directory / "server" / "data") == list(pids)


@only_linux
def test_it_listens_on_no_network_port_even_when_told_to(directory):
    query(local.start(directory), "alter system set listen_addresses = '*'")
    local.stop(directory)
    server = local.start(directory)
    assert query(server, "show listen_addresses") == [("",)]
    opened = {link.readlink().name for link in Path(f"/proc/{server.pid}/fd").iterdir()}
    sockets = {name.removeprefix("socket:[").removesuffix("]") for name in opened if name.startswith("socket:[")}
    network = "".join(Path(f"/proc/net/{kind}").read_text() for kind in ("tcp", "udp"))
    with contextlib.suppress(FileNotFoundError):
        network += Path("/proc/net/tcp6").read_text() + Path("/proc/net/udp6").read_text()
    inodes = {line.split()[9] for line in network.splitlines() if line.split()[9].isdigit()}
    assert sockets
    assert not sockets & inodes


def test_only_the_servers_account_may_enter_and_nothing_around_changes(base, directory):
    programs = local.binaries()
    around = [base, *base.parents, programs, *programs.parents]
    before = [(path.stat().st_mode, path.stat().st_uid) for path in around]
    server = local.start(directory)
    assert [(path.stat().st_mode, path.stat().st_uid) for path in around] == before
    assert stat.S_IMODE(directory.stat().st_mode) == (0o755 if ROOT else 0o700)
    assert stat.S_IMODE((directory / "lock").stat().st_mode) == 0o600
    for private in (server.data_directory, server.socket_directory):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert (private.stat().st_uid != 0) is ROOT or private.stat().st_uid == os.geteuid()
    assert stat.S_IMODE((server.socket_directory / ".s.PGSQL.5432").stat().st_mode) == 0o700


@only_linux
def test_the_server_carries_no_secret_of_its_starter(directory):
    secrets = {"DATABASE_URL": "postgresql://ada:lovelace@db/x", "PGPASSWORD": "lovelace"}
    pid = said(python("-c", START, str(directory), environment=secrets))
    assert b"lovelace" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_path_too_long_for_a_socket_gets_a_short_private_one(base):
    directory = base / ("long-" * 12) / ("longer-" * 8)
    server = local.start(directory)
    assert query(server, "select 1") == [(1,)]
    assert server.socket_directory != directory / "server"
    assert stat.S_IMODE(server.socket_directory.stat().st_mode) == 0o700
    assert local.stop(directory) is True
    server.socket_directory.rmdir()  # nothing is left in it


def test_a_socket_directory_planted_by_others_is_refused(base):
    planted = base / "planted"
    planted.symlink_to("/tmp")
    with pytest.raises(EmbeddedServerFailed, match="planted"):
        make_private(planted, None)
    open_to_all = base / "open"
    open_to_all.mkdir(mode=0o755)
    with pytest.raises(EmbeddedServerFailed, match="0700"):
        make_private(open_to_all, None)


def test_no_character_of_a_path_reaches_a_shell(base):
    directory = base / "it's \"ada's\", $(touch made) `touch made` \\ 50% ü"
    server = local.start(directory)
    assert query(server, "select 1") == [(1,)]
    assert local.stop(directory) is True
    server.socket_directory.rmdir()  # a comma cannot stand in a URL's host, so it is outside
    assert not list(base.rglob("made"))


def test_a_missing_wheel_says_what_to_install(directory):
    script = (
        "import sys\nfrom profiles_schema import errors, local\n"
        "for verb in (local.binaries, lambda: local.start(sys.argv[1])):\n"
        "    try: verb()\n    except errors.EmbeddedServerUnavailable as error: print(error)"
    )
    lines = said(python("-S", "-c", script, str(directory))).splitlines()
    assert len(lines) == 2
    assert all("pip install 'profiles-schema[local]'" in line for line in lines)
    assert not directory.exists()


def test_a_killed_postmaster_is_replaced_and_its_data_are_there(directory):
    server = local.start(directory)
    query(server, "create table kept as select 42 as answer")
    idle = psycopg2.connect(server.url())  # its server process still holds the shared memory
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not alive(server.pid))
    assert local.status(directory) is None
    again = local.start(directory)
    idle.close()
    assert again.pid != server.pid
    assert query(again, "select answer from kept") == [(42,)]


def test_another_program_with_the_recorded_pid_is_not_taken_for_the_server(directory):
    server = local.start(directory)
    owner = server.data_directory.stat()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not alive(server.pid))
    same_user = {"user": owner.st_uid, "group": owner.st_gid} if ROOT else {}
    stranger = subprocess.Popen(["sleep", "60"], **same_user)
    try:
        record = server.data_directory / "postmaster.pid"
        record.write_text("\n".join([str(stranger.pid), *record.read_text().split("\n")[1:]]))
        assert local.status(directory) is None
        assert local.stop(directory) is False
        assert query(local.start(directory), "select 1") == [(1,)]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_copied_directory_does_not_pass_for_the_server_it_was_copied_from(base, directory):
    server = local.start(directory)
    copied = base / "copy"
    shutil.copytree(server.data_directory, copied / "server" / "data")
    assert local.status(copied) is None
    assert local.stop(copied) is False
    assert local.status(directory) == server


def test_data_of_another_major_version_are_left_alone(directory):
    local.start(directory)
    local.stop(directory)
    (directory / "server" / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedServerFailed, match=r"made by PostgreSQL 17; the embedded one is 18") as refused:
        local.start(directory)
    assert str(directory) in str(refused.value)


def test_a_server_that_does_not_start_shows_its_log(directory):
    local.start(directory)
    local.stop(directory)
    with (directory / "server" / "data" / "postgresql.conf").open("a") as file:
        file.write("nonsense = on\n")
    with pytest.raises(EmbeddedServerFailed, match='parameter "nonsense"') as failed:
        local.start(directory)
    assert str(directory / "server" / "log") in str(failed.value)


def test_a_directory_that_cannot_be_made_is_named(base):
    (base / "file").write_text("")
    with pytest.raises(EmbeddedServerFailed, match=str(base / "file")):
        local.start(base / "file" / "postgres")


@only_root
def test_an_ordinary_user_keeps_a_server_at_home(base):
    home = base / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    script = (
        "import os; from profiles_schema import local; s = local.start(); "
        "assert local.start() == s; print(s.data_directory, os.stat(s.data_directory).st_uid, local.stop())"
    )
    ordinary = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
    # The environment's Python may lie where only root gets; the module needs no more than the standard library.
    paths = f"{REPOSITORY}:{local.binaries().parent.parent.parent}"
    environment = {"HOME": str(home), "XDG_DATA_HOME": "", "XDG_RUNTIME_DIR": ""}
    for program in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            probe = python("-c", "import profiles_schema.local", path=paths, program=program, **ordinary)
            probe.communicate()
            if probe.returncode == 0:
                break
    else:
        pytest.skip("every Python here lies where only root gets")
    starter = python("-c", script, path=paths, program=program, environment=environment, **ordinary)
    expected = home / ".local" / "share" / "profiles-schema"
    assert said(starter).split() == [str(expected / "server" / "data"), str(NOBODY), "True"]
    assert stat.S_IMODE(expected.stat().st_mode) == 0o700


@pytest.mark.slow
@only_root
@only_linux
def test_root_gets_a_server_from_programs_behind_a_closed_directory(base, directory):
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    installed = local.binaries().parent
    package = closed / "site" / installed.parent.name
    shutil.copytree(installed, package / installed.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(installed.parent.with_name(f"{package.name}.libs"), package.with_name(f"{package.name}.libs"))
    (package / "__init__.py").write_text("raise SystemExit('the package of the programs was executed')\n")
    pid = said(python("-c", START, str(directory), path=f"{closed / 'site'}:{REPOSITORY}"))
    assert Path(f"/proc/{pid}/exe").readlink().is_relative_to(directory)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert query(local.start(directory), "select 1") == [(1,)]
    assert local.stop(directory) is True


@only_root
def test_root_is_told_of_a_directory_that_the_servers_account_cannot_reach(base):
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServerFailed, match="PROFILES_LOCAL_DIR") as failed:
        local.start(closed / "postgres")
    assert str(closed / "postgres") in str(failed.value)
    assert list(closed.iterdir()) == []
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@only_root
def test_root_keeps_no_server_where_others_may_write(base):
    theirs = base / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(EmbeddedServerFailed, match="others may write"):
        local.start(theirs)
    assert list(theirs.iterdir()) == []


@only_root
@only_linux
def test_a_server_in_another_container_is_used_but_not_signalled(directory):
    script = f"{START}; sys.stdin.read()"
    contained = ["unshare", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*contained, "true"], check=False).returncode != 0:
        pytest.skip("this system makes no pid namespaces")
    container = subprocess.Popen(
        [*contained, sys.executable, "-c", script, str(directory)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        pid = int(container.stdout.readline())
        server = local.start(directory)
        assert server.pid == pid
        assert len(postmasters(server.data_directory)) == 1
        with pytest.raises(EmbeddedServerFailed, match="another container"):
            local.stop(directory)
        assert query(server, "select 1") == [(1,)]
    finally:
        container.communicate("")  # its processes end with it


def test_the_directory_follows_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("PROFILES_LOCAL_DIR", str(tmp_path / "x"))
    assert local.default_directory() == tmp_path / "x"
    monkeypatch.delenv("PROFILES_LOCAL_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert local.default_directory() == (Path("/var/lib/profiles-schema") if ROOT else tmp_path / "profiles-schema")


def test_the_verbs_start_show_and_stop_it(directory, monkeypatch):
    from profiles_schema.cli.local import local as verbs
    from profiles_schema.errors import EmbeddedServerNotRunning

    monkeypatch.setenv("PROFILES_LOCAL_DIR", str(directory))

    def run(*arguments):
        return CliRunner().invoke(verbs, arguments)

    assert run("status").exit_code == 1
    missing = run("url")
    assert isinstance(missing.exception, EmbeddedServerNotRunning)
    assert missing.exception.exit_code == 3
    started = run("start")
    assert started.exit_code == 0
    assert started.stdout == run("url").stdout
    assert json.loads(run("url", "--json").stdout) == {"url": started.stdout.strip()}
    shown = run("status", "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["data_directory"] == str(directory / "server" / "data")
    assert json.loads(run("stop", "--json").stdout) == {"stopped": True}
    assert json.loads(run("stop", "--json").stdout) == {"stopped": False}
    assert json.loads(run("status", "--json").stdout) == {"running": False}
