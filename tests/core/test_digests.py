"""Digests of tensors see names, shapes and values; the checksum sees every byte in its place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.digests import WeightHash, checksum, multilinear_checksum, versions, weight_digests

WIDE = torch.tensor([1.0, 1 / 3, -0.0, 65504.0])


def both(x):
    return checksum(x), multilinear_checksum(x.reshape(-1).contiguous().view(torch.uint8))


def test_a_tensor_digest_sees_name_shape_and_value():
    x = torch.arange(6.0)
    named = [{"a": x}, {"b": x}, {"a": x.view(2, 3)}, {"a": x + 1}, {"a": x, "b": x}, {"a": x.sum()}, {"b": x.sum()}]
    for digests in (map(weight_digests, named), (weight_digests(each).storage for each in named)):
        assert len({*digests}) == 7
    other = weight_digests({"b": 2 * x.double(), "a": x.bfloat16()})
    assert weight_digests({"a": x, "b": 2 * x}).storage == other.storage


def test_the_exact_digest_is_of_values_whatever_type_they_are_in():
    held = torch.arange(6.0)
    assert len({weight_digests({"a": held.to(kind)}) for kind in (torch.bfloat16, torch.float16, torch.float64)}) == 1
    assert weight_digests({"a": WIDE}) == weight_digests({"a": WIDE.double()})
    rounded, near = (weight_digests({"a": x}) for x in (WIDE.bfloat16(), WIDE.double() * (1 + 1e-12)))
    assert len({weight_digests({"a": WIDE}).exact, rounded.exact, near.exact}) == 3
    assert len({weight_digests({"a": WIDE}).storage, rounded.storage, near.storage}) == 1, "control: the coarse one"
    # Which of two tensors has the narrow values counts.
    a, b = ({"a": x, "b": y} for x, y in ((WIDE, WIDE.bfloat16()), (WIDE.bfloat16(), WIDE)))
    assert weight_digests(a).exact != weight_digests(b).exact


def test_part_by_part_the_digests_are_the_same():
    whole = WeightHash()
    whole.add("a", (4,), WIDE.split(1), (torch.float32,))
    whole.add("b", (6,), torch.arange(6.0).split(4), (torch.float32, torch.float64))
    assert whole.digests() == weight_digests({"b": torch.arange(6.0).bfloat16(), "a": WIDE})


@given(st.data())
def test_a_checksum_sees_every_byte_in_its_place(data):
    kind = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int8]))
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    x = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(0)).to(kind)
    before, flat = both(x), x.view(-1).view(torch.uint8)
    assert both(x.clone()) == before == both(x.T.contiguous().T if x.ndim == 2 else x), "control: no value differs"
    first, second = (data.draw(st.integers(0, len(flat) - 1)) for _ in "ab")
    flat[[first, second]] = flat[[second, first]]  # two bytes exchanged
    changed = bool(flat[first] != flat[second])
    assert [a != b for a, b in zip(both(x), before, strict=True)] == [changed] * 2
    flat[first] ^= 1 << data.draw(st.integers(0, 7))  # one bit
    assert all(a != b for a, b in zip(both(x), before, strict=True)) or changed


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, 7].neg_(),
        lambda x: x[2:4].copy_(x[2:4].flip(0)),
        lambda x: x.copy_(x.roll(1, 1)),
        lambda x: x[[0, 3]].neg_(),
        lambda x: x.view(torch.int32)[::2, 1::2].bitwise_xor_(-(2**31)),
    ],
)
def test_structured_changes_are_seen(change):
    """Signs are the highest bits of words, which sums modulo a power of two lose most easily."""
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    before = both(x)
    if change(x).data_ptr() != x.data_ptr():
        x[[0, 3]] = -x[[0, 3]]
    assert all(a != b for a, b in zip(both(x), before, strict=True))


def test_versions_name_what_determines_a_result():
    assert {"python", "interp", "torch", "transformers"} <= versions().keys()
