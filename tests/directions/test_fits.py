"""Fits and scores against scikit-learn, closed forms and counting."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from interp import InterpError
from interp.directions.fits import diff_means, diff_means_orthogonal, logistic
from interp.directions.scores import auroc, cohens_d

values = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=20)


def clouds(n=60, d=12, gap=1.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(torch.randn(d, generator=draw), dim=0)
    scales = torch.linspace(0.3, 3, d)
    positive, negative = (torch.randn(n, d, generator=draw) * scales for _ in range(2))
    return positive + gap * truth, negative - gap * truth, truth


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


def test_projecting_the_orthogonal_difference_out_leaves_the_negative_mean_where_it_is():
    positive, negative, _ = clouds()
    offset = torch.linspace(-3, 5, positive.shape[1])
    moved = {}
    for fit in (diff_means, diff_means_orthogonal):
        row = torch.nn.functional.normalize(fit(positive + offset, negative + offset), dim=0)
        moved[fit] = float(((negative + offset).mean(0) @ row).abs())
    assert moved[diff_means_orthogonal] < 1e-5
    assert moved[diff_means] > 0.1, "control: the plain difference moves it"
    centred = torch.zeros_like(negative)
    assert torch.equal(diff_means_orthogonal(positive, centred), diff_means(positive, centred))
    with pytest.raises(InterpError, match="differ in length alone"):
        diff_means_orthogonal(2 * negative, negative)


def test_logistic_equals_scikit_learn():
    positive, negative, _ = clouds()
    x = torch.cat([positive, negative]).double()
    x = x - x.mean(0)
    scale = x.square().mean().sqrt()
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000)
    reference.fit((x / scale).numpy(), [1] * len(positive) + [0] * len(negative))
    ours = logistic(positive, negative).double()
    torch.testing.assert_close(ours, torch.tensor(reference.coef_[0]), atol=1e-5, rtol=1e-4)


def test_logistic_converges_on_separable_data():
    positive, negative, _ = clouds(gap=30.0)
    row = logistic(positive, negative)
    assert auroc(positive @ row, negative @ row) == 1
    with pytest.raises(InterpError, match="did not converge in 1 Newton steps"):
        logistic(positive, negative, steps=1)


def test_directions_recover_what_separates_two_clouds():
    positive, negative, truth = clouds(n=4000)
    mean = torch.nn.functional.normalize(diff_means(positive, negative), dim=0)
    assert mean @ truth > 0.97
    draw = torch.Generator().manual_seed(99)
    held = torch.randn(1000, 12, generator=draw) * torch.linspace(0.3, 3, 12)
    assert auroc(held[:500] @ mean + 1, held[500:] @ mean - 1) > 0.7, "it separates new points of the two clouds"
    assert 0.4 < auroc(held[:500] @ mean, held[500:] @ mean) < 0.6, "control: and not those of one cloud"
