"""Fits and scores against scikit-learn, closed forms and counting."""

import pytest
import torch
from sklearn.covariance import OAS
from sklearn.decomposition import TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge

from interp import InterpError
from interp.directions.methods.closed_form import (
    FITS,
    diff_means,
    diff_means_orthogonal,
    lda,
    logistic,
    pca,
    require_sides,
    ridge,
)
from interp.directions.scores import auroc


def clouds(n=60, d=12, gap=1.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(torch.randn(d, generator=draw), dim=0)
    scales = torch.linspace(0.3, 3, d)
    positive, negative = (torch.randn(n, d, generator=draw) * scales for _ in range(2))
    return positive + gap * truth, negative - gap * truth, truth


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


FEW_AND_MANY = pytest.mark.parametrize("n", [6, 60])  # fewer rows than the 24 features, and more


def assert_parallel(row, reference, tolerance=1e-6):
    cosine = torch.cosine_similarity(row.double(), torch.as_tensor(reference).double(), dim=0)
    assert cosine == pytest.approx(1, abs=tolerance)


def test_the_methods_and_their_order_are_stable():
    assert list(FITS) == ["diff_means", "diff_means_orthogonal", "logistic", "ridge", "lda", "pca"]


@FEW_AND_MANY
def test_ridge_equals_scikit_learn(n):
    positive, negative, _ = clouds(n, d=24)
    x = torch.cat([positive, negative]).double()
    x = (x - x.mean(0)) / (x - x.mean(0)).square().mean().sqrt()
    reference = Ridge(alpha=3.0).fit(x.numpy(), [1.0] * n + [0.0] * n)
    ours = ridge(positive, negative, penalty=3.0).double()
    torch.testing.assert_close(ours, torch.tensor(reference.coef_), atol=1e-6, rtol=1e-5)


def test_ridge_without_a_penalty_is_least_squares_where_that_is_one_solution():
    positive, negative, _ = clouds(60, d=24)
    x = torch.cat([positive, negative]).double()
    design = torch.cat([x, torch.ones(120, 1).double()], dim=1)
    labels = torch.cat([torch.ones(60), torch.zeros(60)]).double()
    assert_parallel(ridge(positive, negative, penalty=0.0), torch.linalg.lstsq(design, labels).solution[:-1])
    doubled = [torch.cat([side, side[:, :1]], dim=1) for side in (positive, negative)]
    with pytest.raises(InterpError, match=r"25 features are collinear \(rank 24 on 120 rows\)"):
        ridge(*doubled, penalty=0.0)
    assert torch.isfinite(ridge(*doubled)).all(), "control: a penalty chooses one solution"
    with pytest.raises(InterpError, match=r"penalty is -1\.0; expected 0 or more"):
        ridge(positive, negative, penalty=-1.0)


@FEW_AND_MANY
def test_lda_whitens_by_scikit_learns_shrunk_covariance(n):
    positive, negative, _ = clouds(n, d=24)
    gap = (positive.double().mean(0) - negative.double().mean(0)).numpy()
    within = torch.cat([side.double() - side.double().mean(0) for side in (positive, negative)]).numpy()
    covariance = torch.tensor(OAS(assume_centered=True).fit(within).covariance_)
    slow = torch.linalg.solve(covariance, torch.tensor(gap))
    torch.testing.assert_close(lda(positive, negative).double(), slow, atol=1e-6, rtol=1e-5)
    x, y = torch.cat([positive, negative]).double().numpy(), [1] * n + [0] * n
    peer = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=OAS(assume_centered=False)).fit(x, y)
    assert_parallel(lda(positive, negative), peer.coef_[0], tolerance=0.05)  # it estimates each side's covariance apart


