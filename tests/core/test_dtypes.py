"""Types are known by name."""

import pytest
import torch

from interp.core.dtypes import DTYPES, dtype_of
from interp.core.errors import InterpError


def test_a_name_gives_its_type_and_an_unknown_one_the_nearest():
    assert {name: dtype_of(name) for name in DTYPES} == DTYPES
    assert dtype_of("bfloat16") is torch.bfloat16
    with pytest.raises(InterpError, match="dtype 'bfloat' is not known; did you mean bfloat16"):
        dtype_of("bfloat")
