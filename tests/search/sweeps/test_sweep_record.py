"""A sweep's folder as a record: its tables say what its trials say."""

import json
import shutil

import pytest

from interp import InterpError
from interp.search import SweepRecord


def test_its_front_is_that_of_optuna(whole):
    from interp.search.sweeps.trials import Trials

    best = {trial.number for trial in Trials(whole.folder).study.best_trials}
    assert {trial.number for trial in whole.front} == best
    assert whole.title == "out: 7 trials (7 complete)"


def test_its_tables_have_the_front_the_unedited_model_and_what_was_confirmed(whole):
    rows = whole.rows()
    knee, *others = (str(trial.number) for trial in whole.front)
    assert [row["trial"] for row in rows] == [f"{knee} (knee)", *others, "unedited"]
    assert rows[0]["harm"] == whole.front[0].costs[0]
    (title, first), *_ = whole.confirmed_rows().items()
    assert title.startswith(f"Trial {whole.front[0].number} on confirming items")
    assert {row["behaviour"] for row in first} == {"kl", "harm", "kept", "loss"}
    arms = {row["arm"]: row["harm"] for row in whole.arm_rows()}
    assert list(arms) == [
        "no-op",
        *(f"{arm}{point.trial}" for point in whole.confirmed for arm in ("trial ", "random edit 1 like trial ")),
    ]
    assert arms["no-op"] == 0.0, "of a model without dropout that no edit has changed for good"
    assert arms[f"random edit 1 like trial {knee}"] == whole.confirmed[0]["harm"].random[0] != 0.0
    shares = [row["harm"] for row in whole.importance_rows()]
    assert sum(shares) == pytest.approx(1.0)


def test_it_is_plain_data_without_the_scores_of_items(whole, tmp_path):
    plain = json.loads(json.dumps(whole.to_json()))
    assert plain["front"] == [trial.number for trial in whole.front]
    assert (plain["knee"], plain["arms"]) == (plain["front"][0], whole.arm_rows())
    assert "scores" not in plain["trials"][0]
    with pytest.raises(InterpError, match="no folder of a sweep"):
        SweepRecord.read(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("journal.log", b"no line of Optuna\n", "journal.log is damaged"),
        ("journal.log", b"", "journal.log is damaged"),
        ("sweep.json", b"{}", "sweep.json lacks digests, folder"),
        ("confirm.json", b"[]", "not what interp sweep wrote"),
    ],
)
def test_a_damaged_file_is_named(whole, tmp_path, file, content, problem):
    shutil.copytree(whole.folder, tmp_path / "copy")
    (tmp_path / "copy" / file).write_bytes(content)
    with pytest.raises(InterpError, match=problem):
        SweepRecord.read(tmp_path / "copy")
