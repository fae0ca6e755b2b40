"""Erasers erase what they say, with the least change; the test that stops them keeps its level."""

from itertools import pairwise

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from labelled_activations import data, fitted, moved
from scipy.stats import beta, f
from sklearn.covariance import OAS
from sklearn.linear_model import LogisticRegression

from interp import InterpError
from interp.directions.methods._canonical import _beta_tail, canonical, oracle_shrinkage
from interp.directions.methods.erasure import ErasureFitter, NothingToErase
from interp.directions.methods.nullspace_projection import inlp
from interp.directions.scores import auroc

seeds = st.integers(0, 10**6)
shrinkages = st.one_of(st.none(), st.floats(0, 1))


def cross_correlation(x, z, classes=3):
    """The largest correlation of a coordinate with a class."""
    onehot = torch.nn.functional.one_hot(z, classes).double()
    together = torch.cat([x.double(), onehot], dim=1).T
    return torch.corrcoef(together)[: x.shape[1], x.shape[1] :].nan_to_num().abs().max()


def by_hand(x, z, classes=3):
    """LEACE as the paper writes it, with symmetric square roots of the covariance."""
    onehot = torch.nn.functional.one_hot(z, classes).double()
    centred, labels = x - x.mean(0), onehot - onehot.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    whitened = torch.linalg.inv(root) @ centred.T @ labels / len(x)
    basis = torch.linalg.svd(whitened, full_matrices=False)[0][:, : classes - 1]
    return x - centred @ (root @ basis @ basis.T @ torch.linalg.inv(root)).T


