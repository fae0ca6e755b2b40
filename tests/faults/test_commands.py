"""Long commands under a real kill, by the harness `.ci/faults`, which has the whole matrix.

Here is one fault of the commands that no other test kills, and what the harness says of a command that is broken.
"""

import json
from pathlib import Path

import processes
import pytest
from fault_cases import fault

SCRIPT = Path(__file__).parents[2] / ".ci" / "faults"
CODE = """
import contextlib, importlib.machinery, importlib.util, json, sys
from pathlib import Path

loader = importlib.machinery.SourceFileLoader("faults", sys.argv[1])
faults = importlib.util.module_from_spec(importlib.util.spec_from_loader("faults", loader))
sys.modules["faults"] = faults
loader.exec_module(faults)
verbs, broken = sys.argv[2].split(","), sys.argv[3]
for folder in (faults.IN, faults.LOGS):
    folder.mkdir()
faults.in_child(lambda: faults.inputs(verbs))
if "watch" in verbs:
    faults.begin_ledger()
if broken == "in place":
    import interp.editing.export.exporter as exporter

    @contextlib.contextmanager
    def in_place(folder, *_):
        folder.mkdir()
        yield folder

    exporter.new_folder = in_place
elif broken == "other bytes":
    import os
    from interp.interventions.recipe import Recipe

    write = Recipe.write

    def stamped(recipe, folder):
        write(recipe, folder)
        (folder / "stamp").write_text(str(os.getpid()))

    Recipe.write = stamped
matrix = faults.Matrix()
cells = [faults.cell(matrix, verb, "kill", 0) for verb in verbs]
print("CELLS", json.dumps([[x.verb, x.holds, [y.problem for y in x.attempts]] for x in cells]))
"""


def killed(verbs, folder, broken=""):
    """What the harness says of verbs that are killed when their first file appears."""
    place = {"INTERP_FAULTS_PLACE": str(folder), "OMP_NUM_THREADS": "1"}
    printed = processes.run(CODE, SCRIPT, verbs, broken, env=place)
    return json.loads(printed.rpartition("CELLS ")[2])


@fault(
    "a kill of find, export, drift or watch when the first file appears",
    "the old or the new state is there; the same command again gives the same bytes",
)
def test_killed_commands(tmp_path):
    cells = killed("find,export,drift,watch", tmp_path)
    assert [(verb, holds) for verb, holds, _ in cells] == [(x, True) for x in ("find", "export", "drift", "watch")]


@fault(
    "a command that is broken: it writes in place, or other bytes each time",
    "the harness of long commands finds it (its control)",
)
@pytest.mark.parametrize(
    ("broken", "problem"),
    [("in place", "half of it: "), ("other bytes", "out/interp_recipe/stamp differs")],
)
def test_the_harness_finds_a_broken_command(tmp_path, broken, problem):
    [[verb, holds, problems]] = killed("export", tmp_path, broken)
    assert (verb, holds) == ("export", False)
    assert problem in problems[0]
