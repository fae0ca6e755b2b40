"""Ops are what their algebra says, and their affine forms agree with them."""

import pytest
import torch
from distilling import TEXTS
from hypothesis import given
from hypothesis import strategies as st

from interp import Add, InterpError, Project, Recipe, distil, export
from interp.core.linalg import orthonormal_rows
from interp.interventions import Cap, Erase, LowRank

D = 8
seeds = st.integers(0, 10**6)


def rows(seed, k):
    return torch.randn(k, D, generator=torch.Generator().manual_seed(seed))


def acts(seed, n=5):
    return torch.randn(2, n, D, generator=torch.Generator().manual_seed(seed + 1))


@given(seeds, st.integers(1, 4))
def test_projection_removes_the_span_and_nothing_else(seed, k):
    op, x = Project(rows(seed, k)), acts(seed)
    y = op(x)
    assert (x @ rows(seed, k).T).abs().max() > 1e-3, "control: there was something to remove"
    torch.testing.assert_close(y @ rows(seed, k).T, torch.zeros(2, 5, k), atol=1e-4, rtol=0)
    torch.testing.assert_close(op(y), y, atol=1e-5, rtol=1e-5)
    removed = (x - y).double()
    inside = removed @ op.rows.double().T @ op.rows.double()
    torch.testing.assert_close(inside, removed, atol=1e-5, rtol=1e-4)


@given(seeds, st.floats(0.1, 3))
def test_a_relative_addition_is_so_many_times_as_long_as_x(seed, scale):
    x, v = acts(seed), rows(seed, 1)[0]
    added = Add(v * 7, scale, relative=True)(x) - x
    torch.testing.assert_close(added.norm(dim=-1), scale * x.norm(dim=-1), atol=1e-4, rtol=1e-4)
    cosine = torch.cosine_similarity(added, v.expand_as(added), dim=-1)
    torch.testing.assert_close(cosine, torch.ones(2, 5), atol=1e-4, rtol=0)
    assert Add(v, scale, relative=True).affine() is None


@given(seeds, st.floats(-2, 2), st.floats(0, 2))
def test_a_cap_holds_one_coordinate_within_its_bounds(seed, low, width):
    x, row = acts(seed), rows(seed, 1)[0]
    unit = row.double() / row.double().norm()
    reading = x.double() @ unit
    bounded = torch.where(reading < low, low, torch.where(reading > low + width, low + width, reading))
    y = Cap(row, low, low + width)(x)
    torch.testing.assert_close(y.double(), x + (bounded - reading)[..., None] * unit, atol=1e-5, rtol=1e-5)
    inside = bounded == reading
    assert torch.equal(y[inside], x[inside]), "bit for bit"
    torch.testing.assert_close(
        Cap(row, low)(x) + Cap(row, None, low)(x), x + Cap(row, low, low)(x), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(Cap(row)(x), x), "control: without bounds it is the identity"
    assert torch.equal(Cap(row, -99, 99)(x), x), "control: so it is within wide ones"


def test_a_cap_is_saved_and_distilled_but_does_not_fold(tiny, tmp_path):
    model, row = tiny("llama"), torch.arange(32.0)
    recipe = Recipe([("resid_post.1", Cap(row, high=-0.5))])
    recipe.save(tmp_path / "recipe")
    restored = Recipe.load(tmp_path / "recipe")
    assert restored.exact_digest == recipe.exact_digest != Recipe([("resid_post.1", Cap(row, high=0.5))]).exact_digest
    assert (restored.edits[0].op.low, restored.edits[0].op.high) == (None, -0.5)
    with model.hooked(restored):
        held = model.capture("w5 w6 w7", "resid_post.1")["resid_post.1"] @ (row / row.norm())
    free = model.capture("w5 w6 w7", "resid_post.1")["resid_post.1"] @ (row / row.norm())
    torch.testing.assert_close(held, free.clamp(max=-0.5), atol=1e-4, rtol=1e-4)
    assert (free > -0.5).any(), "control"
    with pytest.raises(InterpError, match="Cap is not an affine function"):
        export(recipe, model, tmp_path / "edited")
    assert distil(recipe, model, TEXTS[:40], rank=4, steps=10, batch_size=8).record.share < 0.9, "of the cap's effect"
    with pytest.raises(InterpError, match="the direction has 2 rows"):
        Cap(torch.eye(2))
    with pytest.raises(InterpError, match="low is 1 and high 0"):
        Cap(row, 1, 0)


def test_projecting_rows_one_after_another_is_not_the_projection():
    a, b = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]), torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0])
    x = torch.ones(1, D)
    together = Project(torch.stack([a, b]))(x)
    one_by_one = Project(b)(Project(a)(x))
    assert (together @ a).abs().max() < 1e-6
    assert (one_by_one @ a).abs().max() > 0.1


