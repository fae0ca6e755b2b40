"""A sweep's folder as a record: its tables say what its trials say."""

import json

import pytest

from interp import InterpError
from interp.search import SweepRecord, run_sweep


@pytest.fixture(scope="module")
def record(small_sweep, tmp_path_factory):
    out = tmp_path_factory.mktemp("record") / "out"
    run_sweep(small_sweep.settings(name="w5"), out, 6, folder=small_sweep.folder, model=small_sweep.model)
    return SweepRecord.read(out)


def test_its_front_is_that_of_optuna(record):
    from interp.search.sweeps.trials import Trials

    best = {trial.number for trial in Trials(record.folder).study.best_trials}
    assert {trial.number for trial in record.front} == best
    assert record.title == "w5: 6 trials (6 complete)"


def test_its_tables_have_the_front_the_unedited_model_and_what_was_confirmed(record):
    rows = record.rows()
    assert [row["trial"] for row in rows] == [*(str(trial.number) for trial in record.front), "unedited"]
    assert rows[0]["harm"] == record.front[0].costs[0]
    (title, first), *_ = record.confirmed_rows().items()
    assert title.startswith(f"Trial {record.front[0].number} on confirming items")
    assert {row["behaviour"] for row in first} == {"kl", "harm", "kept", "loss"}
    shares = [row["harm"] for row in record.importance_rows()]
    assert sum(shares) == pytest.approx(1.0)


def test_it_is_plain_data_without_the_scores_of_items(record, tmp_path):
    plain = json.loads(json.dumps(record.to_json()))
    assert plain["front"] == [trial.number for trial in record.front]
    assert "scores" not in plain["trials"][0]
    with pytest.raises(InterpError, match="no folder of a sweep"):
        SweepRecord.read(tmp_path)
