"""AUROC of pairs: the value of an independent computation, and an interval that covers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from interp import InterpError
from interp.auditing.statistics.separation import separation


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=30))
def test_the_area_is_scikit_learns_and_inside_its_interval(pairs):
    positive, negative = torch.tensor(pairs).double().unbind(1)
    result = separation(positive, negative)
    labels = [1] * len(pairs) + [0] * len(pairs)
    assert result.estimate == pytest.approx(roc_auc_score(labels, torch.cat([positive, negative])))
    assert 0 <= result.low <= result.estimate + 1e-12
    assert result.estimate - 1e-12 <= result.high <= 1
    turned = separation(negative, positive)
    assert (turned.low, turned.high) == pytest.approx((1 - result.high, 1 - result.low))


@pytest.mark.parametrize(("shift", "shared"), [(0.0, 0.0), (0.8, 0.0), (0.8, 1.0), (3.0, 0.0)])
def test_the_interval_covers_what_it_estimates(shift, shared):
    """Pairs may have a part in common; of normal scores the area is Phi(shift / sqrt(2))."""
    generator = torch.Generator().manual_seed(0)
    scale = (2 + 2 * shared**2) ** 0.5
    truth = float(torch.distributions.Normal(0, 1).cdf(torch.tensor(shift / scale)))
    inside = 0
    for _ in range(300):
        common = shared * torch.randn(40, generator=generator)
        noise = torch.randn(2, 40, generator=generator)
        result = separation(noise[0] + common + shift, noise[1] + common)
        inside += result.low <= truth <= result.high
    assert inside >= 0.9 * 300


def test_a_perfect_separation_and_a_constant_score_keep_a_width():
    ones = torch.ones(50)
    assert separation(ones, 0 * ones).low < 0.95
    assert separation(ones, ones).estimate == 0.5
    assert separation(ones, ones).high - 0.5 > 0.1


def test_wrong_scores_are_refused():
    with pytest.raises(InterpError, match="expected two pairs or more"):
        separation(torch.zeros(1), torch.zeros(1))
    with pytest.raises(InterpError, match="none NaN"):
        separation(torch.tensor([0.0, float("nan")]), torch.zeros(2))
