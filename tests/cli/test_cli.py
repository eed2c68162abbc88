"""What a person sees on the command line: help with sections and examples, guesses, colour, which database, a standby."""

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from profiles_schema import cli
from profiles_schema.cli import style
from profiles_schema.migrations import options, paths
from support import in_terminal, profiles_schema

HEAD = max(path.stem for path in paths.versions().glob("[0-9]*.py"))


def commands():
    """Every verb and verb of a group: words, click command."""
    root = cli.profiles_schema
    for verb in cli.VERBS:
        command = root.get_command(click.Context(root), verb)
        yield [verb], command
        for word, below in getattr(command, "commands", {}).items():
            yield [verb, word], below


COMMANDS = list(commands())
every_verb = pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])


def help_of(*words, width=100):
    done = CliRunner().invoke(
        cli.profiles_schema, [*words, "--help"], prog_name="profiles-schema", terminal_width=width
    )
    assert done.exit_code == 0, done.output
    return done.output


def run(url, *arguments, **environment):
    """Run our command in this process, as `main` does; exit code, stdout, stderr."""
    runner = CliRunner(env={"DATABASE_URL": url, **environment})
    with runner.isolation() as streams:
        code = cli.main(arguments)
        return code, *(stream.getvalue().decode() for stream in streams[:2])


# Help


def test_help_lists_every_verb_once_in_sections():
    page = help_of()
    titles = re.findall(r"^(\S.*):$", page, flags=re.MULTILINE)
    assert titles == [
        "Options", "Migrate", "Watch", "Repair", "Personal data", "Adopt", "Keys and settings", "Server", "Examples",
    ]  # fmt: skip
    for verb in cli.VERBS:
        assert len(re.findall(rf"^  {verb} ", page, flags=re.MULTILINE)) == 1, verb


@pytest.mark.parametrize("group", [words for words, command in COMMANDS if isinstance(command, click.Group)], ids=str)
@pytest.mark.parametrize("width", [50, 140])
def test_a_group_says_in_whole_sentences_what_its_verbs_do(group, width):
    assert "..." not in help_of(*group, width=width).replace("[ARGS]...", "")


@every_verb
def test_help_shows_examples_that_are_understood(words, command):
    shown = help_of(*words).partition("\nExamples:\n")[2]
    called = re.findall(r"profiles-schema ([^|>)#\n]*)", shown)
    assert called
    for line in called:
        arguments = shlex.split(line.rstrip('" '))
        assert arguments[: len(words)] == words or isinstance(command, click.Group), line
        below = command
        rest = arguments[1:]
        if isinstance(command, click.Group):
            below, rest = command.get_command(click.Context(command), rest[0]), rest[1:]
        elif len(words) == 2:
            rest = rest[1:]
        with CliRunner(env={"PROFILES_REHEARSE_SOURCE": "local"}).isolation():
            below.make_context(arguments[0], rest)


@pytest.mark.parametrize("words", [[], ["keys"]])
def test_without_a_verb_the_help_is_shown_and_called_no_error(words):
    done = CliRunner().invoke(cli.profiles_schema, [*words, "--help"])
    shown = profiles_schema(None, *words)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("Usage: ")
    assert "error" not in shown.stderr
    assert shown.stderr.count("\nExamples:\n") == done.output.count("\nExamples:\n") == 1


def test_help_of_upgrade_lists_every_key_of_x_with_its_meaning():
    section = help_of("upgrade").partition("after -x:\n")[2].partition("Examples:")[0]
    rows = dict(re.findall(r"^  ([a-z-]+)=\S+ +(\S.*)", section, flags=re.MULTILINE))
    assert set(rows) == set(options.parse(()).values)


def test_every_verb_that_takes_local_takes_a_url_and_warns_of_it():
    found = 0
    for words, command in COMMANDS:
        names = {name for param in command.params for name in param.opts}
        if "--local" in names:
            found += 1
            assert "--database-url" in names, words
            assert "Prefer the variable DATABASE_URL" in re.sub(r"\s+", " ", help_of(*words)), words
    assert found > 15


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (["healt"], "Did you mean health?"),
        (["upgrad"], "Did you mean upgrade?"),
        (["jobs", "puase"], "Did you mean pause?"),
        (["health", "--ful"], "--full"),
        (["backfill", "--batch-sizes", "5"], "--batch-size"),
    ],
)
def test_a_misspelt_verb_or_option_gets_a_guess(arguments, guess):
    code, _, said = run("", *arguments)
    assert code == 2
    assert guess in said


