"""The error rates of a gate's thresholds are those that other prompts have, whatever the distribution of the scores."""

import numpy as np
import pytest
import torch
from scipy.stats import beta

import interp
from interp import InterpError
from interp.auditing import calibrate_gate
from interp.auditing.stress import gate_calibration
from interp.interventions import Reads, threshold


@pytest.fixture
def gate():
    return interp.Gate(interp.Project(torch.ones(4)), Reads(torch.ones(4), 0.5), site="resid_post.0")


def scored(monkeypatch, *sides):
    """Scores in place of those that a model would give, for prompts where the gate opens and where it does not."""
    left = [torch.as_tensor(side) for side in sides]
    monkeypatch.setattr(gate_calibration, "prompt_scores", lambda *args: left.pop(0))
    return {"en": tuple([""] * len(side) for side in sides)}


@pytest.mark.parametrize(("n", "share"), [(20, 0.05), (40, 0.1), (99, 0.02)])
def test_the_false_positive_rate_is_below_the_share_and_in_its_interval_as_often_as_stated(
    gate, tiny, monkeypatch, n, share
):
    rng, rates = np.random.default_rng(0), list[float]()
    for _ in range(1500):
        found = calibrate_gate(gate, tiny("llama"), scored(monkeypatch, [1.0], rng.exponential(size=n)), share)[0]
        rates.append(float(np.exp(-found.threshold)))  # of an exponential score
    wrong = found.false_positive
    assert np.mean(rates) == pytest.approx(wrong.estimate, rel=0.1)
    assert wrong.estimate <= share
    assert np.mean([wrong.low <= rate <= wrong.high for rate in rates]) == pytest.approx(0.95, abs=0.02)
    allowed = round(wrong.estimate * (n + 1))
    assert (wrong.low, wrong.high) == pytest.approx(beta.ppf([0.025, 0.975], allowed, n + 1 - allowed))


def test_the_largest_score_of_a_plain_quantile_lets_more_through_than_it_says(gate, tiny, monkeypatch):
    """Control: why the rank is counted in n + 1."""
    rng, plain, own = np.random.default_rng(1), list[float](), list[float]()
    for _ in range(1500):
        scores = torch.tensor(rng.exponential(size=20))
        monkeypatch.setattr("interp.interventions.gate.prompt_scores", lambda *args, given=scores: given)
        plain.append(float(np.exp(-threshold(gate, tiny("llama"), [""] * 20, 0.05))))
        own.append(float(np.exp(-calibrate_gate(gate, tiny("llama"), scored(monkeypatch, [1.0], scores))[0].threshold)))
    assert np.mean(plain) > 0.08
    assert np.mean(own) < 0.055


def test_rates_before_and_after_are_shares_of_the_examples(gate, tiny, monkeypatch):
    shut, opening = torch.arange(20) / 20, torch.arange(10) / 5
    found = calibrate_gate(gate, tiny("llama"), scored(monkeypatch, opening, shut), 0.05)[0]
    assert found.threshold == pytest.approx(0.95)
    assert (found.true_positive.estimate, found.true_positive.n) == (0.5, 10)
    assert [share.estimate for share in found.before] == pytest.approx([9 / 20, 7 / 10])
    assert "threshold" in str(found)


def test_too_few_examples_and_impossible_shares_are_refused(gate, tiny):
    few = {"en": (["a"], ["b"] * 20), "es": (["a"], ["b"] * 18)}
    with pytest.raises(
        InterpError, match=r"language 'es' has 1 prompts .* and 18 .* at least 1 and 19, for a share of 0.05"
    ):
        calibrate_gate(gate, tiny("llama"), {"es": few["es"]})
    with pytest.raises(InterpError, match="language 'en' has 0 prompts"):
        calibrate_gate(gate, tiny("llama"), {"en": ([], few["en"][1])})
    with pytest.raises(InterpError, match=r"false_positive is 1\.0; expected a share between 0 and 1"):
        calibrate_gate(gate, tiny("llama"), few, 1)
