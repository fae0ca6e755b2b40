"""Which pre-activations of each token are the largest, or above a floor: of all that training does on a CPU beside
products of matrices, the longest.

Both are found by `selection.c` where there is a C compiler: it is compiled when first needed, for the machine at hand,
and kept in the user's cache. Elsewhere, and on GPUs, torch finds the same entries in the same order, more slowly. Of
equal pre-activations, of which bfloat16 makes many, the first are taken. Gradients flow to what is chosen.

INTERP_NATIVE=0 has torch do it everywhere.
"""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SOURCE = Path(__file__).with_name("selection.c")
_KEYS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_SECONDS = 60  # for a compiler

Chosen = tuple[Float[Tensor, "entry"], Int[Tensor, "entry"], Int[Tensor, "entry"]]


def largest(u: Float[Tensor, "row d_sae"], k: int) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """Values and columns of the k largest of each row, in the order of the columns."""
    library = _library_for(u)
    if library is None:
        return _largest(u, k)
    u = u.contiguous()
    values, columns = u.new_empty(len(u), k), torch.empty(len(u), k, dtype=torch.long)
    width = u.shape[1]
    if library.largest(_at(u), len(u), width, k, _at(values), _at(columns), torch.get_num_threads()):
        raise MemoryError(f"no memory to choose {k} of {width:,} pre-activations")
    return (u.gather(1, columns) if u.requires_grad else values), columns


@overload
def above(u: Tensor, floors: Tensor) -> Chosen: ...
@overload
def above(u: Tensor, floors: Tensor, most: int) -> Chosen | None: ...
def above(u: Float[Tensor, "row d_sae"], floors: Float[Tensor, "*d_sae"], most: int | None = None) -> Chosen | None:
    """Values, rows and columns of what is above its column's floor, row by row; None if they are more than `most`.

    Floors are one for each column or one for all, and are taken in the type of u.
    """
    floors, library = floors.to(u).expand(u.shape[1]), _library_for(u)
    if library is None:
        return _above(u, floors, most)
    u, keys, threads = u.contiguous(), _ordered(floors).contiguous(), torch.get_num_threads()
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
    """Whether the compiled selection is used, in words."""
    if not _wanted():
        return "off (INTERP_NATIVE=0)"
    return "compiled" if all(_library(key) for key in ("int16_t", "int32_t")) else "torch (no C compiler that works)"


def _largest(u: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As torch's topk takes any of those that share the last place, the first are picked out of more."""
    many = min(2 * k, u.shape[1])
    found = u.topk(many)
    order = found.indices.sort(1)
    ranked = found.values.gather(1, order.indices).sort(dim=1, descending=True, stable=True)
    columns = order.values.gather(1, ranked.indices[:, :k])
    if many < u.shape[1]:
        edge = found.values[:, k - 1 : k]
        tied = (found.values[:, -1:] == edge).any(1).nonzero().squeeze(1)
        over, equal = u[tied] > edge[tied], u[tied] == edge[tied]
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
    """Whole numbers in the order of these floats; see `selection.c`. Nothing is above a NaN."""
    keys = floors.view(_KEYS[floors.dtype])
    most = torch.iinfo(keys.dtype).max
    return torch.where(floors.isnan(), most, torch.where(keys < 0, -(keys & most), keys))


def _library_for(u: Tensor) -> ctypes.CDLL | None:
    if u.device.type != "cpu" or u.dtype not in _KEYS or not _wanted():
        return None
    return _library("int16_t" if _KEYS[u.dtype] == torch.int16 else "int32_t")


def _wanted() -> bool:
    return os.environ.get("INTERP_NATIVE", "1") != "0"


def _at(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


@cache
def _library(key: str) -> ctypes.CDLL | None:
    """The source compiled for keys of this type, if that can be done and gives what torch gives."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.name != "posix":
        return None
    source = _SOURCE.read_bytes()
    made = sha256(source + repr((key, compiler, torch.__version__, _processor())).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interp"
    file = folder / f"selection-{made}.so"
    try:
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _compile(compiler, key, file)
        library = _declared(ctypes.CDLL(str(file), mode=os.RTLD_NOW))
    except (OSError, subprocess.SubprocessError):
        return None
    return library


def _compile(compiler: str, key: str, file: Path) -> None:
    """With OpenMP if the compiler has it, whose calls find torch's own threads when the library is loaded."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        unlinked, linked = Path(folder) / "selection.o", Path(folder) / file.name
        plain = [compiler, "-O3", "-march=native", "-fPIC", f"-DKEY={key}", "-c", str(_SOURCE), "-o", str(unlinked)]
        for flags in (["-fopenmp"], []):
            done = subprocess.run([*plain, *flags], capture_output=True, timeout=_SECONDS)
            if not done.returncode:
                break
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        link = [compiler, "-shared", str(unlinked), *undefined, "-o", str(linked)]
        subprocess.run(link, capture_output=True, timeout=_SECONDS, check=True)
        os.replace(linked, file)


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, whole, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.largest.argtypes = [pointer, whole, number, number, pointer, pointer, number]
    library.count_above.argtypes = [pointer, whole, number, pointer, pointer, number]
    library.take_above.argtypes = [pointer, whole, number, pointer, pointer, pointer, pointer, pointer, number]
    library.count_above.restype = library.take_above.restype = None
    return library


def _processor() -> str:
    """What a machine's own instructions depend on: homes may be shared by machines of several kinds."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return f"{platform.platform()} {platform.processor()} {flags}"
