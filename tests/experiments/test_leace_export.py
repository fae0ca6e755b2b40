"""The eraser's experiment runs, at its smallest, and says what it must. Skips where the sentences are not there."""

import json
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[2]
SENTENCES = ROOT.parent / "shared" / "data" / "winogenerated" / "winogenerated.jsonl"


@pytest.mark.skipif(not SENTENCES.is_file(), reason=f"no {SENTENCES}")
def test_the_reloaded_checkpoint_is_probed_beside_the_original(tmp_path):
    script = ROOT / "experiments" / "leace_export.py"
    out, page = tmp_path / "found.json", tmp_path / "page.md"
    processes.run(script, "--smoke", "--model", "organism", "--rank", "8", "--json", out, "--out", page)
    found = json.loads(out.read_text())
    (op,) = found["certificate"]["ops"]
    assert (op["op"], op["status"]) == ("Erase", "exact")
    assert found["certificate"]["kl"] < 0.01 * found["certificate"]["effect_kl"]
    areas = {name: {(p["site"], p["where"]): p["auroc"] for p in found[name]} for name in ("before", "after")}
    assert areas["before"].keys() == areas["after"].keys()
    assert areas["before"]["resid_pre.0", "pronoun"][0] > 0.95, "control: a pronoun tells its gender"
    assert areas["after"]["resid_pre.0", "pronoun"][0] < areas["before"]["resid_pre.0", "pronoun"][0]
    assert all(low <= area <= high for areas_of in areas.values() for area, low, high in areas_of.values())
    assert "| resid_pre.0 |" in page.read_text()
