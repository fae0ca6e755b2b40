"""Two stores of the same tokens are one source; others do not pair."""

import pytest
import torch
from planted import MADE_UP, write_store

from interp.activations.paired_store import PairedStore
from interp.core.errors import InterpError

OUT = "mlp_out.0"
TUNED = MADE_UP.model_copy(update={"name": "tuned", "digest": "1" * 64})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("paired") / "store", {OUT: torch.randn(16384, 24)})


def test_pairs_of_different_tokens_are_refused(tmp_path, store):
    short = write_store(tmp_path / "short", {OUT: torch.randn(4096, 24)})
    with pytest.raises(InterpError, match="do not hold the same tokens in the same order"):
        PairedStore(store, short)
    narrow = write_store(tmp_path / "narrow", {OUT: torch.randn(16384, 20)})
    with pytest.raises(InterpError, match=r"has width 24, .* has 20"):
        PairedStore(store, narrow).places(OUT)


def test_a_tokens_activations_in_both_models_are_side_by_side(tmp_path, store):
    tuned = write_store(tmp_path / "tuned", {OUT: 2 * store.read(OUT)}, model=TUNED)
    pair = PairedStore(store, tuned)
    assert [place.model.name for place in pair.places(OUT)] == ["made up", "tuned"]
    assert pair.trainable() == store.trainable()
    assert pair.digest != PairedStore(tuned, store).digest
    rows = next(pair.batches(OUT, 100, seed=0))
    assert rows.shape == (100, 48)
    assert torch.equal(2 * rows[:, :24], rows[:, 24:])


def test_where_the_first_nan_is_names_the_store(tmp_path, store):
    broken = store.read(OUT).clone()
    broken[5] = torch.nan
    tuned = write_store(tmp_path / "tuned", {OUT: broken}, model=TUNED)
    assert PairedStore(store, store).first_not_finite(OUT) is None
    assert PairedStore(store, tuned).first_not_finite(OUT) == f"{tuned}: shard-00000.safetensors, row 5 ({OUT})"
