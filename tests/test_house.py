"""The rules of the house: floors, errors, a cheap import, and what the wheel carries."""

import inspect
import re
import subprocess
import sys
import tomllib
import zipfile

import click
import pytest

from profiles_schema import cli, errors
from profiles_schema.errors import ProfilesSchemaError
from support import REPOSITORY

ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
]


def run(*arguments):
    return subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)


def test_each_floor_imports_lower_floors_only():
    pytest.importorskip("importlinter")
    # By its script: the package has no __main__.
    done = run(sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Floors KEPT" in done.stdout


def test_the_floors_of_contributing_are_those_that_are_enforced():
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        (contract,) = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    enforced = [layer.split(" | ") for layer in contract["layers"]]
    rows = re.findall(
        r"^\| (\d) \| (`.+?`) \|", (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [re.findall(r"`(.+?)`", modules) for _, modules in rows] == enforced
    assert [int(floor) for floor, _ in rows] == list(reversed(range(len(enforced))))


def test_the_package_is_imported_without_its_dependencies():
    program = (
        "import sys; import profiles_schema;"
        "print(sorted({'sqlalchemy', 'alembic', 'click', 'psycopg2', 'pydantic', 'cryptography'} & {m.partition('.')[0] for m in sys.modules}))"
    )
    done = run(sys.executable, "-X", "importtime", "-c", program)
    assert done.stdout == "[]\n", done.stderr


def verbs(group, context, *above):
    for name in group.list_commands(context):
        verb = group.get_command(context, name)
        if isinstance(verb, click.Group):
            yield from verbs(verb, context, *above, name)
        else:
            yield " ".join([*above, name])


def test_every_verb_is_documented():
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    documented = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    found = list(verbs(cli.profiles_schema, click.Context(cli.profiles_schema)))
    assert len(found) >= 10
    assert [verb for verb in found if not re.search(rf"(profiles-schema |`){verb}\b", documented)] == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_states_the_fact_in_whole_sentences(error):
    assert issubclass(error, ProfilesSchemaError)
    assert "__doc__" in vars(error)
    message = str(error())
    assert message[0].isupper()
    # What one is to type stands last, after a colon and without a full stop.
    assert message.endswith(".") != bool(re.search(r"[a-z]: [a-z][^.]*$", message))
    assert "  " not in message
    assert "\n" not in message
    assert str(error("this instead")) == "this instead"


def test_an_error_exits_as_the_command_line_documents():
    assert {error.__name__: error.exit_code for error in ERRORS if error.exit_code not in {1, 2, 3}} == {}
    assert ProfilesSchemaError.exit_code == 1
    for error in ERRORS:
        if issubclass(error, errors.UsageError):
            assert error.exit_code == 2, error
        if issubclass(error, errors.NoDatabase):
            assert error.exit_code == 3, error


def test_the_wheel_carries_the_history_and_the_sql_and_shadows_nothing(tmp_path):
    # Without isolation: a new environment would fetch hatchling, and the tests need no network.
    done = run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation",
        "--wheel-dir", str(tmp_path), str(REPOSITORY),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"profiles_schema"}
    for source, target in (("alembic", "profiles_schema/migrations/history"), ("profiles_schema/schema/sql",) * 2):
        carried = {
            f"{target}/{path.relative_to(REPOSITORY / source).as_posix()}"
            for path in (REPOSITORY / source).rglob("*")
            if path.suffix in {".py", ".sql", ".mako"}
        }
        assert len(carried) > 10
        assert carried <= names
    assert {"profiles_schema/py.typed", "profiles_schema/schema/trait_columns.csv"} <= names
    assert not [name for name in names if name.endswith(".pyc") or "/tests/" in name]
