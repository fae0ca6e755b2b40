"""A chunk's codes are what each autoencoder encodes of its own site, from a store, a model, and another process."""

import pickle

import pytest
import torch

import interp
from interp.activations import SiteColumns
from interp.features import model_chunks, store_chunks
from interp.features.scanning.chunk_encoder import ChunkEncoder
from interp.models import Site
from interp.sae import SparseAutoencoder, TopK


@pytest.fixture
def saes(tiny):
    """Two autoencoders of one site."""
    model = tiny("llama")
    place = SiteColumns(site="resid_post.1", model=model.reference, width=model.d_model)
    made = {}
    for seed in range(2):
        rows = torch.randn(12, model.d_model, generator=torch.Generator().manual_seed(seed))
        biases = torch.zeros(12), torch.zeros(model.d_model)
        made[f"seed {seed}"] = SparseAutoencoder(rows, biases[0], rows, biases[1], TopK(k=3), (place,), (place,))
    return made


def same(code, other):
    return all(torch.equal(getattr(code, name), getattr(other, name)) for name in ("tokens", "latents")) and (
        torch.allclose(code.values, other.values, atol=1e-4)
    )


def test_codes_are_those_of_the_stored_activations(saes, store):
    encoder = ChunkEncoder(saes, store, torch.device("cpu"), batch_size=16)
    again = pickle.loads(pickle.dumps(encoder.elsewhere()))()
    read = store_chunks(store, [Site("resid_post", 1)], 200)
    for bare, chunk in zip(store_chunks(store, [], 200), read, strict=True):
        codes, there = encoder.codes(bare), again.codes(bare)
        for name, sae in saes.items():
            assert same(codes[name], sae.encode_sparse(chunk.activations["resid_post.1"]))
            assert same(codes[name], there[name])
        assert not same(codes["seed 0"], codes["seed 1"])


def test_a_model_is_read_as_its_store_is(saes, tiny, corpus, store):
    encoder = ChunkEncoder(saes, tiny("llama"), torch.device("cpu"), batch_size=16)
    stored = ChunkEncoder(saes, store, torch.device("cpu"), batch_size=16)
    for chunk in model_chunks(tiny("llama"), corpus, [], 640, context=32):
        codes, there = encoder.codes(chunk), stored.codes(chunk)
        assert all(torch.allclose(codes[n].values, there[n].values, atol=1e-4) for n in saes)


def test_a_model_of_a_folder_is_loaded_from_there_whatever_its_name(saes, tiny, tmp_path):
    tiny("llama").hf.save_pretrained(tmp_path / "model")
    tiny("llama").tokenizer.save_pretrained(tmp_path / "model")
    model = interp.load(tmp_path / "model")
    assert model.reference.name == "model", "control: which is no place"
    encoder = ChunkEncoder(saes, model, torch.device("cpu"), batch_size=16)
    again = pickle.loads(pickle.dumps(encoder.elsewhere()))()
    [chunk] = model_chunks(model, ["w5 w6 w7 w8 w9 w10"] * 3, [], 200, context=32)
    codes, there = encoder.codes(chunk), again.codes(chunk)
    assert all(same(codes[name], there[name]) for name in saes)
