"""The parts of training that are compiled for this machine, where it has a C compiler: selection, and sums over bags.

A process calls the compiler once for each type of numbers that it needs; that takes half a second. Elsewhere, and on
GPUs, torch does the same, more slowly. INTERP_NATIVE=0 uses torch everywhere; `interp doctor` says which is used, and
why.
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

import torch
from torch import Tensor

from interp.core.errors import first_line

_SOURCES = tuple(Path(__file__).with_name(name) for name in ("selection.c", "bags.c"))
_FLAGS = {
    torch.bfloat16: ("-DKEY=int16_t", "-DINFINITE=0x7f80", "-DBFLOAT16"),
    torch.float16: ("-DKEY=int16_t", "-DINFINITE=0x7c00"),
    torch.float32: ("-DKEY=int32_t", "-DINFINITE=0x7f800000"),
}
BAGGED = (torch.bfloat16, torch.float32)  # the types of rows that `bags.c` takes
WHOLE = {dtype: torch.int32 if dtype.itemsize == 4 else torch.int16 for dtype in _FLAGS}  # of the same width
_SECONDS = 60  # for a compiler
_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_ARGUMENTS = {
    "largest": (_POINTER, _LONG, _INT, _INT, _POINTER, _POINTER, _INT),
    "count_above": (_POINTER, _LONG, _INT, _POINTER, _POINTER, _INT),
    "take_above": (_POINTER, _LONG, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _INT),
    "bag_sums": (_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _POINTER, _INT),
    "bag_products": (_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _POINTER, _INT),
}


def native() -> str:
    """Whether the compiled parts are used, in words."""
    if not _enabled():
        return "torch (INTERP_NATIVE is 0)"
    problems = [built for built in map(_built, _FLAGS) if isinstance(built, str)]
    return f"torch ({problems[0]})" if problems else "compiled"


def library_for(x: Tensor) -> ctypes.CDLL | None:
    """The compiled functions for tensors like this one, None where torch is to be used."""
    if x.device.type != "cpu" or x.dtype not in _FLAGS or not x.numel() or not _enabled():
        return None
    built = _built(x.dtype)
    return None if isinstance(built, str) else built


def address(x: Tensor) -> ctypes.c_void_p:
    """Where the tensor's numbers are, for a compiled function."""
    return ctypes.c_void_p(x.data_ptr())


def _enabled() -> bool:
    return os.environ.get("INTERP_NATIVE", "1") != "0"


@cache
def _built(dtype: torch.dtype) -> ctypes.CDLL | str:
    """The sources compiled for a type, with OpenMP if that works, or why there are none; calls use torch's threads.

    They are compiled for this machine, loaded, and deleted: a file that is kept can be damaged, or belong to another
    machine that shares the folder.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.name != "posix":
        return "no C compiler; set CC to one"
    problem = ""
    for threads in ("-fopenmp", "-fopenmp-simd"):
        try:
            library = _compiled([*shlex.split(compiler), *_FLAGS[dtype]], threads)
        except (OSError, AttributeError, subprocess.SubprocessError) as failure:
            problem = f"{compiler} fails: {first_line(failure)}"
            continue
        if _agrees(library, dtype):
            return library
        problem = f"{compiler} compiles functions that differ from torch's"
    return problem


def _compiled(command: list[str], threads: str) -> ctypes.CDLL:
    shared = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    with tempfile.TemporaryDirectory() as folder:
        linked = Path(folder) / "native.so"
        # Linked without -fopenmp, which would add threads other than torch's.
        compiling = [*command, threads, "-O3", "-march=native", "-fPIC", "-c", *map(str, _SOURCES)]
        linking = [*command, "-shared", *(f"{source.stem}.o" for source in _SOURCES), *shared, "-o", str(linked)]
        for step in (compiling, linking):
            subprocess.run(step, cwd=folder, capture_output=True, timeout=_SECONDS, check=True)
        library = ctypes.CDLL(str(linked), mode=os.RTLD_NOW)
    for name, arguments in _ARGUMENTS.items():
        getattr(library, name).argtypes = arguments
    return library


def _agrees(library: ctypes.CDLL, dtype: torch.dtype) -> bool:
    """Whether it finds what torch does: the k largest of a row with ties, NaNs and infinities, and sums of integers."""
    u = (torch.arange(99.0) % 7 - 3)[None].to(dtype)
    u[0, 40:44] = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf])
    ranked = u.nan_to_num(torch.inf, torch.inf, -torch.inf).sort(stable=True, descending=True).indices[:, :20]
    values, columns = u.new_empty(1, 20), torch.empty(1, 20, dtype=torch.long)
    if library.largest(address(u), 1, 99, 20, address(values), address(columns), 1):
        return False
    rows = (torch.arange(9.0 * 37) % 7 - 3).view(9, 37).to(dtype)
    index, offsets, weights = torch.arange(9), torch.tensor([0, 0, 9]), torch.arange(9.0) - 2
    sums, products = torch.empty(2, 37), torch.empty(9)
    if dtype in BAGGED:
        entries = (address(rows), address(index))
        library.bag_sums(*entries, address(weights), address(offsets), 2, 37, address(sums), 1)
        library.bag_products(*entries, address(rows), address(offsets), 2, 37, address(products), 1)
    expected = torch.stack([torch.zeros(37), weights @ rows.float()]), rows.float() @ rows[1].float()
    right = dtype not in BAGGED or (torch.equal(sums, expected[0]) and torch.equal(products, expected[1]))
    return right and torch.equal(columns, ranked.sort().values)


def offsets_of(bags: Tensor, number: int) -> Tensor:
    """Where each bag's entries begin, and where the last one's end."""
    offsets = bags.new_zeros(number + 1)
    offsets[1:].scatter_add_(0, bags, torch.ones_like(bags))
    return offsets.cumsum(0)