@given(seeds, shrinkages)
def test_leace_leaves_no_covariance_whatever_the_shrinkage(seed, shrinkage):
    x, z = data(seed=seed)
    eraser = fitted(x, z).leace(level=1.0, shrinkage=shrinkage)
    assert cross_correlation(x, z) > 0.2, "control: there was some"
    assert cross_correlation(eraser(x), z) < 1e-9
    torch.testing.assert_close(eraser.read @ eraser.write.T, torch.eye(2, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(eraser(x).mean(0), x.mean(0))
    torch.testing.assert_close(eraser(eraser(x)), eraser(x), atol=1e-8, rtol=1e-8)


@given(seeds)
def test_leace_without_shrinkage_is_the_papers_formula(seed):
    x, z = data(seed=seed)
    torch.testing.assert_close(
        fitted(x, z).leace(1.0, shrinkage=0.0)(x), by_hand(x, z), atol=1e-3, rtol=1e-6
    )  # by hand is the less exact


@given(seeds, st.lists(st.integers(0, 400), max_size=5))
def test_batches_one_after_another_are_one_batch(seed, cuts):
    x, z = data(seed=seed)
    parts = ErasureFitter(x.shape[1], 3)
    for start, stop in pairwise([0, *sorted(cuts), len(x)]):
        parts.update(x[start:stop] + 1e4, z[start:stop])
    whole = fitted(x + 1e4, z)
    assert parts.count == whole.count == len(x)
    for covariance, expected in zip(parts.covariances(), whole.covariances(), strict=True):
        torch.testing.assert_close(covariance, expected, atol=1e-6, rtol=1e-9)
    torch.testing.assert_close(parts.leace(1.0)(x), whole.leace(1.0)(x), atol=1e-5, rtol=1e-6)


def test_classes_are_columns_of_zeros_and_ones():
    x, z = data()
    columns = torch.nn.functional.one_hot(z, 3)
    for other in (columns, columns.float(), columns[:, :2], columns[:, :2] * torch.tensor([1e-9, 1e6])):
        same = ErasureFitter(x.shape[1], other.shape[1]).update(x, other).leace(1.0)
        torch.testing.assert_close(same(x), fitted(x, z).leace(1.0)(x), atol=1e-6, rtol=1e-6)


@given(seeds)
def test_leace_moves_less_than_projections_that_erase_the_same(seed):
    x, z = data(seed=seed)
    fitter = fitted(x, z)
    leace, sal, shrunk = fitter.leace(1.0, shrinkage=0.0), fitter.sal(1.0), fitter.leace(1.0, shrinkage=0.5)
    assert cross_correlation(sal(x), z) < 1e-9
    assert moved(leace, x) <= moved(sal, x) * (1 + 1e-9)
    assert moved(leace, x) <= moved(shrunk, x) * (1 + 1e-9)
    total = float((x - x.mean(0)).square().sum(1).mean())
    for eraser in (leace, sal, shrunk):
        assert eraser.statistics["displaced"] * total == pytest.approx(moved(eraser, x))


def test_on_other_data_shrinkage_moves_less():
    changes = {0.0: 0.0, None: 0.0}
    for seed in range(10):
        x, z = data(n=2060, d=40, classes=2, gap=0.5, seed=seed, mixed=False)
        for shrinkage in changes:
            changes[shrinkage] += moved(fitted(x[:60], z[:60], 2).leace(1.0, shrinkage), x[60:])
    assert changes[None] < 0.9 * changes[0.0]


def test_sal_is_the_projection_off_leading_left_singular_vectors():
    x, z = data()
    centred, labels = x - x.mean(0), torch.nn.functional.one_hot(z, 3).double()
    left, _, right = torch.linalg.svd(centred.T @ (labels - labels.mean(0)))
    for rank in (1, 2):
        q = left[:, :rank]
        eraser = fitted(x, z).sal(rank=rank)
        torch.testing.assert_close(eraser(x), x - centred @ q @ q.T, atol=1e-8, rtol=1e-8)
        gone = (eraser(x) - x.mean(0)).T @ (labels - labels.mean(0)) @ right[:rank].T
        assert gone.abs().max() < 1e-6
    with pytest.raises(InterpError, match="rank is 3; expected 1 to 2"):
        fitted(x, z).sal(rank=3)


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_no_logistic_regression_reads_what_was_erased(share):
    x, z = data(n=5000, classes=2, gap=1.5, share=share)
    eraser = fitted(x, z, 2).leace()
    scale = x.std(0)
    area, accuracy = {}, {}
    for name, acts in (("before", x), ("after", eraser(x))):
        inputs = ((acts - x.mean(0)) / scale).numpy()
        probe = LogisticRegression(C=1e6, tol=1e-8, max_iter=5000).fit(inputs, z.numpy())
        score = torch.tensor(probe.decision_function(inputs))
        area[name] = auroc(score[z == 1], score[z == 0])
        accuracy[name] = float(((score > 0) == (z == 1)).double().mean())
        if name == "after":
            assert abs(probe.coef_).max() < 1e-3
    majority = max(float((z == c).double().mean()) for c in (0, 1))
    assert area["before"] > 0.95, "control: it is read before"
    assert accuracy["before"] > majority + 0.005, "control"
    assert accuracy["after"] == pytest.approx(majority, abs=1e-3 if share == 0.5 else 1e-9)


def test_a_rare_concept_of_small_correlation_is_erased_and_noise_is_not():
    x, z = data(n=20000, classes=2, share=0.01, gap=0.3)
    assert cross_correlation(x, z, 2) < 0.1, "control: a singular value as small as a cut-off would drop"
    eraser = fitted(x, z, 2).leace()
    assert eraser.statistics["p"] < 1e-6
    assert cross_correlation(eraser(x), z, 2) < 1e-9
    shuffled = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(1))]
    with pytest.raises(NothingToErase, match=r"can't be told from chance on 20000 rows \(p = 0\.\d+, level 0\.001\)"):
        fitted(x, shuffled, 2).leace()
    assert cross_correlation(fitted(x, shuffled, 2).leace(level=1.0)(x), shuffled, 2) < 1e-9


