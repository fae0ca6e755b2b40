"""Which pre-activations of each token are the largest, or above a floor.

On a CPU this is the slowest part of training after matrix products. `selection.c` does it where it can be compiled (see
`native`). Elsewhere, and on GPUs, torch finds the same entries in the same order, more slowly. Of equal
pre-activations, which are common in bfloat16, the first are taken. NaNs count as infinite for `largest`, and are above
no floor. Gradients flow to the entries chosen.
"""

from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.sae.compiled.native import WHOLE, address, library_for

Chosen = tuple[Float[Tensor, "entry"], Int[Tensor, "entry"], Int[Tensor, "entry"]]


def largest(u: Float[Tensor, "row d_sae"], k: int) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """Values and columns of the k largest entries of each row, in the order of the columns.

    Raises unless 1 <= k <= d_sae.

    >>> [part.tolist() for part in largest(torch.tensor([[1.0, 3.0, 2.0]]), 2)]
    [[[3.0, 2.0]], [[1, 2]]]
    """
    _require_rows(u)
    width = u.shape[1]
    if not 1 <= k <= width:
        raise InterpError(f"k is {k}; expected from 1 to the number of pre-activations, {width}")
    library = library_for(u)
    if library is None:
        return _largest(u, k)
    u = u.resolve_neg().contiguous()
    values, columns = u.new_empty(len(u), k), torch.empty(len(u), k, dtype=torch.long)
    if library.largest(address(u), len(u), width, k, address(values), address(columns), torch.get_num_threads()):
        raise MemoryError(f"no memory to choose {k} of {width:,} pre-activations")
    return (u.gather(1, columns) if u.requires_grad else values), columns


@overload
def above(u: Tensor, floors: Tensor) -> Chosen: ...
@overload
def above(u: Tensor, floors: Tensor, most: int) -> Chosen | None: ...
def above(u: Float[Tensor, "row d_sae"], floors: Float[Tensor, "*d_sae"], most: int | None = None) -> Chosen | None:
    """Values, rows and columns of the entries above their column's floor, row by row; None if more than `most`.

    `floors` has one value per column or one for all, and is cast to the type of u.

    >>> [part.tolist() for part in above(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor(1.5))]
    [[3.0, 2.0], [0, 0], [1, 2]]
    """
    _require_rows(u)
    floors, library = floors.to(u).expand(u.shape[1]), library_for(u)
    if library is None:
        return _above(u, floors, most)
    u, keys, threads = u.resolve_neg().contiguous(), _ordered(floors).contiguous(), torch.get_num_threads()
    counts = torch.empty(len(u), dtype=torch.long)
    library.count_above(address(u), len(u), u.shape[1], address(keys), address(counts), threads)
    total, starts = int(counts.sum()), counts.cumsum(0) - counts
    if most is not None and total > most:
        return None
    values, (rows, columns) = u.new_empty(total), torch.empty(2, total, dtype=torch.long)
    places = (address(starts), address(values), address(rows), address(columns))
    if library.take_above(address(u), len(u), u.shape[1], address(keys), *places, threads):
        raise MemoryError(f"no memory to choose among {u.shape[1]:,} pre-activations")
    return (u[rows, columns] if u.requires_grad else values), rows, columns


def _require_rows(u: Tensor) -> None:
    if u.ndim != 2:
        raise InterpError(f"pre-activations have shape {tuple(u.shape)}; expected (tokens, d_sae)")


def _largest(u: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest by torch. Its topk takes any of equal entries, so the first are picked out of more."""
    keys = u.nan_to_num(torch.inf, torch.inf, -torch.inf)
    many = min(2 * k, u.shape[1])
    top = keys.topk(many)
    order = top.indices.sort(1)
    ranked = top.values.gather(1, order.indices).sort(dim=1, descending=True, stable=True)
    columns = order.values.gather(1, ranked.indices[:, :k])
    if many < u.shape[1]:
        edge = top.values[:, k - 1 : k]
        tied = (top.values[:, -1:] == edge).any(1).nonzero().squeeze(1)
        over, equal = keys[tied] > edge[tied], keys[tied] == edge[tied]
        taken = over | (equal & (equal.cumsum(1) <= k - over.sum(1, keepdim=True)))
        columns[tied] = taken.nonzero()[:, 1].view(-1, k)
    columns = columns.sort(1).values
    return u.gather(1, columns), columns


def _above(u: Tensor, floors: Tensor, most: int | None) -> Chosen | None:
    mask = u > floors
    if most is not None and int(mask.sum()) > most:
        return None
    rows, columns = mask.nonzero(as_tuple=True)
    return u[rows, columns], rows, columns


def _ordered(floors: Tensor) -> Tensor:
    """Whole numbers in the same order as these floats; see `selection.c`. Nothing is above a NaN."""
    keys = floors.contiguous().view(WHOLE[floors.dtype])
    most = torch.iinfo(keys.dtype).max
    return torch.where(floors.isnan(), most, torch.where(keys < 0, -(keys & most), keys))
