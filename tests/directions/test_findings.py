"""Findings are sorted, shortlisted by method, and name what failed."""

from dataclasses import replace

import pytest
import sample_records
from word_contrasts import last_words

from interp import InterpError, find
from interp.directions import Findings
from interp.directions.controls import ControlScore
from interp.directions.methods.closed_form import FITS


def test_a_shortlist_takes_the_best_of_each_method_in_turn(tiny):
    findings = find(tiny("llama"), last_words())
    listed = findings.shortlist(len(FITS) + 1)
    assert [row.direction.method for row in listed[:-1]] == findings.methods
    assert listed[-1] == findings.best(2, findings.methods[0])[1]
    assert len(findings.shortlist(1000)) == len(findings)
    assert repr(listed[-1]).startswith(f"Finding({findings.methods[0]} at ")
    assert "tensor" not in repr(listed[-1])
    assert repr(replace(listed[-1], cohens_d=1e9)).endswith("d –)")


def test_what_can_not_be_fitted_is_left_out_and_named(tiny):
    """At the embedding the last word is all there is: neither side varies, and nothing can be whitened."""
    model = tiny("llama")
    findings = find(model, last_words(), sites=("embed", "resid_post.0"), methods=("diff_means", "lda"))
    assert [(f.method, str(f.site), f.position) for f in findings.failures] == [("lda", "embed", -1)]
    assert "neither side varies" in findings.failures[0].reason
    assert "neither side varies" in findings._repr_html_()
    assert findings.grid()[0]["lda"] is None
    assert [str(f.direction.site) for f in findings if f.direction.method == "lda"] == ["resid_post.0"]
    with pytest.raises(InterpError, match="nothing could be fitted; lda at embed: neither side varies"):
        find(model, last_words(), sites="embed", methods="lda")


def test_the_shuffled_baseline_says_whether_auroc_can_rank():
    best = sample_records.findings().best()[0]
    site, position = best.direction.site, best.direction.position

    def reading(auroc, shuffled, methods=("diff_means", "lda")):
        rows = tuple(
            replace(best, auroc=auroc, direction=replace(best.direction, method=method, scores={}))
            for method in methods
        )
        control = ControlScore("shuffled", site, position, shuffled, ())
        return Findings(rows, sample_records.contrast(), 2, (control,)).reading

    assert reading(1.0, 1.0).startswith("all methods separate; AUROC cannot rank them here: ")
    assert "rank_by_ablation" in reading(1.0, 1.0)
    few = Findings((best,), sample_records.contrast(), 2)
    assert "only 2 pairs held out" in few._repr_html_()
    assert "held out, so" not in replace(few, held_out=5)._repr_html_()
    assert "no evidence" in reading(0.7, 0.7)
    assert reading(1.0, 0.6).startswith("diff_means, lda separate; AUROC cannot rank them")
    assert reading(1.0, 0.6, ["lda"]) == reading(0.9, 0.6) == ""
