"""Names of the floating-point types that models and stores come in."""

import torch

from interp.core.errors import InterpError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(name: str) -> torch.dtype:
    """The type of a name; raises for an unknown one, with the nearest."""
    if name not in DTYPES:
        raise InterpError(f"dtype {name!r} is not known; {nearest(name, DTYPES)}")
    return DTYPES[name]
