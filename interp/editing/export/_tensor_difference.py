"""Low-rank factors of what an edit subtracts from a tensor, for adapters and undo patches.

An edit of k directions changes a weight by a matrix of rank k at most, an ablated head by one of the head's width. The
residual stream's side of the factors is found by a randomised range finder (Halko, Martinsson and Tropp 2011, "Finding
structure with randomness"), with a few more samples than the limit of the rank: either they span the whole range, or
the rank is above the limit, which is an error. The difference is computed in float64, so that it is that of the edit
and not of its rounding, and in pieces, so that it takes little memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.editing.fold.affine_maps import MapChange, pieces

RANK_LIMIT = 256
_MORE = 8
_PIECE = 1 << 21  # entries
_ZERO = 1e-9  # a share of the largest singular value


@dataclass(frozen=True, eq=False)
class Factors:
    """original - edited: `stream` times `inputs`, or that transposed where rows are vectors of the residual stream."""

    stream: Float[Tensor, "d_model rank"]
    inputs: Float[Tensor, "rank n_inputs"]
    transposed: bool

    @property
    def rank(self) -> int:
        """Rank of the edit."""
        return self.stream.shape[1]

    @property
    def left(self) -> Float[Tensor, "rows rank"]:
        """The first factor of the tensor as it is stored."""
        return self.inputs.T if self.transposed else self.stream

    @property
    def right(self) -> Float[Tensor, "rank columns"]:
        """The second factor of the tensor as it is stored."""
        return self.stream.T if self.transposed else self.inputs


def factors(name: str, change: MapChange, tensor: Float[Tensor, "rows columns"], limit: int = RANK_LIMIT) -> Factors:
    """The factors of one tensor's edit, float64. Raises where its rank is above the limit."""
    axis = change.axis(2)
    d_model, count = tensor.shape[1 - axis], tensor.shape[axis]
    samples = min(limit + _MORE, d_model, count)
    draw = torch.Generator().manual_seed(0)
    sketch = torch.zeros(d_model, samples, dtype=torch.float64)
    for _, piece in _differences(change, tensor, axis):
        sketch += piece @ torch.randn(piece.shape[1], samples, generator=draw, dtype=torch.float64)
    if not bool(sketch.isfinite().all()):
        raise InterpError(f"{name} holds NaN or infinite values, or its edit makes them; restore the checkpoint")
    basis, size, _ = torch.linalg.svd(sketch, full_matrices=False)
    rank = int((size > _ZERO * size[0]).sum()) if size[0] > 0 else 0
    if rank > limit:
        raise InterpError(f"the edit of {name} has a rank above {limit}, too high for factors; keep the original")
    basis = basis[:, :rank]
    inputs = torch.empty(rank, count, dtype=torch.float64)
    for start, piece in _differences(change, tensor, axis):
        inputs[:, start : start + piece.shape[1]] = basis.T @ piece
    return Factors(basis, inputs, transposed=axis == 0)


def _differences(change: MapChange, tensor: Tensor, axis: int) -> Iterator[tuple[int, Float[Tensor, "d_model n"]]]:
    """Pieces of original - edited in float64, with one vector of the residual stream per column."""
    for start, count in pieces(tensor, axis, _PIECE):
        piece = tensor.narrow(axis, start, count).double()
        difference = piece - change.apply(piece, start)
        yield start, difference if axis == 1 else difference.T
