"""Products are made in the type asked for, or in float32 where that is faster."""

import torch

from interp.sae.training import state
from interp.sae.training.state import product_dtype

CPU = torch.device("cpu")


def test_the_faster_type_is_taken(monkeypatch):
    assert product_dtype(torch.float32, CPU) == torch.float32
    assert product_dtype(torch.bfloat16, torch.device("cuda")) == torch.bfloat16
    for quick, slow in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)):
        monkeypatch.setattr(state, "_seconds", {quick: 1.0, slow: 2.0}.__getitem__)
        assert product_dtype(torch.bfloat16, CPU) == quick


def test_what_is_measured_is_a_time():
    assert 0 < state._seconds(torch.bfloat16) < 10
    assert product_dtype(torch.bfloat16, CPU) in (torch.bfloat16, torch.float32)
