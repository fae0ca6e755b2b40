"""Stability is high on a strong signal, lower on noise, and the same again with the same seed."""

from word_contrasts import last_words, noise

from interp import find
from interp.directions.methods.closed_form import FITS


def test_stability_is_high_on_a_strong_signal_and_lower_on_noise(tiny):
    strong, weak = (find(tiny("llama"), pairs, sites="resid_post.2") for pairs in (last_words(), noise()))
    for signal, chance in zip(strong, weak, strict=True):
        assert signal.direction.method == chance.direction.method
        assert signal.stability > 0.9
        assert signal.stability > chance.stability + 0.05
    assert next(f for f in weak if f.direction.method == "diff_means").stability < 0.9
    unmeasured = find(tiny("llama"), last_words(), sites="resid_post.2", bootstrap=0)
    assert [f.stability for f in unmeasured] == [None] * len(FITS)
    assert [f.auroc for f in unmeasured] == [f.auroc for f in strong]


def test_costly_methods_are_fitted_again_in_the_shortlist_alone(tiny):
    findings = find(tiny("llama"), last_words(n=20), sites=("resid_post.*", "mlp_out.*"))
    listed = findings.shortlist(12)
    for finding in findings:
        cheap = finding.direction.method.startswith("diff_means")
        assert (finding.stability is not None) == (cheap or any(finding is row for row in listed))