@FEW_AND_MANY
def test_pca_equals_the_uncentred_singular_vector(n):
    positive, negative, _ = clouds(n, d=24)
    differences = (positive - negative).double().numpy()
    reference = torch.tensor(TruncatedSVD(1, algorithm="arpack").fit(differences).components_[0])
    row = pca(positive, negative)
    assert_parallel(row * torch.sign(row.double() @ reference).float(), reference)
    assert float((positive - negative).mean(0) @ row) >= 0
    assert_parallel(pca(negative, positive), -row)


def test_lda_finds_a_planted_direction_under_loud_noise_elsewhere():
    """Ten coordinates of noise ten times as wide: whitening sees through it, the plain means do not."""
    draw = torch.Generator().manual_seed(0)
    scales = torch.ones(40)
    scales[:10] = 10.0
    sides = [torch.randn(300, 40, generator=draw) * scales for _ in range(2)]
    sides[0][:, 20] += 1.5
    planted = torch.zeros(40)
    planted[20] = 1
    cosines = {fit: torch.nn.functional.normalize(fit(*sides), dim=0) @ planted for fit in (lda, ridge, diff_means)}
    assert cosines[lda] > 0.9
    assert cosines[ridge] > 0.9
    assert cosines[diff_means] < 0.75, "control: the noise of the means hides it"
    held = [torch.randn(500, 40, generator=draw) * scales for _ in range(2)]
    held[0][:, 20] += 1.5
    area = {fit: auroc(*(side @ fit(*sides) for side in held)) for fit in (lda, diff_means)}
    assert area[lda] > area[diff_means] + 0.15


def test_pca_finds_what_differs_most_within_pairs():
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(50, 30, generator=draw) * 10
    planted = torch.nn.functional.normalize(torch.randn(30, generator=draw), dim=0)
    lengths = torch.rand(50, 1, generator=draw) + 0.5
    row = pca(shared + lengths * planted, shared + torch.randn(50, 30, generator=draw) * 0.01)
    assert row @ planted > 0.99
    unpaired = pca(shared + lengths * planted, shared.roll(1, 0))
    assert abs(unpaired @ planted) < 0.7, "control: without the pairing, the shared part is louder"


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS.keys())
def test_what_gives_no_direction_is_named(fit):
    positive, negative, _ = clouds(10)
    broken = positive.clone()
    broken[3, 2], broken[5, 0] = float("nan"), float("inf")
    with pytest.raises(InterpError, match="2 of 10 positive rows have NaN or infinite entries"):
        fit(broken, negative)
    with pytest.raises(InterpError, match="the negative side has no rows"):
        fit(positive, negative[:0])
    constant = torch.full((10, 12), 0.3)
    with pytest.raises(InterpError, match=r"equal means|feature is constant|differences are zero"):
        fit(constant, constant)


def test_what_gives_one_method_no_direction_is_named():
    positive, negative, _ = clouds(10)
    ones, zeros = torch.ones(10, 12), torch.zeros(10, 12)
    with pytest.raises(InterpError, match="neither side varies, so there is no covariance"):
        lda(ones, zeros)
    assert_parallel(ridge(ones, zeros), torch.ones(12))
    with pytest.raises(InterpError, match="got 10 positive and 9 negative rows"):
        pca(positive, negative[1:])
    with pytest.raises(InterpError, match="two leading components of one size"):
        pca(torch.eye(12)[:10], torch.zeros(10, 12))
    with pytest.raises(InterpError, match="widths 12 and 11"):
        require_sides(positive, negative[:, 1:])
    with pytest.raises(InterpError, match="all 10 differences are zero"):
        pca(positive, positive)


def test_a_feature_that_is_constant_carries_no_weight():
    positive, negative, _ = clouds(60)
    sides = [torch.cat([side, torch.full((60, 1), 7.0)], dim=1) for side in (positive, negative)]
    for fit in FITS.values():
        row = fit(*sides)
        if fit is not diff_means_orthogonal:  # which takes the negative mean out, constant and all
            assert abs(row[-1]) < 1e-6 * row.norm()
