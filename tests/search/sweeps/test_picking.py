"""A trial is taken as a recipe, and as a checkpoint that is certified and audited on the confirming items."""

import pytest

from interp import InterpError, Recipe, verify
from interp.auditing import Audit
from interp.search import SweepRecord, pick, run_sweep


def test_the_knee_is_written_exported_and_audited_on_items_that_no_trial_saw(small_sweep, tmp_path):
    run_sweep(small_sweep.settings(), tmp_path / "out", 3, folder=small_sweep.folder, model=small_sweep.model)
    record = SweepRecord.read(tmp_path / "out")
    result = pick(tmp_path / "out", tmp_path / "recipe", checkpoint=tmp_path / "edited", model=small_sweep.model)
    assert result["trial"] == record.front[0].number
    assert Recipe.load(tmp_path / "recipe").digest == result["recipe"]
    assert verify(tmp_path / "edited", base=small_sweep.model).faithful
    audit = Audit.read(tmp_path / "recipe" / "audit.json")
    confirmed = record.confirmed[0]
    for row in audit.rows:
        assert row.after.estimate == pytest.approx(confirmed[row.name].after.estimate, abs=1e-4)
    with pytest.raises(InterpError, match="trial 9 has no recipe; there are trials 0 to 2"):
        pick(tmp_path / "out", tmp_path / "other", trial=9, model=small_sweep.model)
