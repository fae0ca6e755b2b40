"""docs/faults.md is what the tests in tests/faults say, and every one of them says it."""

import re
from pathlib import Path

from scripts import importable

ROOT = Path(__file__).parents[2]


def test_the_page_of_faults_lists_every_test():
    with importable(ROOT / "experiments"):
        import faults_table
    assert (ROOT / "docs" / "faults.md").read_text(encoding="utf-8") == faults_table.page(), "write it anew"
    tests = [
        f"`{file.name}::{name}`"
        for file in (ROOT / "tests" / "faults").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert {row[2] for row in faults_table.rows()} == set(tests)
    assert len({row[0] for row in faults_table.rows()}) == len(faults_table.rows()), "a case twice"
