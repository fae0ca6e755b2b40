"""The two sparse operations of training as Triton kernels, for GPUs: sums over bags, and products along them.

A program handles one bag and some of its columns: it walks over the bag's entries, so that rows are read once and no
two programs add to the same place. Values are summed in float32 whatever the type of the rows. `interp.sae.code` uses
these kernels for tensors on a CUDA device where Triton is installed; elsewhere torch's embedding bags do the same.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from interp.sae.compiled.native import offsets_of

_COLUMNS = 128
# Triton compiles the kernels below; Python has no types for their arguments, pointers and numbers.


@triton.jit
def _sums(rows, index, weights, offsets, out, width, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    bag = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    total = tl.zeros((COLUMNS,), tl.float32)
    for entry in range(tl.load(offsets + bag), tl.load(offsets + bag + 1)):
        row = tl.load(rows + tl.load(index + entry) * width + columns, mask=inside, other=0.0)
        total += tl.load(weights + entry).to(tl.float32) * row.to(tl.float32)
    tl.store(out + bag * width + columns, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _products(rows, index, along, offsets, out, width, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    bag = tl.program_id(0)
    for entry in range(tl.load(offsets + bag), tl.load(offsets + bag + 1)):
        row = tl.load(index + entry)
        total = tl.zeros((COLUMNS,), tl.float32)
        for begin in range(0, width, COLUMNS):
            columns = begin + tl.arange(0, COLUMNS)
            inside = columns < width
            left = tl.load(rows + row * width + columns, mask=inside, other=0.0)
            right = tl.load(along + bag * width + columns, mask=inside, other=0.0)
            total += left.to(tl.float32) * right.to(tl.float32)
        tl.store(out + entry, tl.sum(total, axis=0).to(out.dtype.element_ty))


class _BagSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, per_entry: Tensor, bags: Tensor, number: int) -> Tensor:
        ctx.save_for_backward(rows, index, per_entry, bags)
        out = rows.new_empty(number, rows.shape[1])
        grid = (number, triton.cdiv(rows.shape[1], _COLUMNS))
        parts = (rows.contiguous(), index, per_entry.contiguous(), offsets_of(bags, number), out, rows.shape[1])
        _sums[grid](*parts, COLUMNS=_COLUMNS)
        return out

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
        rows, index, per_entry, bags = ctx.saved_tensors
        d_rows = d_entry = None
        if ctx.needs_input_grad[0]:
            d_rows = torch.zeros_like(rows).index_add_(0, index, along[bags] * per_entry[:, None])
        if ctx.needs_input_grad[2]:
            d_entry = triton_bag_products(rows, index, along, bags).to(per_entry.dtype)
        return d_rows, None, d_entry, None, None


def triton_bag_sums(
    rows: Float[Tensor, "row d_out"],
    index: Int[Tensor, "entry"],
    per_entry: Float[Tensor, "entry"],
    bags: Int[Tensor, "entry"],
    number: int,
) -> Float[Tensor, "bag d_out"]:
    """As `interp.sae.code.bag_sums`; gradients flow to rows and weights."""
    sums: Tensor = _BagSums.apply(rows, index, per_entry, bags, number)
    return sums


def triton_bag_products(
    rows: Float[Tensor, "row d_out"],
    index: Int[Tensor, "entry"],
    along: Float[Tensor, "bag d_out"],
    bags: Int[Tensor, "entry"],
) -> Float[Tensor, "entry"]:
    """As `interp.sae.code.bag_products`, in float32."""
    out = torch.empty(len(index), device=rows.device)
    parts = (rows.contiguous(), index, along.contiguous(), offsets_of(bags, len(along)), out, rows.shape[1])
    _products[(len(along),)](*parts, COLUMNS=_COLUMNS)
    return out
