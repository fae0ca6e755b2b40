"""Orthonormal rows span what was given; projections and erasures remove it, whatever the type."""

import pytest
import torch

from interp.core.errors import InterpError
from interp.core.linalg import erase, orthonormal_rows, project_out

G = torch.Generator().manual_seed(0)
ROWS, X = torch.randn(3, 16, generator=G), 5 * torch.randn(40, 16, generator=G)


def test_rows_are_orthonormal_and_span_the_same():
    rows = orthonormal_rows(ROWS)
    assert torch.allclose(rows @ rows.T, torch.eye(3), atol=1e-6)
    assert torch.allclose(ROWS @ rows.T @ rows, ROWS, atol=1e-5)
    assert torch.equal(orthonormal_rows(rows), rows), "orthonormal rows keep every bit"
    assert torch.allclose(orthonormal_rows(ROWS[:1]), ROWS[:1] / ROWS[:1].norm()), "a single row keeps its sign"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(0, 4), "at least one row"),
        (torch.full((1, 4), torch.nan), "NaN or infinite"),
        (torch.zeros(1, 4), "direction is zero"),
        (torch.ones(2, 4), "linearly dependent"),
    ],
)
def test_rows_that_span_nothing_are_refused(rows, message):
    with pytest.raises(InterpError, match=message):
        orthonormal_rows(rows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_nothing_of_the_span_is_left(dtype, tolerance):
    rows, x = orthonormal_rows(ROWS), X.to(dtype)
    projected = project_out(x, rows)
    assert projected.dtype == dtype
    assert (projected.double() @ rows.double().T).abs().max() < tolerance
    assert (x.double() @ rows.double().T).abs().max() > 1, "the control: there was something to remove"
    mean = torch.ones(16)
    erased = erase(x, rows, rows, mean)
    assert ((erased.double() - mean) @ rows.double().T).abs().max() < tolerance
    assert torch.allclose(project_out(x, rows, 0.0), x)
