"""Which pre-activations of each token are the largest, or above a floor.

On a CPU this is the slowest part of training after matrix products. `selection.c` does it where there is a C compiler,
which a process calls once for each type of numbers that it needs; that takes half a second. Elsewhere, and on GPUs,
torch finds the same entries in the same order, more slowly. Of equal pre-activations, which are common in bfloat16, the
first are taken. NaNs count as infinite for `largest`, and are above no floor. Gradients flow to the entries chosen.

INTERP_NATIVE=0 uses torch everywhere; `interp doctor` says which is used, and why.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError, first_line

_SOURCE = Path(__file__).with_name("selection.c")
_KEYS = {
    torch.bfloat16: (torch.int16, "-DKEY=int16_t", "-DINFINITE=0x7f80"),
    torch.float16: (torch.int16, "-DKEY=int16_t", "-DINFINITE=0x7c00"),
    torch.float32: (torch.int32, "-DKEY=int32_t", "-DINFINITE=0x7f800000"),
}
_SECONDS = 60  # for a compiler

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
    library = _library_for(u)
    if library is None:
        return _largest(u, k)
    u = u.resolve_neg().contiguous()
    values, columns = u.new_empty(len(u), k), torch.empty(len(u), k, dtype=torch.long)
    if library.largest(_at(u), len(u), width, k, _at(values), _at(columns), torch.get_num_threads()):
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
    floors, library = floors.to(u).expand(u.shape[1]), _library_for(u)
    if library is None:
        return _above(u, floors, most)
    u, keys, threads = u.resolve_neg().contiguous(), _ordered(floors).contiguous(), torch.get_num_threads()
    counts = torch.empty(len(u), dtype=torch.long)
    library.count_above(_at(u), len(u), u.shape[1], _at(keys), _at(counts), threads)
    total, starts = int(counts.sum()), counts.cumsum(0) - counts
    if most is not None and total > most:
        return None
    values, (rows, columns) = u.new_empty(total), torch.empty(2, total, dtype=torch.long)
    places = (_at(starts), _at(values), _at(rows), _at(columns))
    library.take_above(_at(u), len(u), u.shape[1], _at(keys), *places, threads)
    return (u[rows, columns] if u.requires_grad else values), rows, columns


def native() -> str:
    """Which selection is used, in words."""
    if not _enabled():
        return "torch (INTERP_NATIVE is 0)"
    problems = [built for built in map(_built, _KEYS) if isinstance(built, str)]
    return f"torch ({problems[0]})" if problems else "compiled"


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
    keys = floors.contiguous().view(_KEYS[floors.dtype][0])
    most = torch.iinfo(keys.dtype).max
    return torch.where(floors.isnan(), most, torch.where(keys < 0, -(keys & most), keys))


def _library_for(u: Tensor) -> ctypes.CDLL | None:
    if u.device.type != "cpu" or u.dtype not in _KEYS or not u.numel() or not _enabled():
        return None
    built = _built(u.dtype)
    return None if isinstance(built, str) else built


def _enabled() -> bool:
    return os.environ.get("INTERP_NATIVE", "1") != "0"


def _at(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


@cache
def _built(dtype: torch.dtype) -> ctypes.CDLL | str:
    """The source compiled for a type, with OpenMP if that works, or why there is none; its calls use torch's threads.

    It is compiled for this machine, loaded, and deleted: a file that is kept can be damaged, or belong to another
    machine that shares the folder.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.name != "posix":
        return "no C compiler; set CC to one"
    problem = ""
    for threads in (["-fopenmp"], []):
        try:
            library = _compiled([*shlex.split(compiler), *_KEYS[dtype][1:], *threads])
        except (OSError, AttributeError, subprocess.SubprocessError) as failure:
            problem = f"{compiler} fails: {first_line(failure)}"
            continue
        if _agrees(library, dtype):
            return library
        problem = f"selection.c as compiled by {compiler} chooses other entries than torch"
    return problem


def _compiled(command: list[str]) -> ctypes.CDLL:
    shared = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    with tempfile.TemporaryDirectory() as folder:
        unlinked, linked = Path(folder) / "selection.o", Path(folder) / "selection.so"
        # Linked without -fopenmp, which would add threads other than torch's.
        compiling = [*command, "-O3", "-march=native", "-fPIC", "-c", str(_SOURCE), "-o", str(unlinked)]
        plain = [part for part in command if part != "-fopenmp"]
        for step in (compiling, [*plain, "-shared", str(unlinked), *shared, "-o", str(linked)]):
            subprocess.run(step, capture_output=True, timeout=_SECONDS, check=True)
        library = ctypes.CDLL(str(linked), mode=os.RTLD_NOW)
    pointer, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.largest.argtypes = [pointer, whole, number, number, pointer, pointer, number]
    library.count_above.argtypes = [pointer, whole, number, pointer, pointer, number]
    library.take_above.argtypes = [pointer, whole, number, pointer, pointer, pointer, pointer, pointer, number]
    library.count_above.restype = library.take_above.restype = None
    return library


def _agrees(library: ctypes.CDLL, dtype: torch.dtype) -> bool:
    """Whether it chooses the same entries as torch from a row with ties, NaNs and infinities."""
    u = (torch.arange(99.0) % 7 - 3)[None].to(dtype)
    u[0, 40:44] = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf])
    values, columns = u.new_empty(1, 20), torch.empty(1, 20, dtype=torch.long)
    failed = library.largest(_at(u), 1, 99, 20, _at(values), _at(columns), 1)
    return not failed and torch.equal(columns, _largest(u, 20)[1])
