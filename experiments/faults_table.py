"""The tables of faults: what each fault of inputs, outputs and numbers does, and long commands under faults.

    python experiments/faults_table.py > docs/faults.md

Reads `@fault(case, result)` from the tests in tests/faults, without running them, and experiments/faults.json, which
`.ci/faults --json experiments/faults.json` writes; tests/docs/test_faults.py holds the page to them.
"""

import ast
import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_HEAD = """# Faults and what they do

Each row is a test in `tests/faults/`; `python experiments/faults_table.py > docs/faults.md` writes this page.
"Refused" means an error of one line that names the input, exit code 2 on the command line, and no file left behind.
"The bound" is one of the [bounds on input](howto/command_line.md), which `--limit` sets.

| fault | what happens | test |
|---|---|---|
"""

_LONG = """
## Long commands and faults

Each long command is disturbed for real, on small models and data, in a process of its own. Three things are asked:

1. The disk then holds the old state, the new one, or work that was begun and that the same command continues: under a
   hidden name, or without its final record. After an input moved, the result may be that of the new input, never a
   mixture.
2. The same command again ends with the same bytes as a run that nothing disturbed, apart from times, digests in files
   that state times, and the order of metadata in headers of safetensors, which is another in each process. Where the
   first of two outputs is whole, the command refuses to replace it, and says so; it is removed then ({removed} runs).
3. An error is one line that says what to do, with exit code 2; Ctrl-C ends with 130.

Each cell: the runs in which all three held, of all disturbed runs. `{command}` writes
`experiments/faults.json`, from which this section is made ({dates}).

"""
_TITLES = {
    "kill": "kill", "disk": "full disk", "eio": "EIO", "writers": "two writers", "moved": "moved input",
    "429": "hub says 429", "gated": "gated on the hub", "memory": "too little memory", "worker": "a worker is killed",
    "ctrl-c": "Ctrl-C twice", "clock": "clock goes back",
}  # fmt: skip


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


def matrix() -> str:
    """The section on long commands: a table of counts, how each fault is made and what it leaves, and what is open."""
    cells = json.loads((ROOT / "experiments" / "faults.json").read_text(encoding="utf-8"))["cells"]
    faults, verbs = (list(dict.fromkeys(cell[key] for cell in cells)) for key in ("fault", "verb"))
    found = {(cell["verb"], cell["fault"]): cell for cell in cells}
    days = sorted({cell["date"] for cell in cells})
    made_on = " to ".join(dict.fromkeys([days[0], days[-1]]))
    runs = [attempt for cell in cells for attempt in cell["attempts"]]
    removed = sum("removed" in run["again"] for run in runs)
    command = ".ci/faults --json experiments/faults.json"
    text = _LONG.format(command=command, dates=made_on, removed=f"{removed} of {len(runs)}")
    text += f"| command | {' | '.join(map(_TITLES.get, faults))} |\n|{'---|' * (len(faults) + 1)}\n"
    for verb in verbs:
        counts = [_count(found[verb, fault]["attempts"]) if (verb, fault) in found else "not tried" for fault in faults]
        text += f"| {verb} | {' | '.join(counts)} |\n"
    text += f"\nAll: {_count(runs)} disturbed runs in {sum(bool(cell['attempts']) for cell in cells)} cells.\n\n"
    text += "| fault | how it is made | what is on disk then | a message |\n|---|---|---|---|\n"
    for fault in faults:
        mine = [cell for cell in cells if cell["fault"] == fault]
        states = Counter(x["state"].partition(":")[0] for cell in mine for x in cell["attempts"])
        told = ", ".join(f"{count} {state}" for state, count in states.most_common())
        how = "; ".join(dict.fromkeys(cell["how"] for cell in mine))
        text += f"| {_TITLES[fault]} | {how} | {told} | {_message(mine)} |\n"
    open_cells = [_open(cell) for cell in cells if cell["holds"] is False]
    for reason in dict.fromkeys(cell["reason"] for cell in cells if not cell["attempts"]):
        why = [cell for cell in cells if cell["reason"] == reason and not cell["attempts"]]
        names, titles = ([*dict.fromkeys(x[key] for x in why)] for key in ("verb", "fault"))
        open_cells.append(f"- {', '.join(map(_TITLES.__getitem__, titles))}: not for {', '.join(names)} ({reason})\n")
    return text + ("\nWhat does not hold, or was not tried:\n\n" + "".join(open_cells) if open_cells else "")


def _count(attempts: list[dict[str, str]]) -> str:
    return f"{sum(not x['problem'] for x in attempts)} of {len(attempts)}" if attempts else "–"


def _message(cells: list[dict]) -> str:
    """The message that most of the commands end with, or one of them."""
    said = Counter(x["message"] for cell in cells for x in cell["attempts"] if x["message"].startswith("interp: "))
    told = max(said, key=lambda text: (said[text], -len(text)), default="").removeprefix("interp: ").replace("|", "/")
    told = re.sub(r"http://[^\s);]+", "http://…", told)
    return f"`{told}`" if told else "none: it is killed, or goes on"


def _open(cell: dict) -> str:
    problems = "; ".join(f"{x['moment']}: {x['problem']}" for x in cell["attempts"] if x["problem"])
    return f"- {cell['verb']}, {_TITLES[cell['fault']]}: {problems}\n"


def page() -> str:
    """The page's text."""
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows()) + matrix()


if __name__ == "__main__":
    print(page(), end="")
