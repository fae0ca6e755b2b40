"""What an edit does to one tensor: inputs scaled or zeroed, then affine maps on what it writes, in its coordinates.

A map is y -> keep · y - (y readᵀ) write + constant on vectors of the residual stream. On a weight it acts on the axis
that is written, and has no place for the constant; on tables and biases each row is such a vector:

    nn.Linear (out, in)       W - writeᵀ (read W)
    Conv1D (in, out), rows    W - (W readᵀ) write, and for tables and biases + constant

Three-dimensional experts are the same with a leading axis. Where a norm follows, the vectors are those before it.

Tensors are edited in pieces along the axis that is not written, so that only tens of megabytes are needed in addition
to the tensor and its edited copy. 16-bit types are computed in float32, others in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.editing.fold.rounding import SIXTEEN_BITS, round_onto
from interp.interventions.op import Affine
from interp.models.architectures.writers import Layout

_PIECE = 1 << 20  # entries; allocating larger ones takes longer than editing them


@dataclass(frozen=True, eq=False)
class TensorMap:
    """y -> keep · y - (y readᵀ) write + constant; `keep` is 1 and `constant` 0 where None."""

    read: Float[Tensor, "k d_model"]
    write: Float[Tensor, "k d_model"]
    constant: Float[Tensor, "d_model"] | None = None
    keep: Float[Tensor, "d_model"] | None = None

    @classmethod
    def of(cls, affine: Affine) -> "TensorMap":
        """The map of an op's affine form."""
        return cls(affine.read, affine.write, affine.bias if affine.bias.any() else None)

    @classmethod
    def keeping(cls, keep: Float[Tensor, "d_model"], constant: Float[Tensor, "d_model"] | None = None) -> "TensorMap":
        """y -> keep · y + constant."""
        none = torch.zeros(0, len(keep))
        return cls(none, none, constant, keep)

    @property
    def linear(self) -> "TensorMap":
        """The map without its constant."""
        return replace(self, constant=None)

    @property
    def is_constant(self) -> bool:
        """Whether it only adds a vector."""
        return len(self.read) == 0 and self.keep is None

    @property
    def idempotent(self) -> bool:
        """Whether twice equals once: read times writeᵀ is the identity, and the constant lies where it is written."""
        if self.keep is not None or self.is_constant:
            return False
        square = self.read.double() @ self.write.double().T
        straight = torch.allclose(square, torch.eye(len(square), dtype=square.dtype), atol=1e-4)
        return straight and (self.constant is None or self._written(self.constant))

    @property
    def is_zero(self) -> bool:
        """Whether it leaves nothing."""
        return self.constant is None and self.keep is not None and not self.keep.any()

    def _written(self, vector: Float[Tensor, "d_model"]) -> bool:
        """Whether a vector lies in the span of what is written, as an eraser's constant does."""
        again = (vector.double() @ self.read.double().T) @ self.write.double()
        return torch.allclose(again, vector.double(), atol=1e-4 * float(vector.abs().max()))

    def scaled(self, factor: float) -> "TensorMap":
        """The same map where vectors are stored divided by a factor."""
        return self if self.constant is None else replace(self, constant=self.constant / factor)


