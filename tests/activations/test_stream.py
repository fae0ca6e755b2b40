"""A stream gives what a store would, in bounded memory, and trains the same coder to the same quality."""

import random

import pytest
import torch
from tiny_models import at_layer

from interp.activations.harvester import harvest
from interp.activations.stream import ActivationSource, Stream
from interp.core.errors import InterpError
from interp.sae.config import SaeConfig
from interp.sae.training.trainer import train

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def corpus():
    draw = random.Random(0)
    return [" ".join(f"w{draw.randint(4, 127)}" for _ in range(draw.randint(0, 40))) for _ in range(100)]


@pytest.fixture(scope="module")
def store(tiny, corpus, tmp_path_factory):
    return harvest(tiny("llama"), corpus, [SITE, "z.0"], tmp_path_factory.mktemp("stream") / "store", context=32)


def _same_rows(x, y):
    """Whether two sets of rows are one, up to rounding: the same values along each of a few random directions."""
    directions = torch.randn(x.shape[1], 5, generator=torch.Generator().manual_seed(0))
    return torch.allclose((x @ directions).sort(0).values, (y @ directions).sort(0).values, atol=1e-4)


@pytest.mark.parametrize("pool_tokens", [50, 300, 10**6])
@pytest.mark.parametrize("first_tokens", [True, False])
def test_an_epoch_is_a_permutation_of_the_stores_rows(tiny, corpus, store, pool_tokens, first_tokens):
    stream = Stream(tiny("llama"), corpus, [SITE, "z.0"], context=32, pool_tokens=pool_tokens)
    assert isinstance(stream, ActivationSource)
    assert isinstance(store, ActivationSource)
    assert stream.places(["z.0", SITE]) == store.places(["z.0", SITE])
    batches = list(stream.batches(SITE, 64, seed=0, epochs=2, first_tokens=first_tokens))
    assert {len(batch) for batch in batches[:-1]} == {64}
    rows = store.read(SITE)[(store.position > 0) | first_tokens]
    drawn = torch.cat(batches)
    for epoch in drawn.split(len(rows)):
        assert _same_rows(epoch, rows)
    assert not _same_rows(drawn[: len(rows)], drawn[len(rows) - 1 : -1]), "control: one row of another epoch shows"
    again = torch.cat(list(stream.batches(SITE, 64, seed=0, epochs=2, first_tokens=first_tokens)))
    other = torch.cat(list(stream.batches(SITE, 64, seed=1, epochs=2, first_tokens=first_tokens)))
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)


def test_a_batch_mixes_documents(tiny, corpus, store):
    stream = Stream(tiny("llama"), corpus, SITE, context=32, pool_tokens=400)
    batch = next(stream.batches(SITE, 64, seed=0))
    place = (batch[:, None] - store.read(SITE)).norm(dim=-1).argmin(1)
    assert len(store.document[place].unique()) > 10


def test_the_model_runs_no_further_than_it_is_asked(tiny, corpus):
    model, passes = tiny("llama"), []
    with at_layer(model, 0, lambda x: passes.append(len(x))):
        stream = Stream(model, corpus, SITE, context=32, batch_size=2, pool_tokens=128)
        batches = stream.batches(SITE, 32, seed=0)
        next(batches)
        assert sum(passes) < 10
        for _ in range(200):
            next(batches)


def test_training_takes_either(tiny, corpus, store):
    config = SaeConfig(d_sae=64, k=4, tokens=40_000, batch_size=256, lr=3e-3)
    stream = Stream(tiny("llama"), corpus, SITE, context=32, pool_tokens=1000)
    from_store, from_stream = (train(source, SITE, config) for source in (store, stream))
    assert from_stream.sae.model == from_store.sae.model
    assert from_stream.history[-1].fvu == pytest.approx(from_store.history[-1].fvu, abs=0.03)
    assert from_stream.history[-1].fvu < 0.8 * from_stream.history[0].fvu


def test_what_cannot_be_streamed_is_refused(tiny, corpus):
    model = tiny("llama")
    with pytest.raises(InterpError, match="reads its text once per epoch"):
        Stream(model, iter(corpus), SITE)
    with pytest.raises(InterpError, match=r"site 'resid_post\.2' is not in this stream; did you mean resid_post\.1"):
        next(Stream(model, corpus, SITE, context=32).batches("resid_post.2", 4, seed=0))
    with pytest.raises(InterpError, match="no such file"):
        Stream(model, "nowhere.jsonl", SITE, context=32)
    with pytest.raises(InterpError, match="pool_tokens 1"):
        Stream(model, corpus, SITE, pool_tokens=1)
    with pytest.raises(InterpError, match="batch_size is 0; expected a whole number above 0"):
        Stream(model, corpus, SITE, batch_size=0)
    with pytest.raises(InterpError, match="no site given"):
        Stream(model, corpus, SITE, context=32).batches([], 4, seed=0)
    stream = Stream(model, corpus, SITE, context=32)
    nan = at_layer(model, 0, lambda x: torch.full_like(x, torch.nan))
    with nan, pytest.raises(InterpError, match="NaN or infinite activations"):
        next(stream.batches(SITE, 4, seed=0))
    with pytest.raises(InterpError, match="only first tokens"):
        next(Stream(model, ["", ""], SITE, context=32).batches(SITE, 4, seed=0, first_tokens=False))
