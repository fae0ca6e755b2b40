"""The smoke size of the public suite's figures, where the sets and the model are."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "public_suite.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("public_suite", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_smoke(script, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--smoke", "--cache", str(tmp_path)])
    try:
        script.main()
    except SystemExit as reason:
        pytest.skip(str(reason))
    first = capsys.readouterr().out
    assert "| arc_easy | capability |" in first
    assert sum(line.startswith("|") for line in first.splitlines()) == 2 + 5

    def never(*given):
        raise AssertionError("scores that were kept are not measured again")

    monkeypatch.setattr(script.ModelCondition, "scores", never)
    script.main()
    assert capsys.readouterr().out == first


def test_it_says_what_is_missing(script, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--data", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"skipped: .*none: no such folder of evaluation sets"):
        script.main()
