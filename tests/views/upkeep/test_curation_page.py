"""The page of a curation: every split, rate and token is on it, and nothing in it is markup of its own."""

from dataclasses import replace

from costless_scorer import CostlessScorer, texts
from large_records import EVIL

from interp.auditing.statistics.comparison import Estimate
from interp.upkeep import CurationOptions, Passage, PredictedChange, curate
from interp.views import write_curation_page


def test_the_page_has_splits_rates_changes_and_tokens_and_escapes_them(tmp_path):
    plain = curate(texts(20), CostlessScorer(), tmp_path / "out", CurationOptions(threshold=3.0))
    rate = Estimate(0.0625, 0.01, 0.2, 48)
    worst = Passage(41, 7.25, ((EVIL, None), ("mild", -1.0), ("strong", 3.0)))
    cuts = replace(plain.thresholds, missed=rate, false_alarms=rate, unsure=rate, auroc={EVIL: 0.9})
    change = PredictedChange("kept", EVIL, rate, rate, rate)
    write_curation_page(replace(plain, data=EVIL, thresholds=cuts, changes=(change,), worst=(worst,)), tmp_path)
    page = (tmp_path / "curation.html").read_text()
    assert "<script>alert" not in page
    assert all(text in page for text in ("0.062 [0.010, 0.200]", "row 41", "Predicted changes", ">strong</mark>"))
    assert 'class="token on peak" style="--share:1.00" title="3.000">strong' in page
    assert '<span class="token" title="-1.000">mild' in page


def test_without_labels_and_passages_the_page_says_that_rates_are_unknown(tmp_path):
    options = CurationOptions(threshold=3.0, worst=0)
    record = curate(texts(20), CostlessScorer(), tmp_path / "out", options, page=write_curation_page)
    page = (tmp_path / "out" / "curation.html").read_text()
    assert "Unknown: the threshold was given by hand" in page
    assert "Worst passages" not in page
    assert record.worst == ()
