"""What long work shows: bars on a terminal, lines elsewhere, JSON lines with --json."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from profiles_schema.cli import progress
from profiles_schema.cli.progress import words
from profiles_schema.operations.batch_job import Progress
from support import in_terminal, profiles_schema

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_words_say_how_far_it_is():
    report = Progress("backfill", done=500, total=1_000, rows_per_second=12.3, eta_seconds=83.4, job_id=7)
    assert words(report) == " 500/1000 users   50%  12/s  0:01:23 left"
    report.state = "paused"
    assert words(report) == " 500/1000 users   50%  paused: profiles-schema jobs resume 7"
    report.state = "stopped"
    assert words(report) == " 500/1000 users   50%  stopped"


def test_nothing_to_do_is_all_of_it():
    assert words(Progress("backfill", state="completed")) == "0/0 users  100%  completed"


def test_off_a_terminal_a_line_says_when_work_begins_and_ends(crowd):
    done = profiles_schema(crowd(600).url, "backfill", "--batch-size", "50", "--target-ms", "5")
    first, last = done.stderr.splitlines()
    assert re.fullmatch(r"backfill  *\d+/600 users  +\d+%  \d+/s  0:00:0\d left", first)
    assert last == "repair 0/0 users  100%  completed"


def test_off_a_terminal_a_line_comes_now_and_then(crowd, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.2)
    lines = progress._Lines()
    for done in range(5):
        lines.show(Progress("backfill", done=done, total=5))
        time.sleep(0.12)
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in said] == ["0/5", "2/5", "4/5"]


def test_with_json_every_report_is_a_line(crowd):
    done = profiles_schema(crowd(600).url, "backfill", "--json", "--batch-size", "50", "--target-ms", "5")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) > 3
    assert {(line["job"], line["total"]) for line in lines[:-1]} == {("backfill", 600)}
    assert [line["done"] for line in lines[:-1]] == sorted(line["done"] for line in lines[:-1])
    assert (lines[-2]["created"], lines[-1]["created"], lines[-1]["state"]) == (600, 600, "completed")
    assert set(lines[-1]) == {
        "job", "unit", "job_id", "total", "done", "failed", "batch_rows", "batch_ms", "rows_per_second", "eta_seconds",
        "state", "created", "completed",
    }  # fmt: skip
    assert json.loads(done.stdout)["created"] == 600


@pytest.mark.slow
@pytest.mark.parametrize("columns", [30, 80, 200])
def test_a_bar_fits_the_terminal(crowd, columns):
    shown = in_terminal(crowd(300).url, "backfill", "--max-rate", "600", columns=columns)
    lines = [line for line in CONTROL.sub("", shown).replace("\r", "\n").splitlines() if line.startswith("backfill")]
    assert lines
    assert max(map(len, lines)) <= columns
    if columns >= 80:
        assert lines[-1].endswith("300/300 users  100%  completed")
        assert any(re.search(r"\d+/s  0:00:0\d left$", line) for line in lines)
    assert CONTROL.sub("", shown).rstrip().splitlines()[-1].startswith("created 300 profiles")


def test_each_job_that_has_something_to_do_has_a_bar_of_its_own(crowd):
    database = crowd(50)
    user = database.sign_up("ada@example.org")
    database.script(
        "alter table auth.users disable trigger profiles_on_auth_user_updated;"
        f"update auth.users set email = 'ada@new.example' where id = '{user}';"
        "alter table auth.users enable trigger profiles_on_auth_user_updated;"
        f"insert into public.user_profile_audit_logs (user_id, action, origin, error_code) values ('{user}', 'failed', 'trigger', '55P03')"
    )
    lines = CONTROL.sub("", in_terminal(database.url, "backfill")).replace("\r", "\n").splitlines()
    bars = [re.sub("━+", "━", line).strip() for line in lines if "completed" in line]
    assert bars[-2:] == ["backfill ━ 50/50 users  100%  completed", "repair   ━ 1/1 users  100%  completed"]


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_a_bar_is_coloured_unless_that_is_refused(crowd, environment, coloured):
    shown = in_terminal(crowd(10).url, "backfill", **environment)
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m|\x1b\[[0-9;]*38;", shown)) == coloured
    assert ("\x1b" in shown) == (environment.get("TERM") != "dumb")


def on_a_terminal(database, *arguments):
    """Start a command whose stderr is a terminal of 80 columns; the process, and the other end of the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "profiles_schema", *arguments], env=os.environ | {"DATABASE_URL": database.url},
        stdout=subprocess.DEVNULL, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def read_until(terminal, pattern):
    """What was written up to a pattern, or to the end."""
    written = ""
    with contextlib.suppress(OSError):  # what Linux says where others say end of file
        while not (pattern and re.search(pattern, written)):
            chunk = os.read(terminal, 4096).decode()
            if not chunk:
                break
            written += chunk
    return written


@pytest.mark.slow
def test_ctrl_c_leaves_a_clean_terminal_and_a_sentence(database):
    database.script(
        "alter table auth.users disable trigger profiles_on_auth_user_created;"
        "insert into auth.users (email) select 'usr' || g || '@example.org' from generate_series(1, 2000) as g;"
        "alter table auth.users enable trigger profiles_on_auth_user_created"
    )
    process, terminal = on_a_terminal(database, "backfill", "--batch-size", "20", "--max-rate", "200")
    written = read_until(terminal, r"/2000 users +\d+%  \d+/s  ")
    ((number,),) = database.run("update profiles_internal.jobs set state = 'paused' returning id")
    written += read_until(terminal, f"paused: profiles-schema jobs resume {number}")
    process.send_signal(signal.SIGINT)
    written += read_until(terminal, None)
    os.close(terminal)
    assert process.wait(timeout=30) == 130
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is there again
    bar, done, sentence = CONTROL.sub("", written.rpartition("\x1b[2K")[2]).strip().split("\r\n")
    assert re.fullmatch(r"backfill [━╺╸]+ +\d+/2000 users +\d+%  stopped", bar)
    assert re.fullmatch(r"done so far: \d+ created", done)
    assert re.fullmatch(r"stopped after \d+ of 2000 users; go on with: profiles-schema backfill", sentence)