def test_a_significant_concept_is_erased_with_all_of_its_classes():
    x, z = data(n=3000, classes=2)
    noise = torch.randn(3000, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    concepts = torch.cat([z[:, None].double(), noise], dim=1)
    eraser = ErasureFitter(x.shape[1], 4).update(x, concepts).leace()
    assert len(eraser.read) == 4
    assert torch.corrcoef(torch.cat([eraser(x), concepts], dim=1).T)[:8, 8:].abs().max() < 1e-9
    with pytest.raises(NothingToErase):
        ErasureFitter(x.shape[1], 3).update(x, noise).leace()


@given(st.floats(0, 1), st.floats(0.3, 500), st.floats(0.3, 5000))
@example(1e-24, 0.3125, 1.0)  # next to 1, x is rounded away
def test_beta_tail_is_scipys(x, a, b):
    assert _beta_tail(x, a, b) == pytest.approx(beta.sf(x, a, b), rel=1e-8, abs=1e-13)


def test_one_concept_unshrunk_has_the_p_value_of_the_f_test():
    x, z = data(n=100, classes=2, gap=0.2)
    result = canonical(*fitted(x, z, 2).covariances(), 100, 0.0)
    design = torch.cat([x, torch.ones(100, 1, dtype=torch.float64)], dim=1)
    target = z.double()[:, None]
    rest = float((target - design @ torch.linalg.lstsq(design, target).solution).square().sum())
    explained = float((target - target.mean()).square().sum()) - rest
    assert result.p == pytest.approx(f.sf((explained / 8) / (rest / 91), 8, 91), rel=1e-6)


@pytest.mark.parametrize(("n", "d", "classes"), [(200, 10, 2), (60, 100, 3), (100, 6, 5)])
@pytest.mark.parametrize("shrinkage", [None, 0.0, 1.0])
def test_labels_by_chance_are_called_significant_as_often_as_the_level_says(n, d, classes, shrinkage):
    if shrinkage == 0 and d >= n:
        x, z = data(n, d, classes)
        with pytest.raises(NothingToErase, match="p = 1"):
            fitted(x, z, classes).leace(shrinkage=0.0)  # any concept is read perfectly there
        return
    draw, p_values = torch.Generator().manual_seed(0), []
    for seed in range(300):
        x, _ = data(n, d, 2, seed=seed)
        z = torch.randint(0, classes, (n,), generator=draw)
        p_values.append(canonical(*fitted(x, z, classes).covariances(), n, shrinkage).p)
    share = (torch.tensor(p_values)[:, None] <= torch.tensor([0.05, 0.5])).double().mean(0)
    assert 0.02 < share[0] < 0.09
    assert 0.42 < share[1] < 0.58


def test_the_shrinkage_is_the_published_one():
    x, z = data(n=40, d=30, classes=2)
    standard = (x - x.mean(0)) / x.std(0, correction=0)
    sxx = fitted(x, z, 2).covariances()[0]
    correlation = standard.T @ standard / 40
    squares, trace = float(correlation.square().sum()), 30.0
    published = ((1 - 2 / 30) * squares + trace**2) / ((41 - 2 / 30) * (squares - trace**2 / 30))
    assert oracle_shrinkage(sxx, 40) == pytest.approx(published)
    assert oracle_shrinkage(sxx, 40) == pytest.approx(OAS().fit(standard.numpy()).shrinkage_, rel=0.05)
    huge = sxx.clone()
    huge[0] *= 1e4
    huge[:, 0] *= 1e4
    assert oracle_shrinkage(huge, 40) == pytest.approx(published), "one huge coordinate has no say"


def test_constant_and_collinear_coordinates_do_no_harm():
    x, z = data(n=300)
    wide = torch.cat([x, x[:, :2].sum(1, keepdim=True), torch.full((300, 1), 0.1, dtype=torch.float64)], dim=1)
    for shrinkage in (None, 0.0):
        eraser = fitted(wide, z).leace(1.0, shrinkage)
        assert cross_correlation(eraser(wide), z) < 1e-7
        assert torch.equal(eraser(wide)[:, -1], wide[:, -1])
    torch.testing.assert_close(
        fitted(wide, z).leace(1.0, 0.0)(wide)[:, :8], fitted(x, z).leace(1.0, 0.0)(x), atol=1e-6, rtol=0
    )


def test_types_are_kept_and_narrow_ones_computed_wide():
    x, z = data()
    eraser = fitted(x, z).leace()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        acts = x.to(dtype)
        assert eraser(acts).dtype == dtype
        torch.testing.assert_close(eraser(acts), eraser(acts.double()).to(dtype), atol=1e-4, rtol=1e-2)
    assert eraser(x.view(20, 20, 8)).shape == (20, 20, 8)


def test_errors_say_what_to_do():
    x, z = data(n=40)
    fitter = ErasureFitter(8, 3)
    for wrong, concepts, message in (
        (x[:, :5], z, r"activations have shape \(40, 5\); expected \(batch, 8\)"),
        (x, z[:30], r"concepts have shape \(30,\).* expected \(40, 3\)"),
        (x, z.double(), r"expected \(40, 3\), or \(40,\) integers"),
        (x, z + 1, "classes go from 1 to 3; expected 0 to 2"),
        (x.masked_fill(x == x[7, 2], torch.nan), z, "activations have NaN or infinite entries, first in row 7"),
    ):
        with pytest.raises(InterpError, match=message):
            fitter.update(wrong, concepts)
    assert fitter.count == 0
    with pytest.raises(InterpError, match="only 0 rows; 3 concepts need 6"):
        fitter.leace()
    with pytest.raises(InterpError, match="the concept is constant over all 40 rows"):
        fitted(x, 0 * z).leace()
    with pytest.raises(InterpError, match="the activations are constant"):
        fitted(0 * x + 0.1, z).leace()
    with pytest.raises(InterpError, match="level is 0"):
        fitted(x, z).leace(level=0.0)
    with pytest.raises(InterpError, match="d_model is 0"):
        ErasureFitter(0, 1)
    with pytest.raises(InterpError, match="not of two classes"):
        inlp(x, 0 * z)
