"""The table of faults: what each fault of inputs, outputs and numbers does, and the test that shows it.

    python experiments/faults_table.py > docs/faults.md

Reads `@fault(case, result)` from the tests in tests/faults, without running them; tests/docs/test_faults.py holds the
page to it.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_HEAD = """# Faults and what they do

Each row is a test in `tests/faults/`; `python experiments/faults_table.py > docs/faults.md` writes this page.
"Refused" means an error of one line that names the input, exit code 2 on the command line, and no file left behind.
"The bound" is one of the [bounds on input](howto/command_line.md), which `--limit` sets.

| fault | what happens | test |
|---|---|---|
"""


def rows() -> list[tuple[str, str, str]]:
    """Case, result and test of each fault, in the order of the files."""
    listed = []
    for file in sorted((ROOT / "tests" / "faults").glob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            marks = node.decorator_list if isinstance(node, ast.FunctionDef) else []
            for mark in marks:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "fault":
                    case, result = map(ast.literal_eval, mark.args)
                    listed.append((case, result, f"`{file.name}::{node.name}`"))
    return listed


def page() -> str:
    """The page's text."""
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows())


if __name__ == "__main__":
    print(page(), end="")
