"""Names of the floating-point types of models and stores."""

import torch

from interp.core.errors import InterpError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(name: str) -> torch.dtype:
    """The torch type of a name. Raises for an unknown name, with the nearest known one."""
    if name not in DTYPES:
        raise InterpError(f"dtype {name!r} is not known; {nearest(name, DTYPES)}")
    return DTYPES[name]
