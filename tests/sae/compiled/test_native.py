"""What is compiled does what torch does; where nothing can be compiled, torch does it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import SITE

from interp.sae.code import bag_products, bag_sums
from interp.sae.compiled import native as module
from interp.sae.compiled.native import library_for, native
from interp.sae.compiled.selection import largest
from interp.sae.config import SaeConfig
from interp.sae.training.trainer import train

compiled = pytest.mark.skipif(native() != "compiled", reason=f"training is by {native()}")


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "true", "false", "cc -no-such-flag"])
def test_a_compiler_that_fails_leaves_it_to_torch(monkeypatch, compiler):
    module._built.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("CC", compiler)
        assert native().startswith(f"torch ({compiler} fails: ")
        assert largest(torch.tensor([[1.0, 3.0, 2.0]]), 2)[1].tolist() == [[1, 2]]
    module._built.cache_clear()


@compiled
def test_a_compiler_with_flags_is_taken(monkeypatch):
    module._built.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("CC", "cc -O2")
        assert native() == "compiled"
    module._built.cache_clear()


@compiled
@pytest.mark.parametrize("source", ["bags.c", "selection.c"])
def test_functions_that_differ_from_torchs_are_not_used(monkeypatch, tmp_path, source):
    wrong = {
        "bags.c": ("wide(row[i]) * wide(with[i])", "wide(row[i])"),
        "selection.c": ("found[c] < edge", "found[c] > edge"),
    }
    for path in module._SOURCES:
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace(*wrong[source]) if path.name == source else text)
    module._built.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_SOURCES", tuple(tmp_path / path.name for path in module._SOURCES))
        assert library_for(torch.zeros(1)) is None
        assert module._built(torch.float32).endswith("compiles functions that differ from torch's")
    module._built.cache_clear()


@st.composite
def bags(draw):
    """Rows, and entries with their row, weight and bag, in the order of their bags; some bags are empty."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    rows, width, number, entries = (draw(st.integers(*span)) for span in ((1, 9), (1, 150), (1, 9), (0, 60)))
    kind = draw(st.sampled_from([torch.bfloat16, torch.float32]))
    table, along = (torch.randn(count, width, generator=generator).to(kind) for count in (rows, number))
    index, bag = (torch.randint(0, count, (entries,), generator=generator) for count in (rows, number))
    return table, index, torch.randn(entries, generator=generator).to(kind), bag.sort().values, number, along


@pytest.mark.parametrize("used", [pytest.param("1", marks=compiled), "0"])
@given(case=bags())
def test_sums_and_products_are_those_of_float64(used, case):
    rows, index, weights, bag, number, along = case
    expected = torch.zeros(number, rows.shape[1], dtype=torch.float64)
    expected.index_add_(0, bag, rows.double()[index] * weights.double()[:, None])
    products = (rows.double()[index] * along.double()[bag]).sum(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERP_NATIVE", used)
        assert native() == ("compiled" if used == "1" else "torch (INTERP_NATIVE is 0)")
        sums, found = bag_sums(rows, index, weights, bag, number), bag_products(rows, index, along, bag)
    # Compiled functions add in float32 and don't round; torch's round what they return, and bfloat16 sums between.
    rough = used == "0" and rows.dtype == torch.bfloat16
    close = {"atol": 0.5, "rtol": 2e-2} if rough else {"atol": 1e-4, "rtol": 1e-5}
    torch.testing.assert_close(sums.double(), expected, **close)
    torch.testing.assert_close(found.double(), products, **close)


@compiled
def test_memory_is_used_again_and_a_wrong_index_is_refused():
    rows, bag, out = torch.randn(4, 8), torch.tensor([0, 0, 2]), torch.full((3, 8), torch.nan)
    sums = bag_sums(rows, torch.tensor([1, 3, 0]), torch.ones(3), bag, 3, out)
    assert sums.data_ptr() == out.data_ptr()
    torch.testing.assert_close(sums, torch.stack([rows[1] + rows[3], torch.zeros(8), rows[0]]))
    for wrong in (4, -1):
        with pytest.raises((IndexError, RuntimeError)):
            bag_sums(rows, torch.tensor([1, wrong, 0]), torch.ones(3), bag, 3)


@compiled
@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_training_without_a_compiler_comes_to_the_same_curve(planted, monkeypatch, kind):
    config = SaeConfig(kind=kind, d_sae=64, k=3, batch_size=256, tokens=8_000, dead_after=1_000)
    found = train(planted, SITE, config)
    monkeypatch.setenv("INTERP_NATIVE", "0")
    expected = train(planted, SITE, config)
    for point, other in zip(found.history, expected.history, strict=True):
        assert point.loss == pytest.approx(other.loss, rel=1e-4)
