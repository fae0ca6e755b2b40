"""Orthonormal rows, projections and erasure, which directions and edits share.

Rows span a subspace. They are orthonormalised once, by QR: projecting out directions one after another is not a
projection onto their complement unless they are orthogonal.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError


def orthonormal_rows(rows: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_model"]:
    """An orthonormal basis of the rows' span, computed in float64 and returned as float32 on the CPU.

    A single row keeps its sign. Raises if a row is zero, not finite, or in the span of the others.
    """
    wide = rows.detach().cpu().double()
    if len(wide) == 0:
        raise InterpError("a direction needs at least one row; got none")
    if not torch.isfinite(wide).all():
        raise InterpError("direction has NaN or infinite entries; check the activations it was fitted on")
    norms = wide.norm(dim=1)
    if (norms == 0).any():
        raise InterpError("direction is zero; a contrast whose two sides have equal means gives no direction")
    if (wide @ wide.T - torch.eye(len(wide), dtype=wide.dtype)).abs().max() < 1e-6:
        return rows.detach().cpu().float().contiguous()  # already orthonormal: saving and loading must not change a bit
    basis, triangle = torch.linalg.qr((wide / norms[:, None]).T)
    diagonal = triangle.diagonal()
    if len(diagonal) < len(rows) or (diagonal.abs() < 1e-6).any():
        raise InterpError(f"the {len(rows)} directions are linearly dependent; drop those in the span of the others")
    return (basis * diagonal.sign()).T.float().contiguous()


def project_out(
    x: Float[Tensor, "*batch d_model"], rows: Float[Tensor, "k d_model"], scale: float = 1.0
) -> Float[Tensor, "*batch d_model"]:
    """x minus `scale` times its component in the span of the orthonormal rows.

    bfloat16 and float16 are computed in float32: a product in bfloat16 would leave 1e-3 of a large component. Rows in
    float64 are taken in it, where the device has it.
    """
    wide = torch.float32 if x.is_mps else torch.promote_types(x.dtype, rows.dtype)
    if x.dtype != wide:
        return project_out(x.to(wide), rows, scale).to(x.dtype)
    rows = rows.to(x)
    return x - scale * (x @ rows.T) @ rows


def erase(
    x: Float[Tensor, "*batch d_model"],
    read: Float[Tensor, "k d_model"],
    write: Float[Tensor, "k d_model"],
    mean: Float[Tensor, "d_model"],
) -> Float[Tensor, "*batch d_model"]:
    """x - ((x - mean) readᵀ) write; an oblique projection where read times writeᵀ is the identity.

    bfloat16 and float16 are computed in float32, as in `project_out`.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    read, write, mean = read.to(wide), write.to(wide), mean.to(wide)
    return (wide - ((wide - mean) @ read.T) @ write).to(x.dtype)
