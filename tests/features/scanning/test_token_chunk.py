import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import InterpError, harvest
from interp.activations.token_rows import CorpusPasses
from interp.features import model_chunks, store_chunks
from interp.features.scanning.token_chunk import TokenChunk
from interp.models import Site

SITES = [Site("resid_post", 1)]


def joined(chunks):
    chunks = list(chunks)
    names = ("ids", "document", "position")
    return [torch.cat([getattr(chunk, name) for chunk in chunks]) for name in names], torch.cat(
        [chunk.activations["resid_post.1"] for chunk in chunks]
    )


def test_chunks_of_a_store_are_the_store_whatever_their_size(store):
    @settings(max_examples=15)
    @given(st.integers(1, 3000))
    def check(size):
        chunks = list(store_chunks(store, SITES, size))
        (ids, document, position), x = joined(chunks)
        assert torch.equal(ids, store.ids.long())
        assert torch.equal(document, store.document.long())
        assert torch.equal(position, store.position.long())
        assert torch.equal(x, store["resid_post.1"].float())
        assert [chunk.start for chunk in chunks] == [0, *torch.tensor([len(c) for c in chunks]).cumsum(0)[:-1].tolist()]
        if size >= 64:  # at least as long as every piece
            assert all(chunk.position[0] == 0 for chunk in chunks)

    check()


def test_chunks_of_a_model_are_what_a_harvest_stores(tiny, corpus, store):
    (ids, document, position), x = joined(model_chunks(tiny("llama"), corpus, SITES, 100, context=32))
    assert torch.equal(ids, store.ids.long())
    assert torch.equal(position, store.position.long())
    assert torch.equal(document, store.document.long())
    assert torch.allclose(x, store["resid_post.1"], atol=1e-5)


def test_activations_can_be_read_later(tiny, corpus, store):
    whole, bare = (list(model_chunks(tiny("llama"), corpus, sites, 640, context=32)) for sites in (SITES, []))
    passes = CorpusPasses(tiny("llama"), SITES, 16)
    assert all(chunk.activations == {} for chunk in bare)
    for pairs, source in [
        (zip(bare, whole, strict=True), passes),
        (zip(store_chunks(store, [], 100), store_chunks(store, SITES, 100), strict=True), store),
    ]:
        for before, chunk in pairs:
            assert (before.start, len(before)) == (chunk.start, len(chunk))
            later = before.read(source, SITES).activations["resid_post.1"]
            assert torch.equal(later, chunk.activations["resid_post.1"])


def test_pieces_end_where_documents_do_and_where_positions_jump():
    document, position = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 0, 1, 3])
    assert TokenChunk(0, document, document, position, {}).piece().tolist() == [0, 0, 1, 2, 2, 3]


def test_a_nan_is_named(store, monkeypatch):
    zeros = torch.zeros(4).long()
    monkeypatch.setattr(type(store), "read", lambda *_: torch.zeros(4, 2).index_fill(0, torch.tensor([2]), torch.nan))
    with pytest.raises(InterpError, match=r"resid_post.1: token 12 has NaN"):
        TokenChunk(10, zeros, zeros, zeros).read(store, SITES)


def test_the_limit_of_tokens(store, tiny, corpus, tmp_path):
    assert sum(map(len, store_chunks(store, SITES, 100, tokens=333))) == 333
    assert sum(map(len, model_chunks(tiny("llama"), corpus, SITES, 100, tokens=333, context=32))) == 333
    kept = harvest(tiny("llama"), corpus, SITES, tmp_path / "inner", keep="inner", context=32)
    assert sum(map(len, store_chunks(kept, SITES, 100))) == len(kept)
