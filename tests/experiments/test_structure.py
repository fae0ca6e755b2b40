"""The package keeps its shape: one home per name, no cycles, small folders, files and signatures, a test per module."""

import subprocess
import sys
from pathlib import Path

import pytest
from scripts import importable

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "structure.py"


@pytest.fixture(scope="module")
def script():
    with importable(SCRIPT.parent):
        import structure

        yield structure


@pytest.fixture(scope="module")
def here(script):
    return script.Structure.of(ROOT)


def test_no_public_name_has_two_homes(here):
    assert here.names_with_two_homes == {}


def test_no_modules_import_each_other_even_for_type_checking(here):
    assert here.import_cycles == []


def test_folders_files_and_signatures_stay_small(here):
    assert max(here.folders.values()) <= 12
    assert here.longest_modules == {}
    assert len(here.small_modules) < 20
    assert here.long_signatures == {}
    assert all(folder.count(".") <= 2 for folder in here.folders), "two levels"


def test_tests_mirror_the_modules(here):
    assert here.tests_without_module == []
    assert here.modules_without_test == []


PACKAGE = {
    "interp/__init__.pyi": "from .one import first as first\nfrom .one import Second as Second\n",
    "interp/__init__.py": "",
    "interp/one.py": '"""A."""\n\n# a comment\ndef first(a, *b):\n    """B.\n\n    >>> 1\n    1\n    """\n'
    "\n    return 1\nclass Second:\n    def third(self, a, b, c, d, e, f, g, h, i, j, k, l, *, m): ...\n",
    "interp/two.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from interp.three import fourth\n"
    "def first(): ...\n",
    "interp/three.py": "def fourth():\n    from interp.two import first\n    return first\n",
    "interp/_four.py": "from . import first\n",
    "tests/test_one.py": "",
    "tests/test_four.py": "",
    "tests/test_five.py": "",
}


def test_each_figure_counts_what_it_is_named_after(script, tmp_path):
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    structure = script.Structure.of(tmp_path)
    assert structure.folders == {"interp": 4}
    assert structure.names_with_two_homes == {"first": ["interp.one", "interp.two"]}
    assert structure.import_cycles == [["interp.three", "interp.two"]]
    assert structure.small_modules == {
        "interp.one": "interp._four", "interp.two": "interp.three", "interp.three": "interp.two",
    }  # fmt: skip
    assert structure.modules_without_test == ["interp.three", "interp.two"]
    assert structure.tests_without_module == ["test_five.py"]
    assert (structure.exported, structure.exported_without_example) == (2, ["interp.one.Second"])
    assert structure.long_signatures == {"interp.one.third": 13}
    assert structure.code_lines == 4 + 4 + 3 + 1


def test_the_figures_are_printed_and_written(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), "--json", str(out)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "import cycles, type checking included: " in text
    assert out.read_text().startswith("{")
