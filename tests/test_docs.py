"""The documentation says what is so."""

import ast
import contextlib
import datetime as dt
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import uuid
from decimal import Decimal
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from profiles_schema import UserProfile, cli, errors, metadata, operations
from profiles_schema.migrations import options, paths, standing
from profiles_schema.operations import health, user_exports
from profiles_schema.operations.smoke import smoke
from profiles_schema.schema import objects, personal_data
from profiles_schema.schema.models import privacy
from profiles_schema.schema.models.typed_group import TypedGroup
from profiles_schema.schema.trait_models import GROUPS
from support import REPOSITORY, profiles_schema

PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob(".github/**/*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("benchmarks/*.md"),
        *REPOSITORY.glob("examples/*/*.md"),
    ]
)
DOCS = REPOSITORY / "docs"
REFERENCE = DOCS / "reference" / "commands.md"
TUTORIAL = DOCS / "tutorial" / "your-first-profile.md"
EXAMPLE = REPOSITORY / "examples" / "downstream"


def text(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


def code_blocks(page):
    return re.findall(r"^```\w*\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def table_after(page, heading):
    """The first cells of the first table after a heading, without the header."""
    rows = re.search(
        rf"^{re.escape(heading)}\n.*?\n\|---[^\n]*\n(.*?)(?:\n\n|\Z)", page, flags=re.DOTALL | re.MULTILINE
    )
    assert rows, heading
    return [row.split("|")[1].strip() for row in rows[1].splitlines()]


def help_of(*words):
    done = CliRunner().invoke(
        cli.profiles_schema, [*words, "--help"], prog_name="profiles-schema", terminal_width=100, color=False
    )
    assert done.exit_code == 0, done.output
    return done.output.strip()


def written_reference():
    """docs/reference/commands.md as it has to be."""
    parts = [
        "# Commands",
        "This page is `profiles-schema --help`, verb by verb. `make docs` writes it. Exit codes, output and shell completion:"
        " [How the command line behaves](command-line.md).",
        f"```text\n{help_of()}\n```",
    ]
    for verb in cli.VERBS:
        parts += [f"## {verb}", f"```text\n{help_of(verb)}\n```"]
        command = cli.profiles_schema.get_command(click.Context(cli.profiles_schema), verb)
        for word in sorted(getattr(command, "commands", ())):
            parts += [f"### {verb} {word}", f"```text\n{help_of(verb, word)}\n```"]
    return "\n\n".join(parts) + "\n"


def test_the_reference_is_what_help_says(request):
    if request.config.getoption("--update-docs"):
        REFERENCE.write_text(written_reference(), encoding="utf-8")
    assert REFERENCE.read_text(encoding="utf-8") == written_reference(), "run: make docs"


def written_inventory():
    """The tables of docs/reference/personal-data.md: what every column is of a person, and what an erasure does with it."""
    parts = []
    for table in sorted(metadata.tables.values(), key=lambda each: (each.schema or "public", each.name)):
        rows = {}
        for column in table.columns:
            rows.setdefault((column.info["personal"] or "-", column.info["on_erase"]), []).append(f"`{column.name}`")
        parts += [f"## {table.schema or 'public'}.{table.name}", "| columns | personal | on erasure |\n|---|---|---|"]
        parts[-1] += "".join(f"\n| {', '.join(names)} | {kind} | {what} |" for (kind, what), names in rows.items())
    return "\n\n".join(parts) + "\n"


INVENTORY = "<!-- The rest is made from the models: make docs -->\n\n"


def test_the_inventory_of_personal_data_is_that_of_the_models(request):
    path = DOCS / "reference" / "personal-data.md"
    prose, mark, written = path.read_text(encoding="utf-8").partition(INVENTORY)
    assert mark
    if request.config.getoption("--update-docs"):
        path.write_text(prose + mark + written_inventory(), encoding="utf-8")
        written = written_inventory()
    assert written == written_inventory(), "run: make docs"
    for kind in privacy.KINDS:
        assert f"| {kind} | {privacy.KINDS[kind]} |" in prose


JSON_TYPES = {
    int: ["integer"], bool: ["boolean"], str: ["string"], list: ["array"], Decimal: ["number", "string"], float: ["number"],
}  # fmt: skip


def json_schema_of(column):
    """What JSON holds of a column in an export."""
    if column.info["personal"] == "secret":
        return {"enum": ["encrypted", None], "description": "Whether there is one; the key itself is not handed over."}
    if isinstance(column.type, JSONB):
        return {}
    try:
        kind = column.type.python_type
    except NotImplementedError:
        kind = str
    schema = {"type": [*JSON_TYPES.get(kind, ["string"]), *(["null"] if column.nullable else [])]}
    formats = {uuid.UUID: "uuid", dt.datetime: "date-time", dt.date: "date"}
    if kind in formats:
        schema["format"] = formats[kind]
    if column.comment:
        schema["description"] = column.comment
    return schema


def written_export_schema():
    """docs/reference/user-export.schema.json as it has to be."""
    tables = {}
    for person in personal_data.TABLES:
        tables[person.name] = {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {column.name: json_schema_of(column) for column in person.table.columns},
                "required": [person.user_column],
            },
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "profiles-schema users export",
        "description": "Everything that is a person's. Tables without rows are left out; those of the application are arrays of"
        " objects with the columns that were registered.",
        "type": "object",
        "required": ["format", "user_id", "exported_at", "tables"],
        "additionalProperties": False,
        "properties": {
            "format": {"const": user_exports.FORMAT},
            "user_id": {"type": "string", "format": "uuid"},
            "exported_at": {"type": "string", "format": "date-time"},
            "tables": {
                "type": "object",
                "properties": tables,
                "additionalProperties": {"type": "array", "items": {"type": "object"}},
            },
        },
    }


def test_the_schema_of_exports_is_that_of_the_models(request):
    path = REPOSITORY / "docs" / "reference" / "user-export.schema.json"
    wanted = json.dumps(written_export_schema(), indent=2, ensure_ascii=False) + "\n"
    if request.config.getoption("--update-docs"):
        path.write_text(wanted, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == wanted, "run: make docs"


def test_the_readme_begins_with_make_up_and_make_test():
    commands = [line.partition("#")[0].strip() for line in code_blocks(text("README.md"))[0].splitlines()]
    assert commands == ["make up", "make test"]


def test_the_readme_names_every_verb_and_no_page_names_another():
    listed = re.search(r"^## Commands\n\n(.*?)\.\n", text("README.md"), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"`(\w+)`", listed[1]) == list(cli.VERBS)
    for page in PAGES:
        called = re.findall(
            r"(?:^|`|&& |\$ )profiles-schema ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        assert set(called) <= set(cli.VERBS), page.name


@pytest.mark.parametrize("page", ["docs/reference/functions.md", "docs/explanation/security.md"])
def test_the_tables_of_functions_name_every_callable_function(page):
    documented = {cell.strip("`").partition("(")[0].lstrip("`") for cell in table_after(text(page), "## Functions")}
    assert documented == {o.name.removeprefix("public.") for o in objects.FUNCTIONS if o.name.startswith("public.")}


def test_every_migration_option_is_documented_and_no_other():
    described = set(re.findall(r"-x ([a-z-]+)=", text("docs/reference/migration-options.md")))
    assert described == set(options.parse(()).values)
    for page in PAGES:
        assert set(re.findall(r"-x ([a-z-]+)=", page.read_text(encoding="utf-8"))) <= described, page.name


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), flags=re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert named <= targets, page.name


def anchors(path):
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        # The site has the pages of docs/ only.
        assert not page.is_relative_to(DOCS) or found.is_relative_to(DOCS), target
        if anchor:
            assert anchor in anchors(found), target


@pytest.mark.parametrize("table", [t for t in metadata.sorted_tables if t.schema is None], ids=lambda table: table.name)
def test_every_column_and_index_is_documented(table):
    page = text("docs/reference/tables.md")
    section = re.search(rf"^## {table.name}\n(.*?)(?=^## |\Z)", page, flags=re.DOTALL | re.MULTILINE)[1]
    documented = re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE)
    columns = [column.name for column in table.columns]
    assert documented[: len(columns)] == columns
    unique = {c.name for c in table.constraints if type(c).__name__ in {"PrimaryKeyConstraint", "UniqueConstraint"}}
    assert set(documented[len(columns) :]) == {index.name for index in table.indexes} | unique


def test_every_finding_of_health_is_documented():
    # Its first argument, or the third of the helper for what can be accepted.
    place = {"problem": 0, "notice": 0, "Obstacle": 0, "_opening": 2}
    codes = {
        node.args[place[node.func.id]].value
        for path in [*Path(operations.__file__).parent.rglob("*.py"), Path(standing.__file__)]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in place
        and isinstance(node.args[place[node.func.id]], ast.Constant)
    }  # fmt: skip
    assert {
        cell.strip("`") for cell in table_after(text("docs/how-to/diagnose-a-health-finding.md"), "## Findings")
    } == codes


def pages_of_the_site(part):
    for entry in part:
        if isinstance(entry, str):
            yield entry
        else:
            (below,) = entry.values()
            yield from [below] if isinstance(below, str) else pages_of_the_site(below)


def test_every_page_is_in_the_navigation_and_in_the_index():
    pages = sorted(str(page.relative_to(DOCS)) for page in DOCS.glob("**/*.md"))
    assert sorted(pages_of_the_site(tomllib.loads(text("zensical.toml"))["project"]["nav"])) == pages
    linked = re.findall(r"\]\(([a-z/-]+\.md)\)", text("docs/index.md"))
    assert sorted([*linked, "index.md"]) == pages


def test_what_the_code_says_about_a_page_is_there():
    named = set()
    for root in ("profiles_schema", "alembic", "examples", "scripts", "tests"):
        for path in (REPOSITORY / root).rglob("*"):
            if path.suffix in {".py", ".sql", ".mako"}:
                said = path.read_text(encoding="utf-8")
                named |= set(re.findall(r"\bdocs/([\w/-]+\.md)(?:, ([A-Z][a-z ]+[a-z]))?", said))
    assert len(named) >= 5
    for page, heading in named:
        assert (DOCS / page).exists(), page
        assert not heading or heading.lower().replace(" ", "-") in anchors(DOCS / page), (page, heading)


def test_files_that_the_pages_name_exist():
    roots = "|".join(
        sorted(path.name for path in REPOSITORY.iterdir() if path.is_dir() and not path.name.startswith("."))
    )
    for page in DOCS.glob("**/*.md"):
        for name in re.findall(rf"`((?:{roots})/[\w./*-]+|[A-Z]+\.md)`", page.read_text(encoding="utf-8")):
            assert any(REPOSITORY.glob(name)), (page.name, name)


# Words that the pages used to be full of, and that made readers stop. STYLE: subject, verb, object; the field's own words.
RIDDLES = re.compile(
    r"\b(who|what|where|when)ever\b|\bbeside\b|\bin vain\b|\b(no|some)body\b|\bof ours\b|\bthe own\b|\bgoes its way\b|\blet be\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_pages_are_plain_english(page):
    if page == REFERENCE:
        return  # --help has the say there
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert [line for line in prose.splitlines() if RIDDLES.search(line)] == []


def writable_columns(page, heading_level="##"):
    for name, rows in re.findall(rf"^{heading_level} (\w+)\n(.*?)(?=^## |\Z)", page, flags=re.DOTALL | re.MULTILINE):
        for column, rights in re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| ([a-z, ]+) \|.*\|$", rows, flags=re.MULTILINE):
            for right in rights.split(", "):
                yield name, column, right.upper()


def test_the_columns_that_a_user_may_write_are_documented(database):
    granted = {
        tuple(row)
        for row in database.run(
            "select table_name, column_name, privilege_type from information_schema.column_privileges"
            " where table_schema = 'public' and grantee = 'authenticated' and privilege_type in ('INSERT', 'UPDATE')"
        )
    }
    page = text("docs/reference/tables.md")
    assert set(writable_columns(page)) == granted
    updates = [column for table, column, right in granted if (table, right) == ("user_profiles", "UPDATE")]
    assert f"update {len(updates)} columns" in page
    listed = {
        (table, column, right)
        for table, *cells in re.findall(r"^\| `(user_\w+|export_history)` \| ([^|]*) \| ([^|]*) \|$", security_columns(), flags=re.MULTILINE)
        for right, cell in zip(("INSERT", "UPDATE"), cells, strict=True)
        for column in re.findall(r"`(\w+)`", cell + (cells[1] if "four at the right" in cell else ""))
    }  # fmt: skip
    assert listed == granted


def security_columns():
    section = r"^## Columns a user may write\n(.*?)(?=^## )"
    return re.search(section, text("docs/explanation/security.md"), flags=re.DOTALL | re.MULTILINE)[1]


def test_every_internal_table_is_documented():
    documented = {cell.strip("`") for cell in table_after(text("docs/reference/tables.md"), "## profiles_internal")}
    assert documented == {t.name for t in metadata.sorted_tables if t.schema == "profiles_internal"} | {
        "alembic_version"
    }


def shown(sample):
    """A pattern for what a sample shows: … is any number of lines, and no machine is as fast as another."""
    lines = ["(?:.*\n)*?" if line == "…" else re.escape(line) + "\n" for line in sample.strip("\n").splitlines()]
    return re.sub(r"locked\\ for\\ [^:]*:", "locked for [^:]*:", "".join(lines))


def run_page(page, database, known, environment=None):
    """Do what a page says, block after block: its Python, and its commands, whose output it shows."""
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(block, known)
            promised = re.findall(r"^ *print\(.*\)  # (.+)$", block, flags=re.MULTILINE)
            assert out.getvalue().splitlines()[: len(promised)] == promised
        elif language == "text":
            for command, sample in re.findall(
                r"^\$ profiles-schema (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE
            ):
                done = profiles_schema(database.url, *command.split(), environment=environment)
                printed = re.sub(r" +$", "", done.stdout, flags=re.MULTILINE)
                assert re.fullmatch(shown(sample), printed), (command, done.stdout, done.stderr)
                yield command


@pytest.mark.slow
def test_the_tutorial_happens_as_it_says(database, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database.url)
    known = {}
    commands = list(run_page(TUTORIAL.read_text(encoding="utf-8"), database, known))
    known["database"].dispose()
    assert commands == ["health", "health", "repair", "backfill", "health"]
    assert [row.username for row in database.run("select username from user_profiles order by 1")] == ["ada", "bob"]


def test_the_first_line_of_application_code_in_the_readme_runs(database, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database.url)
    known = {}
    assert list(run_page(text("README.md"), database, known)) == []
    assert database.value("select username from user_profiles") == "ada"


def test_the_sample_of_health_is_what_it_prints(database):
    for name in ("ada", "bob", "cleo"):
        database.sign_up(f"{name}@example.org")
    database.run("alter table auth.users disable trigger profiles_on_auth_user_created")
    database.sign_up("dan@example.org")
    assert list(run_page(text("docs/how-to/diagnose-a-health-finding.md"), database, {})) == ["health"]


def test_the_samples_of_an_adoption_are_what_it_prints_and_writes(hosted, tmp_path, monkeypatch):
    hosted.script(text("examples/adopt/application.sql"))
    page = text("docs/how-to/adopt-existing-tables.md")
    monkeypatch.chdir(tmp_path)
    assert profiles_schema(hosted.url, "adopt", "--dry-run", "--write-answers", "adopt.toml").returncode == 1
    asked = Path("adopt.toml").read_text(encoding="utf-8")
    assert re.search(shown(re.search(r"^```toml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)[1]), asked)
    answered = re.sub(r'^("policy:.*) = ""$', r'\1 = "keep"', asked, flags=re.MULTILINE)
    answered = re.sub(r'^("quarantine:.*) = ""$', r'\1 = "quarantine"', answered, flags=re.MULTILINE)
    Path("adopt.toml").write_text(answered, encoding="utf-8")
    assert list(run_page(page, hosted, {}, {"COLUMNS": "100"})) == ["adopt --dry-run -x answers=adopt.toml"]


def test_the_sample_of_keys_is_what_it_prints(empty):
    empty.script(
        "create table user_api_keys (user_id uuid primary key default gen_random_uuid(),"
        " openai_api_key text, unsplash_api_key text, anthropic_api_key text);"
        "insert into user_api_keys (openai_api_key) select case when n <= 88 then 'sk-' || n end from generate_series(1, 100) n"
    )
    ring = profiles_schema(empty.url, "keys", "generate", "--id", "k20261121-7f3a").stdout.strip()
    environment = {"PROFILES_ENCRYPTION_KEYS": ring}
    assert profiles_schema(empty.url, "keys", "encrypt", environment=environment).returncode == 0
    empty.run(
        "update user_api_keys set unsplash_api_key = 'plain' where user_id in (select user_id from user_api_keys limit 3)"
    )
    page = text("docs/how-to/encrypt-api-keys.md")
    assert list(run_page(page, empty, {}, environment)) == ["keys status"]


def test_the_sample_of_a_backfill_has_the_form_of_what_it_prints(database):
    page = text("docs/how-to/create-missing-profiles.md")
    for name in ("ada", "bob", "cleo"):
        database.sign_up(f"{name}@example.org")
    database.run("delete from user_profiles")

    def form(output):
        return re.sub(r"\d+", "1", output)

    samples = re.findall(r"^\$ profiles-schema (.*)\n((?:(?!\$ |```).*\n)*)", page, flags=re.MULTILINE)
    commands = [command for command, _ in samples]
    assert commands == ["backfill --dry-run", "backfill", "jobs list", "backfill", "health --full"]
    for command, sample in (samples[0], samples[3]):
        assert re.fullmatch(shown(form(sample)), form(profiles_schema(database.url, *command.split()).stdout))
    jobs = profiles_schema(database.url, "jobs", "list").stdout
    assert jobs.splitlines()[0].split() == samples[2][1].splitlines()[0].split()
    health_lines = profiles_schema(database.url, "health", "--full").stdout.splitlines()
    assert {form(line) for line in samples[4][1].splitlines()} <= {form(line) for line in health_lines}


def test_the_sample_of_a_standby_is_what_it_prints(database):
    sample = re.search(
        r"^\$ profiles-schema backfill\n(error: .*)$", text("docs/how-to/monitor-a-database.md"), flags=re.MULTILINE
    )[1]
    assert sample == f"error: {errors.ReadOnlyServer.__doc__}"


def sample_outputs():
    for page in PAGES:
        for block in re.findall(
            r"^```text\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        ):
            yield page.name, block


def test_sample_output_shows_the_present_head_and_counts(database):
    revisions = sorted(path.stem for path in paths.versions().glob("[0-9]*.py"))
    with database.engine.connect() as connection:
        triggers = len(health.examine(connection).triggers)
        connection.rollback()
        steps = len(list(smoke(connection)))
    seen = set()
    for page, block in sample_outputs():
        for pattern, right in (
            (r"(?:^revision +|newest revision, )(\d\w+)", {revisions[-1]}),
            (r"^triggers +\d+ of (\d+) installed", {str(triggers)}),
            (r"^smoke: \d+ of (\d+) passed|; smoke \d+ of (\d+)", {str(steps), str(steps - 1)}),  # one less when hosted
            (r"(\d+) revisions", {str(len(revisions))}),
        ):
            for found in re.finditer(pattern, block, flags=re.MULTILINE):
                seen.add(pattern)
                assert next(filter(None, found.groups())) in right, (page, found[0])
    assert len(seen) == 4


def test_an_error_is_named_with_its_module():
    names = {name for name, value in vars(errors).items() if isinstance(value, type)}
    for page in PAGES:
        named = set(re.findall(r"`(?:profiles_schema\.errors\.)?(\w+)`", page.read_text(encoding="utf-8"))) & names
        if named and page.name != "CONTRIBUTING.md":  # which is about names
            assert "profiles_schema.errors" in page.read_text(encoding="utf-8"), (page.name, named)


def test_every_revision_is_in_the_table_of_locks():
    listed = [cell.strip("`") for cell in table_after(text("docs/reference/revisions.md"), "## Locks of each revision")]
    assert listed == sorted(path.stem for path in paths.versions().glob("[0-9]*.py"))


def test_every_dependency_has_its_reason():
    declared = text("pyproject.toml")
    names = set(re.findall(r'^\s*"([a-z0-9.-]+)(?:\[[a-z,]+\])?[>=<]', declared, flags=re.MULTILINE))
    names |= set(re.findall(r'^(?:local|requires) = \["([a-z0-9-]+)[>=<]', declared, flags=re.MULTILINE))
    explained = {name for cell in table_after(text("CONTRIBUTING.md"), "## Dependencies") for name in cell.split(", ")}
    assert explained == names


def test_the_examples_of_traits_run_one_after_another(database):
    user = database.sign_up("ada@example.org")
    with Session(database.engine) as session, session.begin():
        known = {"session": session, "profile": session.scalars(select(UserProfile)).one()}
        for example in re.findall(
            r"^```python\n(.*?)^```", text("docs/how-to/read-and-write-traits.md"), flags=re.DOTALL | re.MULTILINE
        ):
            exec(example, known)
    row = database.profile(user)
    assert row.personality_traits == {"bigFive": {"openness": 72}}
    assert row.analysis_summary == {"sentiment": {"overall": "warm"}}
    assert row.metadata == {"example.org": {"visits": 3}}
    assert row.cultural_attributes == {"communicationStyle": "direct"}


def test_every_typed_group_is_documented():
    rows = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \|$", text("docs/how-to/read-and-write-traits.md"), flags=re.MULTILINE
    )
    typed = {name: group.group for name, group in vars(UserProfile).items() if isinstance(group, TypedGroup)}
    assert {attribute: column for attribute, _, column in rows} == typed
    assert {column: model for _, model, column in rows} == {group: model.__name__ for group, model in GROUPS.items()}


@pytest.fixture
def application(empty, tmp_path):
    """A copy of the example, on an empty database; a function that runs its alembic."""
    copy = shutil.copytree(EXAMPLE, tmp_path / "downstream", ignore=shutil.ignore_patterns("__pycache__"))
    ini = copy / "alembic.ini"
    # The example names our revisions as they lie in an installed wheel; here they lie in the checkout.
    in_wheel = "profiles_schema.migrations:history/versions"
    assert in_wheel in ini.read_text(encoding="utf-8")
    ini.write_text(ini.read_text(encoding="utf-8").replace(in_wheel, str(paths.versions())), encoding="utf-8")

    def alembic(*arguments):
        alembic.directory = copy
        return subprocess.run(
            [sys.executable, "-m", "alembic", *arguments], cwd=copy, capture_output=True, text=True, timeout=120,
            check=False, env=os.environ | {"DATABASE_URL": empty.url},
        )  # fmt: skip

    return alembic


@pytest.mark.slow
def test_the_example_keeps_one_history_with_ours(application, empty):
    done = application("upgrade", "heads")
    assert done.returncode == 0, done.stderr
    user = empty.sign_up("ada@example.org")
    empty.run("insert into posts (author_id, title) values (:author, 'Notes')", author=str(user))
    empty.run("delete from auth.users where id = :user", user=user)
    assert empty.value("select count(*) from posts") == 0
    done = application("check")
    assert done.returncode == 0, done.stderr
    empty.script(f'alter role postgres in database "{empty.name}" set search_path = "$user"')
    done = application("check")
    assert done.returncode == 0, done.stderr
    empty.script(f'alter role postgres in database "{empty.name}" reset search_path')
    done = application("downgrade", "app@base")
    assert done.returncode == 0, done.stderr
    assert empty.value("select to_regclass('public.posts') is null and to_regclass('public.user_profiles') is not null")


@pytest.mark.slow
def test_the_documented_commands_make_the_first_revision_of_an_application_and_the_next(application, empty):
    assert application("upgrade", "0022_keep_old_names").returncode == 0
    directory = application.directory
    ours = sorted(paths.versions().glob("*.py"))
    (directory / "migrations" / "versions" / "app_0001_create_posts.py").unlink()

    def revise(message):
        made = application("revision", "--autogenerate", "-m", message)
        assert made.returncode == 0, made.stderr
        done = application("upgrade", "heads")
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "At head (0001_create_posts)" in revise("create posts")
    models = directory / "models.py"
    text = models.read_text(encoding="utf-8")
    models.write_text(text + "    body: Mapped[str | None] = mapped_column(Text)\n", encoding="utf-8")
    assert "At head (0002_add_body)" in revise("add body")
    assert sorted(path.name for path in (directory / "migrations" / "versions").glob("*.py")) == [
        "0001_create_posts.py", "0002_add_body.py",
    ]  # fmt: skip
    assert sorted(paths.versions().glob("*.py")) == ours
    assert application("check").returncode == 0
    for verb in ("current", "check", "upgrade"):
        done = profiles_schema(empty.url, verb)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            "error: The database is at revision 0002_add_body of an application that keeps our revisions in its own history. "
            "Use the application's `alembic` for upgrade, downgrade, current and check."
        )
    models.write_text(text.replace("ForeignKey(UserProfile.id", 'ForeignKey("user_profiles.id"'), encoding="utf-8")
    done = application("check")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "ForeignKey(UserProfile.id), from profiles_schema import UserProfile." in done.stderr
    behind = application("downgrade", "app@base")
    assert behind.returncode == 0, behind.stderr
    models.write_text(text, encoding="utf-8")
    assert "Run `upgrade heads` first." in application("check").stderr