def test_a_wrong_command_line_is_answered_like_every_other_error():
    code, out, said = run("", "healt")
    assert (code, out) == (2, "")
    assert said.endswith('\n\nerror: There is no verb "healt". Did you mean health?\n')


def test_something_that_is_like_no_verb_gets_none():
    code, _, said = run("", "xyzzy")
    assert code == 2
    assert "Did you mean" not in said


# Colour


@pytest.mark.slow
def test_a_terminal_shows_problems_in_red_and_a_pipe_shows_plain_text(database):
    database.script("drop trigger profiles_on_auth_user_created on auth.users")
    shown = in_terminal(database.url, "health")
    assert "\x1b[31m\x1b[1mproblem   \x1b[0m The trigger" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert run(database.url, "health")[1] == plain
    assert "\x1b" not in in_terminal(database.url, "health", NO_COLOR="1")


def test_an_error_is_red_on_a_terminal():
    assert "\x1b[31m\x1b[1merror:\x1b[0m" in in_terminal("", "health")


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [({}, None), ({"NO_COLOR": ""}, None), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colour_is_left_to_the_terminal_unless_it_is_refused(monkeypatch, environment, wanted):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert style.colour() is wanted


def test_the_shell_completes_verbs_and_options():
    line = re.search(r"^ *(eval .*bash_source.*)", help_of(), flags=re.MULTILINE)[1].partition("    #")[0]
    asked = (
        f'PATH="{Path(sys.executable).parent}:$PATH"; {line}; complete -p profiles-schema;'
        " COMP_WORDS=(profiles-schema heal) COMP_CWORD=1; _profiles_schema_completion profiles-schema; echo ${COMPREPLY[*]};"
        " COMPREPLY=(); COMP_WORDS=(profiles-schema backfill --max) COMP_CWORD=2; _profiles_schema_completion profiles-schema;"
        " echo ${COMPREPLY[*]}"
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[1:] == ["health", "--max-rate"], done


def test_the_version_is_that_of_the_package():
    code, out, _ = run("", "--version")
    assert (code, out) == (0, f"profiles-schema, version {version('profiles-schema')}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["backfill", "--help"], ["--version"]])
def test_help_loads_neither_a_driver_nor_what_draws_bars(arguments):
    program = (
        f"import sys; from profiles_schema.cli import main; main({arguments}); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stderr.split()}.isdisjoint({"rich", "sqlalchemy", "psycopg2"})


# Which database


def test_database_url_on_the_command_line_wins_over_the_environment(database):
    code, out, _ = run("postgresql://127.0.0.1:1/nowhere", "current", "--database-url", database.url)
    assert (code, out) == (0, f"{HEAD} (head)\n")
    code, out, _ = run("postgresql://127.0.0.1:1/nowhere", "health", "--database-url", database.url)
    assert code == 0, out


@pytest.mark.parametrize("verb", [["current"], ["health"], ["jobs", "pause", "1"]])
def test_local_and_a_url_together_are_a_usage_error(verb):
    code, out, said = run("", *verb, "--local", "--database-url", "postgresql://ada:hunter2secret@db/app")
    assert (code, out) == (2, "")
    assert said == "error: --local and --database-url name two databases. Give one of them.\n"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://ada:hunter2secret@127.0.0.1:1/app", 3),
        ("mysql://ada:hunter2secret@db/app", 2),
        ("postgresql://ada:hunter2secret%@db/app", 2),
        ("hunter2secret", 2),
    ],
)
@pytest.mark.parametrize("verb", ["upgrade", "health"])
def test_an_error_names_the_option_and_never_its_password(verb, url, code):
    found, out, said = run("", verb, "--database-url", url)
    assert found == code, said
    assert "hunter2secret" not in out + said
    assert "DATABASE_URL" not in said
    assert "--database-url" in said


# JSON of upgrade and downgrade


def test_upgrade_and_downgrade_print_what_they_did_as_json(database):
    user = database.sign_up("ada@example.org")
    before = {"users": 1, "profiles": 1, "missing": 0, "about": False}
    code, out, said = run(database.url, "downgrade", "-1", "--json")
    assert code == 0, said
    down = json.loads(out)
    below = down["to"]
    assert (down["from"], down["at_head"], down["before"], down["after"]) == (HEAD, False, before, before)
    assert [(each["revision"], each["direction"]) for each in down["revisions"]] == [(HEAD, "downgrade")]
    database.script("alter table auth.users disable trigger profiles_on_auth_user_created")
    database.sign_up("grace@example.org")
    database.script("alter table auth.users enable trigger profiles_on_auth_user_created")
    up = json.loads(run(database.url, "upgrade", "--json")[1])
    assert (up["from"], up["to"], up["at_head"]) == (below, HEAD, True)
    assert up["after"] == {"users": 2, "profiles": 1, "missing": 1, "about": False}
    assert up["seconds"] >= up["revisions"][0]["seconds"] > 0
    again = json.loads(run(database.url, "upgrade", "--json")[1])
    assert (again["from"], again["to"], again["revisions"]) == (HEAD, HEAD, [])
    assert database.profile(user) is not None


def test_upgrade_of_an_empty_database_comes_from_nothing(empty):
    told = json.loads(run(empty.url, "upgrade", "0005_create_sign_up_functions", "--json")[1])
    assert (told["from"], told["to"], told["at_head"]) == (None, "0005_create_sign_up_functions", False)


def test_sql_and_json_together_are_a_usage_error():
    code, out, said = run("", "upgrade", "--sql", "--json")
    assert (code, out) == (2, "")
    assert said.startswith("error: --sql prints SQL")


# A standby

USER = "00000000-0000-4000-8000-000000000001"
READING = [
    ["health"], ["health", "--full"], ["current"], ["history"], ["check"], ["jobs", "list"], ["settings", "get"], ["keys", "status"],
    ["normalize", "status"], ["normalize", "verify"], ["stamp", "--verify"], ["progress", "recount", "--dry-run"], ["exports", "list"],
    ["users", "erase", "--check"], ["audit", "purge", "--dry-run"], ["users", "prune", "--inactive-since", "3y", "--dry-run"],
]  # fmt: skip
WRITING = [
    ["upgrade"], ["downgrade", "-1"], ["smoke"], ["backfill"], ["backfill", "--dry-run"],
    ["progress", "recount"], ["repair"], ["repair", "--dry-run"], ["stamp"],
    ["jobs", "pause", "1"], ["jobs", "resume", "1"], ["jobs", "cancel", "1"], ["settings", "set", "audit_level", "all"],
    ["keys", "encrypt"], ["keys", "encrypt", "--dry-run"], ["keys", "rotate"], ["keys", "rotate", "--dry-run"], ["keys", "validate"], ["normalize", "run"], ["normalize", "run", "--dry-run"],
    ["normalize", "restore"], ["normalize", "contract"], ["adopt", "--dry-run"],
    ["exports", "work", "--once", "--storage", "files"], ["exports", "purge", "--storage", "files"],
    ["users", "export", USER], ["users", "erase", USER, "--yes"], ["users", "erase", "--pending", "--yes"],
    ["users", "prune", "--anonymous", "--older-than", "30d", "--yes"], ["users", "unregister", "posts"],
    ["users", "register", "posts", "--user-column", "author_id", "--on-erase", "delete"], ["audit", "purge"],
]  # fmt: skip
KEY = "test:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


def test_the_lists_of_reading_and_writing_verbs_are_complete():
    tried = {tuple(word for word in words if not word.startswith("-"))[:2] for words in READING + WRITING}
    for words, command in COMMANDS:
        if not isinstance(command, click.Group) and words[0] not in {"local", "rehearse"} and words[1:] != ["generate"]:
            assert any(each[: len(words)] == tuple(words) for each in tried), words


def test_a_read_only_database_is_read_and_every_verb_that_writes_refuses_in_one_sentence(database):
    database.run(f'alter database "{database.name}" set default_transaction_read_only = on')
    for words in READING:
        code, _, said = run(database.url, *words, PROFILES_ENCRYPTION_KEYS=KEY)
        assert code == 0, (words, said)
    for words in WRITING:
        code, out, said = run(database.url, *words, PROFILES_ENCRYPTION_KEYS=KEY)
        assert (code, out) == (1, ""), (words, said)
        assert said.startswith("error: This database is read-only: default_transaction_read_only is on."), (words, said)
        assert said.endswith("Run it on the primary, or set it off.\n"), (words, said)
        assert said.count("\n") == 1, (words, said)
