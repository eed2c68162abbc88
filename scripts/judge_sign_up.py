"""Print the 35 known failures of sign-up triggers: what the naive trigger does there, and what ours does.

Run: python scripts/judge_sign_up.py (exit 1 unless ours passes every row and the naive trigger is seen failing in each).
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

MESSAGE_WIDTH = 76
TESTS = Path(__file__).parents[1] / "tests" / "sql" / "test_signup_failures.py"


class Verdicts:
    """Collects, per row, the outcome on ours (each kind of database) and what the naive trigger said."""

    def __init__(self):
        self.titles = {}
        self.ours = defaultdict(dict)
        self.naive = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown" or (report.when == "setup" and report.passed):
            return
        if found := re.search(r"::test_row_(\d\d)_(\w+)\[(\w+)\]", report.nodeid):
            number, title, shape = found.groups()
            self.titles[int(number)] = title.replace("_", " ")
            self.ours[int(number)][shape] = report.passed
        elif found := re.search(r"::test_the_naive_trigger_fails\[row_(\d\d)\]", report.nodeid):
            said = dict(report.user_properties).get("said", "")
            self.naive[int(found[1])] = (report.passed, said)

    def table(self):
        yield f"{'row':3}  {'failure':55}  {'ours':36}  naive trigger"
        for number, title in sorted(self.titles.items()):
            outcomes = self.ours[number]
            failed = [shape for shape, passed in outcomes.items() if not passed]
            ours = f"FAILS on {', '.join(failed)}" if failed else f"passes ({', '.join(outcomes)})"
            seen, said = self.naive.get(number, (False, ""))
            naive = f"fails: {said[:MESSAGE_WIDTH]}" if seen else "NOT SEEN FAILING FOR THIS REASON"
            yield f"{number:3}  {title:55}  {ours:36}  {naive}"


def main():
    verdicts = Verdicts()
    code = pytest.main(["-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", str(TESTS)], plugins=[verdicts])
    print("\n".join(verdicts.table()))
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(main())
