"""Products are made in the type asked for, or in float32 where that is faster."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from interp.sae.compiled import native
from interp.sae.config import SaeConfig
from interp.sae.training import state
from interp.sae.training.state import TrainingState, product_dtype

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


class _Waits(TorchDispatchMode):
    """Counts the calls whose result or size a device's host has to wait for."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        waiting = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.bincount)
        if call._overloadpacket in waiting:
            self.counts[str(call)] += 1
        return call(*args, **(kwargs or {}))


@pytest.mark.skipif(native.native() != "compiled", reason="torch's selection waits where values are tied")
def test_a_step_of_topk_waits_once_for_its_device():
    """For the loss and the counts, which are read in one list."""
    x, fit = torch.randn(256, 16), TrainingState(SaeConfig(d_sae=64, k=4, batch_size=256), 16)
    fit.update(x, 100)
    with _Waits() as waits:
        fit.update(x, 100)
    assert not waits.counts
    with _Waits() as waits:
        fit._dead()
    assert waits.counts  # control: dead latents are listed