@given(seeds, st.floats(0, 2), st.integers(1, 3))
def test_affine_forms_agree_with_the_ops(seed, scale, k):
    x = acts(seed).double()
    basis = orthonormal_rows(rows(seed, k))
    ops = (
        Project(rows(seed, k), scale=scale),
        Add(rows(seed, 1)[0], scale=scale),
        Erase(rows(seed, k), rows(seed + 1, k), rows(seed + 2, 1)[0]),
        LowRank(basis, rows(seed + 3, k), rows(seed + 4, 1)[0, :k]),
    )
    for op in ops:
        affine = op.affine()
        by_form = x - (x @ affine.read.double().T) @ affine.write.double() + affine.bias.double()
        torch.testing.assert_close(op(x), by_form, atol=1e-5, rtol=1e-5)


@given(seeds)
def test_ops_leave_their_argument_alone(seed):
    x = acts(seed)
    before = x.clone()
    Project(rows(seed, 1))(x), Add(rows(seed, 1)[0])(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Project(torch.zeros(D)), "direction is zero"),
        (lambda: Project(torch.full((D,), float("nan"))), "NaN or infinite"),
        (lambda: Project(torch.ones(2, D)), "linearly dependent"),
        (lambda: Project(torch.ones(2, 2, D)), r"shape \(2, 2, 8\)"),
        (lambda: Project(torch.ones(D), scale=float("nan")), "scale of Project is nan"),
        (lambda: Project(torch.zeros(0, D)), "at least one row"),
        (lambda: Erase(torch.ones(2, D), torch.ones(1, D), torch.ones(D)), r"shapes \(2, 8\), \(1, 8\)"),
        (lambda: Erase(torch.full((1, D), float("inf")), torch.ones(1, D), torch.ones(D)), "read of Erase has NaN"),
        (lambda: LowRank(torch.ones(2, D), torch.ones(2, D), torch.ones(3)), r"and \(3,\); expected"),
        (lambda: LowRank(torch.eye(D)[:2] * 2, torch.ones(2, D), torch.ones(2)), "not orthonormal"),
        (lambda: Add(torch.zeros(D)), "non-zero vector"),
        (lambda: Add(torch.ones(2, D)), "one finite, non-zero vector"),
        (lambda: Project("hostility"), "direction is 'hostility'; expected a Direction"),
        (lambda: Add(["a", "b"]), "direction is a list; expected a Direction"),
    ],
)
def test_bad_directions_are_refused(make, message):
    with pytest.raises(InterpError, match=message):
        make()


def test_arrays_and_lists_are_directions_too():
    vector = rows(0, 1)[0]
    for form in (vector.numpy(), vector.tolist()):
        assert torch.allclose(Project(form).rows, Project(vector).rows)
        assert torch.equal(Add(form).vector, Add(vector).vector)


@given(seeds, st.integers(1, 5))
def test_orthonormal_rows_span_the_same_space(seed, k):
    basis = orthonormal_rows(rows(seed, k)).double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(k, dtype=torch.float64), atol=1e-6, rtol=0)
    given_rows = rows(seed, k).double()
    torch.testing.assert_close(given_rows @ basis.T @ basis, given_rows, atol=1e-5, rtol=1e-5)
    assert (basis[0] @ given_rows[0]) > 0
