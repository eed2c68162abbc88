"""The bar of long work on a terminal."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest

from profiles_schema.cli.progress import Step, bar_line, duration


@pytest.mark.parametrize("columns", [20, 40, 77, 200])
@pytest.mark.parametrize("state", ["running", "paused: profiles-schema jobs resume 12", "stopped", "completed"])
@pytest.mark.parametrize("done", [0, 5, 999_999, 1_000_000])
def test_a_line_fits_and_says_how_far_it_is(columns, state, done):
    line = bar_line("backfill", "users", Step(done, 1_000_000, 12_345.6, 83.0, state), columns)
    assert len(line) <= columns
    assert line.startswith("backfill")
    assert f"{done / 1_000_000:.0%}" in line
    if columns >= 77:
        assert ("12346/s" in line and "ETA 1:23" in line) if state == "running" else line.endswith(state)


def test_nothing_to_do_is_all_of_it():
    assert "100%" in bar_line("backfill", "users", Step(0, 0, 0.0, None, "completed"), 77)


def test_durations_read_like_a_clock():
    assert [duration(seconds) for seconds in (0.4, 59.6, 3599, 3600, 90_061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]


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


def test_ctrl_c_leaves_a_clean_terminal_and_a_sentence(database):
    database.script(
        "alter table auth.users disable trigger profiles_on_auth_user_created;"
        "insert into auth.users (email) select 'usr' || g || '@example.org' from generate_series(1, 2000) as g;"
        "alter table auth.users enable trigger profiles_on_auth_user_created"
    )
    process, terminal = on_a_terminal(database, "backfill", "--batch-size", "20", "--max-rate", "200")
    written = read_until(terminal, r"/2000 users +\d+/s  ETA")
    ((number,),) = database.run("update profiles_internal.jobs set state = 'paused' returning id")
    written += read_until(terminal, f"paused: profiles-schema jobs resume {number}")
    process.send_signal(signal.SIGINT)
    written += read_until(terminal, None)
    os.close(terminal)
    assert process.wait(timeout=30) == 130
    *bar, sentence, end = written.split("\r\n")
    assert re.fullmatch(r"stopped after \d+ of 2000 users; go on with: profiles-schema backfill", sentence)
    assert end == ""
    assert len(bar) == 1
    lines = bar[0].split("\r")[1:]
    assert lines[0] == "backfill counting users\x1b[K"
    assert all(line.endswith("\x1b[K") and len(line) - len("\x1b[K") <= 77 for line in lines)
    assert lines[-1].endswith("users  stopped\x1b[K")
