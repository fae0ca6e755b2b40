"""The page of a sweep: every complete trial is drawn where its scores are, and nothing in it is markup of its own."""

from dataclasses import replace
from pathlib import Path

import pytest
from large_records import EVIL

from interp import InterpError
from interp.auditing.statistics.comparison import Estimate
from interp.search import SweepFile, SweepRecord, SweepTrial
from interp.search.sweeps.confirmation import ConfirmedChange, ConfirmedPoint
from interp.views import plot_front, write_sweep_page

COSTS = [(0.2, -0.8), (0.5, -0.9), (0.6, -0.7), (0.1, -0.2)]


@pytest.fixture
def record():
    settings = SweepFile.parse({"name": EVIL, "model": EVIL, "recipe": {}, "measure": {"suites": ["x.yaml"]}})
    trials = [SweepTrial(n, "complete", {EVIL: EVIL, "x": 0.5}, costs=costs) for n, costs in enumerate(COSTS)]
    trials[3] = SweepTrial(3, "complete", {"x": 1.0}, costs=COSTS[3], excess={EVIL: 0.2})
    trials.append(SweepTrial(4, "stopped", {"x": 1.0}, reason=EVIL))
    score = Estimate(0.3, 0.2, 0.4, 50)
    rest = -0.1, score, score, score, None, (0.1,)
    confirmed = (ConfirmedPoint(0, tuple(ConfirmedChange(name, "harm", "rate", *rest) for name in (EVIL, "kept"))),)
    return SweepRecord(Path("x"), settings, (EVIL, "kept"), (1, -1), (1.0, -1.0), tuple(trials), confirmed, {})


def test_points_are_where_the_scores_are_each_in_its_group(record):
    broken, kept, front, unedited, confirmed = plot_front(record).data
    assert [*zip(broken.x, broken.y, strict=True)] == [(0.1, 0.2)]
    assert {*zip(kept.x, kept.y, strict=True)} == {(0.2, 0.8), (0.5, 0.9), (0.6, 0.7)}
    assert [*zip(front.x, front.y, strict=True)] == [(0.2, 0.8), (0.5, 0.9)]
    assert (unedited.x, unedited.y) == ((1.0,), (1.0,))
    assert confirmed.x == (0.2, 0.3, None)
    assert "trial 0" in front.customdata[0]
    assert "<script" not in str(front.customdata)


def test_the_page_escapes_what_it_shows_and_a_sweep_without_complete_trials_has_no_figure(record, tmp_path):
    write_sweep_page(record, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in page
    assert "5 trials (4 complete, 1 stopped)" in page
    empty = replace(record, trials=(), confirmed=())
    with pytest.raises(InterpError, match="a front is drawn of complete trials"):
        plot_front(empty)
    write_sweep_page(empty, tmp_path / "empty.html")
    assert "Too few complete trials" in (tmp_path / "empty.html").read_text()
