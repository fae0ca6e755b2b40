"""The type that products of matrices are made in: bfloat16 where that was asked for and is the faster of the two.

Processors with matrix units for bfloat16 are several times as fast in it, those without can be half as fast as in
float32, and would be rough for nothing.
"""

import time
from functools import cache

import torch
from torch.nn.functional import linear

_ROWS, _WIDTH, _COLUMNS, _TRIES = 256, 512, 2048, 5


def products(compute: torch.dtype, device: torch.device) -> torch.dtype:
    """The type to use for what was asked for, measured once a process on CPUs."""
    if compute == torch.float32 or device.type != "cpu":
        return compute
    return compute if _seconds(compute) < _seconds(torch.float32) else torch.float32


@cache
def _seconds(dtype: torch.dtype) -> float:
    """The least that a small product takes."""
    x, rows = torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_COLUMNS, _WIDTH, dtype=dtype)
    found = []
    for _ in range(_TRIES + 1):  # the first makes kernels
        began = time.perf_counter()
        linear(x, rows)
        found.append(time.perf_counter() - began)
    return min(found[1:])
