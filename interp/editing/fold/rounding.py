"""Rounding of edited weights to 16 bits, and how far two computations of the same edit may be apart.

`round_onto` rounds so that what an edit removed stays removed. After W' = P W a cast to bfloat16 restores about 2e-3 of
the write along r, since its errors are not in P's range. Here each written vector is rounded entry by entry, from the
largest |r_i| to the smallest, and the error along r so far is taken off the remaining entries with the least change:

    t_j = w_j - r_jᵀ G_j⁻¹ s,    q_j = round(t_j),    s <- s + r_j (q_j - w_j),    G_j = sum over i >= j of r_i r_iᵀ

The idea is that of Frantar et al. 2022, "Optimal brain compression", https://arxiv.org/abs/2208.11580, with the edit's
subspace in the place of the inputs' covariance. No entry is moved by more than half a unit in its last place before it
is rounded, so that a direction with few large coordinates can't spoil the small ones.

`rounding_units_of` compares two results entry by entry. A map takes (read w) write off each written vector w. Another
processor adds the products in another order, which moves every entry of the result by a few units, in the type computed
in, of the whole vector: far more than a unit of an entry that the edit brought near zero. So in addition to one unit of
the entry in the type stored, each may be off by

    8 eps |w| growth        eps of the type computed in, growth = product over maps of 1 + sum |read_i| |write_i|

(`Plan.rounding_reach`). For float32 computed in float64 that is nothing, and for 16 bits computed in float32 a
ten-thousandth of a typical entry.

Limitations: quantising afterwards undoes the compensation. Measure the leak again then.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from interp.core.errors import InterpError

_BITS = {torch.bfloat16: 8, torch.float16: 11}
SIXTEEN_BITS = tuple(_BITS)


def round_onto(
    vectors: Float[Tensor, "n d_model"], rows: Float[Tensor, "k d_model"], dtype: torch.dtype
) -> Float[Tensor, "n d_model"]:
    """The vectors in a 16-bit type, with their components along the rows preserved.

    >>> w, r = torch.full((1, 64), 0.301), torch.full((1, 64), 0.125)
    >>> [round(abs(float((x.float() - w).sum())), 2) for x in (w.bfloat16(), round_onto(w, r, torch.bfloat16))]
    [0.01, 0.0]
    """
    if dtype not in _BITS:
        raise InterpError(f"rounding to {dtype} is not compensated; expected one of {', '.join(map(str, _BITS))}")
    order, steps = _steps(rows)
    wide = vectors.float()[:, order].T.contiguous()
    along = rows.to(wide)[:, order]
    rounded = torch.empty_like(wide, dtype=dtype)
    owed = wide.new_zeros(len(rows), wide.shape[1])
    for j, exact in enumerate(wide):
        limit = torch.ldexp(torch.ones_like(exact), torch.frexp(exact).exponent - _BITS[dtype] - 1)
        shift = (steps[j] @ owed).clamp(-limit, limit)
        rounded[j] = (exact - shift).to(dtype)
        owed += along[:, j, None] * (rounded[j].float() - exact)
    out = torch.empty_like(rounded)
    out[order] = rounded
    return out.T


def rounding_units_of(
    held: Shaped[Tensor, "*shape"], expected: Shaped[Tensor, "*shape"], dtype: torch.dtype, reach: Tensor | float = 0.0
) -> float:
    """The largest difference in rounding units of a type, beyond `reach`; infinite where either is not finite.

    >>> rounding_units_of(torch.tensor([1.0 + 2**-7]), torch.tensor([1.0]), torch.bfloat16)
    0.9922480620155039
    """
    if torch.equal(held, expected):
        return 0.0
    if not dtype.is_floating_point:
        return torch.inf
    worst = 0.0
    limits = torch.finfo(dtype)
    slack = torch.as_tensor(reach, dtype=torch.float64)
    for start in range(0, max(1, len(held)), step := max(1, (1 << 22) // max(1, held[:1].numel()))):
        first, second = (x[start : start + step].double() for x in (held, expected))
        part = slack[start : start + step] if slack.ndim and len(slack) == len(held) else slack
        unit = limits.eps * torch.maximum(first.abs(), second.abs()).clamp(min=limits.smallest_normal)
        off = ((first - second).abs() - part).clamp(min=0) / unit
        worst = max(worst, float(off.nan_to_num(torch.inf).max()))
    return worst


def _steps(rows: Float[Tensor, "k d_model"]) -> tuple[Tensor, Float[Tensor, "d_model k"]]:
    """The order of coordinates, and r_jᵀ G_j⁻¹ of each."""
    wide = rows.double()
    order = wide.norm(dim=0).argsort(descending=True)
    columns = wide[:, order].T
    products = columns[:, :, None] * columns[:, None, :]
    rest = products.flip(0).cumsum(0).flip(0)
    # The last k - 1 have too few coordinates after them to reach every row; the pseudo-inverse comes nearest.
    steps = (columns[:, None, :] @ torch.linalg.pinv(rest, rtol=1e-9, hermitian=True)).squeeze(1)
    return order, steps.float()
