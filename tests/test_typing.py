"""An application's type checker accepts what the documentation shows, and finds what is misspelt."""

import re

import pytest
from mypy import api

from support import REPOSITORY

KNOWN = """\
from sqlalchemy.orm import Session

from profiles_schema import UserProfile

session = Session()
profile = UserProfile()
"""
WRONG = """\
from profiles_schema.traits import BigFive, PersonalityTraits

BigFive(opennes=71)
BigFive(openness=[71])
PersonalityTraits().facet = ["curious"]
"""


def examples(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert found, page
    return "\n".join([KNOWN, *found])


@pytest.mark.slow
def test_the_documented_examples_are_well_typed_and_misspelt_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    programs = {
        "readme.py": examples("README.md"),
        "tutorial.py": examples("docs/tutorial/your-first-profile.md"),
        "traits.py": examples("docs/how-to/read-and-write-traits.md"),
        "wrong.py": WRONG,
    }
    for name, program in programs.items():
        (tmp_path / name).write_text(program, encoding="utf-8")
    said, failed, _ = api.run(["--strict", "--config-file=", "--cache-dir", "cache", *programs])
    assert not failed
    assert re.findall(r"^(\S+): error: .*\[(\S+)\]$", said, flags=re.MULTILINE) == [
        ("wrong.py:3", "call-arg"),
        ("wrong.py:4", "arg-type"),
        ("wrong.py:5", "attr-defined"),
    ], said
