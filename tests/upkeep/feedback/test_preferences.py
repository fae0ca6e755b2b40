"""Directions of what raters reject: one where they agree, and one a group with the conflict shown where they split."""

import json

import pytest
from judged_replies import rows, write

import interp
from interp import InterpError
from interp.upkeep import Feedback, Judgements, fit_feedback

WHERE = "resid_post.3", "diff_means"


@pytest.fixture(scope="module")
def organism():
    return interp.load("organism")


def test_raters_who_agree_get_one_direction_with_its_separation_and_cost(organism, tmp_path):
    judgements = Judgements.read(write(tmp_path / "pairs.jsonl", rows(24, noise={("a", 3)})))
    record = fit_feedback(judgements, organism, tmp_path / "out", *WHERE)
    assert [x.group for x in record.directions] == ["everyone"]
    (area,) = record.directions[0].separation.values()
    assert (area.estimate, area.n) == (1.0, 7)
    assert record.undecided == 1 == len((tmp_path / "out" / "adjudicate.jsonl").read_text().splitlines())
    assert record.opposed == {"north and south": (0, 23)}, "the raters of north are one for, one against in one"
    recipe = interp.Recipe.load(tmp_path / "out" / "everyone" / "recipe")
    assert "everyone rejects" in recipe.note
    assert Feedback.read(tmp_path / "out") == record
    again = fit_feedback(judgements, organism, tmp_path / "again", *WHERE)
    assert again == record


def test_raters_who_split_get_a_direction_each_and_none_is_averaged(organism, tmp_path):
    judgements = Judgements.read(write(tmp_path / "pairs.jsonl", rows(24, split=True, noise={("a", 3), ("c", 4)})))
    record = fit_feedback(judgements, organism, tmp_path / "out", *WHERE)
    assert record.agreement.split
    assert record.opposed == {"north and south": (22, 22)}
    north, south = record.directions
    assert (north.separation["north"].estimate, north.separation["south"].estimate) == (1.0, 0.0)
    assert (south.separation["south"].estimate, south.separation["north"].estimate) == (1.0, 0.0)
    assert north.cosine["south"] == pytest.approx(south.cosine["north"])
    assert north.cosine["south"] < -0.9
    folders = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert folders == {"group_0", "group_1"}, "no recipe of everyone"


def test_too_few_and_wrong_things_are_said_and_nothing_is_left(organism, tmp_path):
    few = Judgements.read(write(tmp_path / "pairs.jsonl", rows(8)))
    with pytest.raises(InterpError, match="everyone: 6 decided comparisons to fit and 2 held out"):
        fit_feedback(few, organism, tmp_path / "out", *WHERE)
    with pytest.raises(InterpError, match="expected a Judgements"):
        fit_feedback(tmp_path / "pairs.jsonl", organism, tmp_path / "out", *WHERE)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]
    with pytest.raises(InterpError, match="no folder of feedback"):
        Feedback.read(tmp_path)
    (tmp_path / "feedback.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(InterpError, match="damaged"):
        Feedback.read(tmp_path)
