"""The compiled selection and torch's choose the same entries, in the same order, ties and odd shapes included."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import SITE

from interp.core.errors import InterpError
from interp.sae.compiled import selection
from interp.sae.compiled.native import native
from interp.sae.compiled.selection import above, largest
from interp.sae.config import SaeConfig
from interp.sae.training import state
from interp.sae.training.trainer import train

TYPES = (torch.bfloat16, torch.float16, torch.float32)
compiled = pytest.mark.skipif(native() != "compiled", reason=f"the selection is {native()}")


@pytest.fixture
def by_torch(monkeypatch):
    """A way to have torch select."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(selection, "library_for", lambda _: None)
            return function(*args)

    return call


@st.composite
def pre_activations(draw):
    """Few distinct values in some, so that most are ties; zeros of both signs, infinities, and rows all alike."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 200))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    u = torch.randn(rows, columns, generator=generator)
    coarse = draw(st.sampled_from([None, 0.5, 4.0, 100.0]))
    u = u if coarse is None else (u / coarse).round() * coarse
    if draw(st.booleans()):
        u[0, 0], u[-1, -1] = torch.inf, -torch.inf
    for _ in range(draw(st.integers(0, 3))):
        u[-1, draw(st.integers(0, columns - 1))] = draw(st.sampled_from([torch.nan, -torch.nan, torch.inf]))
    return u.to(draw(st.sampled_from(TYPES)))


def _slowly(row, k):
    """Columns of the k largest, the first of equal ones; a NaN is as large as can be."""
    rank = [math.inf if math.isnan(value) else value for value in row]
    return sorted(sorted(range(len(row)), key=lambda i: (-rank[i], i))[:k])


@given(pre_activations(), st.data())
def test_the_largest_are_those_of_a_sort(u, data):
    k = data.draw(st.integers(1, u.shape[1]))
    values, columns = largest(u, k)
    assert columns.tolist() == [_slowly(row, k) for row in u.tolist()]
    assert torch.equal(values.nan_to_num(99), u.gather(1, columns).nan_to_num(99))


@given(pre_activations(), st.integers(0, 2**20))
def test_what_is_above_its_floor(u, seed):
    floors = torch.randn(u.shape[1], generator=torch.Generator().manual_seed(seed)).to(u.dtype)
    for given_floors in (floors, floors[0]):
        values, rows, columns = above(u, given_floors)
        assert torch.equal(torch.stack([rows, columns], 1), (u > given_floors).nonzero())
        assert torch.equal(values, u[rows, columns])
        assert above(u, given_floors, len(values)) is not None
        assert not len(values) or above(u, given_floors, len(values) - 1) is None


@compiled
@pytest.mark.parametrize("dtype", TYPES)
def test_torch_does_the_same_without_a_compiler(by_torch, dtype):
    u = torch.randn(64, 3000, generator=torch.Generator().manual_seed(0)).to(dtype)
    u[5] = 0
    for found, expected in zip(largest(u, 40), by_torch(largest, u, 40), strict=True):
        assert torch.equal(found, expected)
    floor = torch.tensor(2.0)
    for found, expected in zip(above(u, floor), by_torch(above, u, floor), strict=True):
        assert torch.equal(found, expected)
    ties = (u == u.gather(1, largest(u, 40)[1]).amin(1, keepdim=True)).sum(1)
    assert int(ties.max()) > 1  # control: there are ties to be wrong about


@compiled
def test_gradients_flow_to_what_is_chosen(by_torch):
    u = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for choose in (lambda: largest(u, 3)[0], lambda: above(u, torch.tensor(1.0))[0]):
        (found,) = torch.autograd.grad(choose().square().sum(), u)
        (expected,) = torch.autograd.grad(by_torch(choose).square().sum(), u)
        assert torch.equal(found, expected)
        assert 0 < int((found != 0).sum()) < found.numel()


@compiled
@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu"])
def test_training_comes_to_the_same_bits(planted, by_torch, monkeypatch, kind):
    monkeypatch.setattr(state, "product_dtype", lambda *_: torch.bfloat16)
    config = SaeConfig(kind=kind, d_sae=64, k=3, batch_size=256, tokens=8_000, dead_after=1_000, compute="bfloat16")
    found, expected = train(planted, SITE, config), by_torch(train, planted, SITE, config)
    for name, tensor in found.sae.tensors().items():
        assert torch.equal(tensor, expected.sae.tensors()[name]), name


def test_odd_shapes():
    wide = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    assert largest(wide[:, ::2], 20)[1].tolist() == [list(range(20))] * 6
    assert torch.equal(largest(torch._neg_view(wide), 3)[1], largest(-wide, 3)[1])
    assert torch.equal(largest(wide.double(), 3)[1], largest(wide, 3)[1])
    assert largest(wide[:0], 3)[0].shape == (0, 3)
    assert [len(part) for part in above(wide[:0], torch.tensor(0.0))] == [0, 0, 0]
    for k in (0, 41):
        with pytest.raises(InterpError, match=f"k is {k}; expected from 1 to the number of pre-activations, 40"):
            largest(wide, k)
    with pytest.raises(InterpError, match="k is 1; expected from 1 to the number of pre-activations, 0"):
        largest(wide[:, :0], 1)
