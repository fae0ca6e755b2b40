"""The page of a sweep: every complete trial is drawn where its scores are, and nothing in it is markup of its own."""

import re
import shutil
import subprocess
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
    rest = -0.1, score, score, score, None, (-1e-9, 0.1), 8.6e-9
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
    assert "1 (knee)" in page
    assert not re.search(r"\de-\d|-0\.000", page.partition("</script>")[2].partition("<script>")[0])
    empty = replace(record, trials=(), confirmed=())
    with pytest.raises(InterpError, match="a front is drawn of complete trials"):
        plot_front(empty)
    write_sweep_page(empty, tmp_path / "empty.html")
    assert "Too few complete trials" in (tmp_path / "empty.html").read_text()


MEASURED = """
<iframe src="page.html" style="width: 1200px"></iframe><iframe src="page.html" style="width: 400px"></iframe>
<script>
addEventListener("load", () => document.querySelectorAll("iframe").forEach(frame => {
  const page = frame.contentDocument
  page.querySelectorAll("details").forEach(details => details.open = true)
  const wide = [page.documentElement, ...page.querySelectorAll(".scroll")].filter(x => x.scrollWidth > x.clientWidth)
  document.body.append(`${frame.style.width}: ${wide.length} of ${page.querySelectorAll(".scroll").length} too wide; `)
}))
</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_no_table_is_wider_than_the_page(record, tmp_path):
    names = ["toxic_continued_negativity", "refusal_harmful_margin"]
    changes = [replace(change, random=(-0.123,) * 5) for change in record.confirmed[0].changes]
    changes += [replace(changes[0], name=name, kind="capability", kept=True) for name in names]
    write_sweep_page(replace(record, confirmed=(ConfirmedPoint(0, tuple(changes)),)), tmp_path / "page.html")
    (tmp_path / "both.html").write_text(MEASURED)
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--allow-file-access-from-files")
    options = (f"--user-data-dir={tmp_path / 'user'}", "--virtual-time-budget=4000", "--dump-dom")
    command = ["chromium", *quiet, *options, (tmp_path / "both.html").as_uri()]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.findall(r"\d+px: \d of \d too wide", drawn) == ["1200px: 0 of 4 too wide", "400px: 0 of 4 too wide"]
