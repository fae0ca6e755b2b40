"""Scores of a direction: the AUROC, the best threshold and Cohen's d, against slow versions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from interp.directions.scores import auroc, best_threshold, cohens_d

values = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=20)


@given(values, values)
def test_the_best_threshold_is_the_best_of_all(positive, negative):
    """By trying every value as a threshold; a tie keeps the lowest."""
    threshold, right = best_threshold(torch.tensor(positive), torch.tensor(negative))

    def share(cut):
        return (sum(x > cut for x in positive) / len(positive) + sum(x <= cut for x in negative) / len(negative)) / 2

    every = [*positive, *negative]
    assert right == pytest.approx(share(threshold)) == pytest.approx(max(map(share, [*every, min(every) - 1])))


@given(values, values)
def test_auroc_is_scikit_learns_and_the_count_of_pairs(positive, negative):
    p, n = torch.tensor(positive), torch.tensor(negative)
    wins = sum((a > b) + 0.5 * (a == b) for a in positive for b in negative)
    labels = [1] * len(p) + [0] * len(n)
    assert auroc(p, n) == pytest.approx(wins / (len(p) * len(n)))
    assert auroc(p, n) == pytest.approx(roc_auc_score(labels, positive + negative))
    assert auroc(n, p) == pytest.approx(1 - auroc(p, n))


def test_cohens_d_of_unit_normals_is_the_gap():
    draw = torch.Generator().manual_seed(0)
    p, n = torch.randn(20000, generator=draw) + 0.7, torch.randn(20000, generator=draw)
    assert cohens_d(p, n) == pytest.approx(0.7, abs=0.03)