@dataclass(frozen=True, eq=False)
class MapChange:
    """One tensor's edit: inputs of a weight are zeroed or scaled, then maps act on what it writes, in order.

    Attributes:
        layout: Which axis is written, see `Writer`.
        maps: Maps on the written vectors.
        zeroed: Inputs that are zeroed.
        first: Added to a bias before the maps.
        keep_norms: Restore the norm of each vector that a weight or table writes: columns of (out, in), never rows.
        compensate: Round to 16 bits so that what was removed stays removed.
        factors: What each input is multiplied by.
        added: Factors of a matrix that is added last, as the weight is stored
            (`interp.editing.approximate.low_rank_factors`).
    """

    layout: Layout
    maps: tuple[TensorMap, ...] = ()
    zeroed: Int[Tensor, "inputs"] | None = None
    first: Float[Tensor, "d_model"] | None = None
    keep_norms: bool = False
    compensate: bool = False
    factors: Float[Tensor, "inputs"] | None = None
    added: tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank columns"]] | None = None

    def axis(self, ndim: int) -> int:
        """The axis along which a tensor of `ndim` dimensions can be cut into pieces that are edited one by one."""
        return 1 if self.layout == "out_in" and ndim == 2 else 0

    def fits(self, shape: tuple[int, ...], d_model: int, inputs: int | None = None) -> bool:
        """Whether it can edit a tensor of this shape, with `inputs` inputs if their number is known."""
        if self.added is not None:
            return shape == (len(self.added[0]), self.added[1].shape[1])
        if len(shape) not in {"table": (2,), "bias": (1, 2)}.get(self.layout, (2, 3)):
            return False
        written, read = (-2, -1) if self.layout == "out_in" else (-1, -2)
        return shape[written] == d_model and (inputs is None or shape[read] == inputs)

    def apply(self, tensor: Tensor, start: int = 0, out: Tensor | None = None) -> Tensor:
        """The edited tensor, in its own type; a piece of one begins at `start` on `axis`.

        It is written to `out`, which may be the tensor itself or have another type.
        """
        out, axis = torch.empty_like(tensor) if out is None else out, self.axis(tensor.ndim)
        # One buffer for all pieces: allocating new memory each time takes longer than the arithmetic.
        buffer = tensor.new_empty(0, dtype=torch.float32 if tensor.element_size() == 2 else torch.float64)
        for offset, count in pieces(tensor, axis):
            piece = tensor.narrow(axis, offset, count)
            wide = buffer.resize_(piece.shape).copy_(piece)
            self._edit(self._rows(wide), start + offset)
            out.narrow(axis, offset, count).copy_(self._narrowed(wide, out.dtype))
        return out

    def magnitude(self, tensor: Tensor) -> Tensor:
        """A bound on the vectors that are summed on the way, before and after each map; for bounds on rounding."""
        size = self._rows(tensor.double()).norm(dim=-1, keepdim=True)
        constants = [edit.constant for edit in self.maps] if self.layout in ("table", "bias") else []
        size = size + sum(float(vector.double().norm()) for vector in (self.first, *constants) if vector is not None)
        if self.added is not None:
            first, second = (factor.double() for factor in self._row_factors(*self.added))
            size = size + first.norm(dim=1)[:, None] * second.norm(dim=0)
        for edit in self.maps:
            size = size * (1.0 + float((edit.read.double().norm(dim=-1) * edit.write.double().norm(dim=-1)).sum()))
        return self._rows(size)

    def _rows(self, tensor: Tensor) -> Tensor:
        """A view in which each written vector is a row, and an input of a weight as well; again, the tensor itself."""
        return tensor.transpose(-1, -2) if self.layout == "out_in" else tensor

    def _row_factors(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of `_rows(left @ right)`."""
        return (right.T, left.T) if self.layout == "out_in" else (left, right)

    def _edit(self, rows: Tensor, start: int) -> None:
        """In place; `rows` are those from `start` on."""
        before = rows.norm(dim=-1, keepdim=True) if self.keep_norms and self.layout != "bias" else None
        if self.first is not None:
            rows += self.first.to(rows)
        if self.factors is not None:
            rows *= self.factors[start : start + rows.shape[-2]].to(rows)[:, None]
        if self.zeroed is not None:
            inside = (self.zeroed >= start) & (self.zeroed < start + rows.shape[-2])
            rows.index_fill_(-2, (self.zeroed[inside] - start).to(rows.device), 0.0)
        for edit in self.maps:
            self._map(rows, edit)
        if before is not None:
            after = rows.norm(dim=-1, keepdim=True)
            # Vectors of which only rounding is left have no direction to keep.
            rows *= torch.where(after > 1e-6 * before, before / after, 1.0)
        if self.added is not None:
            first, second = self._row_factors(*self.added)
            rows.addmm_(first[start : start + len(rows)].to(rows), second.to(rows))

    def _map(self, rows: Tensor, edit: TensorMap) -> None:
        read, write = edit.read.to(rows), edit.write.to(rows)
        # Either order of the product, as the tensor is stored: rounding differs between them.
        along = (read @ rows.mT).mT if self.layout == "out_in" else rows @ read.T
        if edit.keep is not None:
            rows *= edit.keep.to(rows)
        if len(read) and rows.ndim == 2:
            rows.addmm_(along, write, alpha=-1)  # without a product of the size of the tensor
        elif len(read):
            rows -= along @ write
        if edit.constant is not None and self.layout in ("table", "bias"):
            rows += edit.constant.to(rows)

    def _narrowed(self, wide: Tensor, dtype: torch.dtype) -> Tensor:
        kept = [edit.read for edit in self.maps if edit.idempotent]
        if not (self.compensate and kept and dtype in SIXTEEN_BITS):
            return wide  # the copy into the result rounds it
        values, basis = torch.linalg.svd(torch.cat([read.double() for read in kept]), full_matrices=False)[1:]
        rows = self._rows(wide)
        rounded = round_onto(rows.reshape(-1, rows.shape[-1]), basis[values > 1e-6 * values[0]], dtype)
        return self._rows(rounded.reshape(rows.shape))


def pieces(tensor: Tensor, axis: int, entries: int = _PIECE) -> Iterator[tuple[int, int]]:
    """Start and length of each piece along the axis, of about this many entries."""
    length = tensor.shape[axis]
    step = max(1, entries // max(1, tensor.numel() // max(1, length)))
    for offset in range(0, length, step):
        yield offset, min(step, length - offset)
