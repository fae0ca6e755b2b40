"""What an edit does to one tensor: inputs zeroed, then affine maps on what it writes, in the tensor's own coordinates.

A map is y -> keep · y - (y readᵀ) write + constant on vectors of the residual stream. On a weight it acts on the axis
that is written, and the constant has no place there; on tables and biases each row is such a vector:

    nn.Linear (out, in)       W - writeᵀ (read W)
    Conv1D (in, out), rows    W - (W readᵀ) write, and for tables and biases + constant

Three-dimensional experts are the same with an axis before. Behind a norm y = g · x / rms(x) the map on y is the map on
x with read · g and write / g, up to the factor rms(x) / rms(x'), one number a token: for a projection
W' = diag(1/g) P diag(g) W. Where some |g| are near 0 that would blow up rows of W; projecting q = g · r instead leaves
nothing along r either, but takes away g · q where it should have taken r.

Tensors are worked on in pieces along the axis that is not written, so that beside the tensor and its edited copy only
tens of megabytes are needed. 16-bit types are computed in float32, others in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.linalg import orthonormal_rows
from interp.editing.rounding import SIXTEEN_BITS, round_onto
from interp.interventions.ops import Affine
from interp.models.writers import Layout

_PIECE = 1 << 21  # entries
_NEAR_ZERO = 10.0  # by how much a map may blow up what it moves before it is counted as near a zero of the gain


@dataclass(frozen=True, eq=False)
class Map:
    """y -> keep · y - (y readᵀ) write + constant; `keep` is 1 and `constant` 0 where None."""

    read: Float[Tensor, "k d_model"]
    write: Float[Tensor, "k d_model"]
    constant: Float[Tensor, "d_model"] | None = None
    keep: Float[Tensor, "d_model"] | None = None

    @classmethod
    def of(cls, affine: Affine) -> "Map":
        """An op's affine form."""
        return cls(affine.read, affine.write, affine.bias if affine.bias.any() else None)

    @classmethod
    def nothing(cls, d_model: int) -> "Map":
        """y -> 0."""
        return cls(torch.zeros(0, d_model), torch.zeros(0, d_model), keep=torch.zeros(d_model))

    @property
    def linear(self) -> "Map":
        """Without the constant."""
        return replace(self, constant=None)

    @property
    def is_constant(self) -> bool:
        """Whether it adds a vector and does no more."""
        return len(self.read) == 0 and self.keep is None

    @property
    def idempotent(self) -> bool:
        """Whether once is as good as twice: read times writeᵀ is the identity, and the constant is read as itself."""
        if self.keep is not None or self.is_constant:
            return False
        square = self.read.double() @ self.write.double().T
        straight = torch.allclose(square, torch.eye(len(square), dtype=square.dtype), atol=1e-4)
        return straight and (self.constant is None or self._written(self.constant))

    @property
    def projection(self) -> bool:
        """Whether it is an orthogonal projection."""
        return self.constant is None and self.idempotent and torch.allclose(self.read, self.write, atol=1e-5)

    def _written(self, vector: Float[Tensor, "d_model"]) -> bool:
        """Whether a vector is in the span of what is written, where alone an eraser's constant is."""
        again = (vector.double() @ self.read.double().T) @ self.write.double()
        return torch.allclose(again, vector.double(), atol=1e-4 * float(vector.abs().max()))

    def scaled(self, factor: float) -> "Map":
        """The same map where vectors are stored divided by a factor."""
        return self if self.constant is None else replace(self, constant=self.constant / factor)

    def behind(self, gain: Float[Tensor, "d_model"]) -> "Map":
        """The map on x that does the same to y = gain · x as this does to y."""
        wide = gain.double()
        return replace(self, read=self.read.double() * wide, write=self.write.double() / wide)

    def onto(self, gain: Float[Tensor, "d_model"]) -> "Map":
        """The projection of x after which gain · x has nothing along the rows, whatever the gain."""
        rows = orthonormal_rows(self.read.double() * gain.double())
        return replace(self, read=rows, write=rows)

    def blows_up(self, gain: Float[Tensor, "d_model"]) -> bool:
        """Whether `behind` would write vectors far longer than those it reads: some |gain| are near 0."""
        if not len(self.read):
            return False
        if not gain.all():
            return True
        moved = self.behind(gain)
        growth = moved.read.norm(dim=1) * moved.write.norm(dim=1)
        usual = self.read.double().norm(dim=1) * self.write.double().norm(dim=1)
        return bool((growth > _NEAR_ZERO * usual).any())


@dataclass(frozen=True, eq=False)
class Change:
    """One tensor's edit: the inputs of a weight that are zeroed, then maps, in order.

    `first` is added to a bias before the maps. `keep_norms` brings each vector that a weight or table writes back to
    its former length: columns of (out, in), never rows. `compensate` rounds to 16 bits so that what was removed stays
    removed.
    """

    layout: Layout
    maps: tuple[Map, ...] = ()
    zeroed: Int[Tensor, "inputs"] | None = None
    first: Float[Tensor, "d_model"] | None = None
    keep_norms: bool = False
    compensate: bool = False

    def axis(self, ndim: int) -> int:
        """The axis along which a tensor of so many dimensions can be cut into pieces that are edited one by one."""
        return 1 if self.layout == "out_in" and ndim == 2 else 0

    def apply(self, tensor: Tensor, start: int = 0) -> Tensor:
        """The edited tensor, in its own type; `start` says where on `axis` it begins, if it is a piece."""
        out = torch.empty_like(tensor)
        axis = self.axis(tensor.ndim)
        for offset, count in _pieces(tensor, axis):
            piece = self._rows(tensor.narrow(axis, offset, count), start + offset)
            out.narrow(axis, offset, count).copy_(piece.transpose(-1, -2) if self._turned else piece)
        return out

    @property
    def _turned(self) -> bool:
        return self.layout == "out_in"

    def _rows(self, piece: Tensor, start: int) -> Tensor:
        """Edited vectors of the residual stream, one a row."""
        wide = piece.to(torch.float32 if piece.element_size() == 2 else torch.float64)
        rows = wide.transpose(-1, -2) if self._turned else wide
        before = rows.norm(dim=-1, keepdim=True) if self.keep_norms and self.layout != "bias" else None
        rows = self._prepared(rows, start)
        for edit in self.maps:
            rows = self._mapped(rows, edit)
        if before is not None:
            after = rows.norm(dim=-1, keepdim=True)
            # Vectors of which rounding is all that is left have no direction to be kept.
            rows = rows * torch.where(after > 1e-6 * before, before / after, 1.0)
        return self._narrowed(rows, piece.dtype)

    def _prepared(self, rows: Tensor, start: int) -> Tensor:
        """With inputs zeroed, and what they used to write added to the bias."""
        if self.first is not None:
            return rows + self.first.to(rows)
        if self.zeroed is None:
            return rows
        inside = self.zeroed[(self.zeroed >= start) & (self.zeroed < start + rows.shape[-2])] - start
        return rows.index_fill(-2, inside.to(rows.device), 0.0)

    def _mapped(self, rows: Tensor, edit: Map) -> Tensor:
        read, write = edit.read.to(rows), edit.write.to(rows)
        changed = rows if edit.keep is None else rows * edit.keep.to(rows)
        if len(read):
            changed = changed - (rows @ read.T) @ write
        return changed if edit.constant is None or not self.holds_constants else changed + edit.constant.to(rows)

    @property
    def holds_constants(self) -> bool:
        """Whether each of the tensor's rows is added to the stream as it is."""
        return self.layout in ("table", "bias")

    def _narrowed(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        kept = [edit.read for edit in self.maps if edit.idempotent]
        if not (self.compensate and kept and dtype in SIXTEEN_BITS):
            return rows.to(dtype)
        values, basis = torch.linalg.svd(torch.cat([read.double() for read in kept]), full_matrices=False)[1:]
        basis = basis[values > 1e-6 * values[0]]
        return round_onto(rows.reshape(-1, rows.shape[-1]), basis, dtype).reshape(rows.shape)


def _pieces(tensor: Tensor, axis: int) -> Iterator[tuple[int, int]]:
    """Where pieces begin on the axis, and how long they are."""
    length = tensor.shape[axis]
    step = max(1, _PIECE // max(1, tensor.numel() // max(1, length)))
    for offset in range(0, length, step):
        yield offset, min(step, length - offset)
