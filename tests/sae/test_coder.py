"""The coder's two forms agree, a saved one comes back the same, and a wrong or damaged one is refused."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from planted import MADE_UP
from tiny_models import one_site
from torch.nn.functional import normalize

from interp.core.errors import InterpError
from interp.core.files import sha256_file
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig, SaeMetrics
from interp.sae.nonlinearities import JumpReLU, TopK


@pytest.fixture
def sae():
    torch.manual_seed(0)
    return SparseAutoencoder(
        W_enc=torch.randn(50, 8),
        b_enc=torch.randn(50),
        W_dec=normalize(torch.randn(50, 8), dim=1),
        b_dec=torch.randn(8),
        nonlinearity=TopK(k=4),
        **one_site(8, "resid_post.1", MADE_UP),
    )


@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 3, 8), (0, 8)])
def test_sparse_and_dense_agree(sae, shape):
    x = torch.randn(shape)
    dense = sae.encode(x)
    code = sae.encode_sparse(x)
    assert torch.equal(code.dense(50).view(dense.shape), dense)
    assert torch.allclose(sae.decode(dense), sae.decode_sparse(code).view(x.shape), atol=1e-5)
    assert torch.allclose(sae(x), sae.decode(dense), atol=1e-5)


def test_the_k_largest_fire_and_none_below_zero(sae):
    x = 5 * torch.randn(200, 8)
    pre = x @ sae.W_enc.T + sae.b_enc
    kth = pre.sort(dim=1, descending=True).values[:, 3:4]
    assert torch.allclose(sae.encode(x), torch.where((pre >= kth) & (pre > 0), pre, 0), atol=1e-5)
    low = replace(sae, b_enc=sae.b_enc - 1000)
    assert not low.encode(x).any()
    assert torch.allclose(low(x), sae.b_dec.expand(200, 8))


def test_reconstructions_have_the_type_of_the_activations(sae):
    x = torch.randn(6, 8, dtype=torch.bfloat16)
    assert sae(x).dtype == torch.bfloat16
    assert sae.encode(x).dtype == torch.float32


def test_narrower_products_are_near(sae):
    x = torch.randn(300, 8)
    rough = sae.to(dtype=torch.bfloat16)
    assert rough(x).dtype == rough.encode(x).dtype == torch.float32
    assert 0 < (rough(x) - sae(x)).norm() < 0.2 * sae(x).norm()


def test_a_saved_one_comes_back_the_same(sae, tmp_path):
    metrics = SaeMetrics(
        tokens=9, fvu=0.1, l0=4.0, dead_share=0.0, loss_clean=1.0, loss_reconstructed=1.25, loss_zero=3.0
    )
    whole = replace(sae, config=SaeConfig(d_sae=50, k=4), metrics=metrics)
    whole.save(tmp_path / "sae")
    loaded = SparseAutoencoder.load(tmp_path / "sae", MADE_UP)
    x = torch.randn(20, 8)
    assert torch.equal(loaded(x), whole(x))
    for name in ("nonlinearity", "site", "model", "config", "metrics"):
        assert getattr(loaded, name) == getattr(whole, name)
    assert loaded.metrics.loss_recovered == 0.875
    with pytest.raises(InterpError, match="exists already"):
        sae.save(tmp_path / "sae")
    with pytest.raises(InterpError, match="names the sites; leave site and writes out"):
        SparseAutoencoder.load(tmp_path / "sae", site="resid_post.1")


def _place(**changes):
    return one_site(8, "resid_post.1", MADE_UP)["reads"][0].model_dump() | changes


def _edit_card(folder, **changes):
    card = json.loads((folder / "sae.json").read_text())
    (folder / "sae.json").write_text(json.dumps(card | changes))


def _rewrite_weights(folder, change):
    tensors = change(safetensors.torch.load_file(folder / "sae.safetensors"))
    safetensors.torch.save_file(tensors, folder / "sae.safetensors")
    _edit_card(folder, sha256=sha256_file(folder / "sae.safetensors"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _edit_card(f, read="embed"), "unknown key 'read'; did you mean reads"),
        (lambda f: _edit_card(f, nonlinearity={"kind": "gated", "k": 4}), "nonlinearity is .*gated"),
        (
            lambda f: _edit_card(f, nonlinearity={"kind": "topk", "k": 51}),
            "k is 51; expected from 1 to .* 50",
        ),
        (lambda f: _edit_card(f, reads=[_place(site="resid_pots.1")]), "unknown site 'resid_pots.1'"),
        (lambda f: _edit_card(f, reads=[_place(width=9)]), r"W_enc has shape \(50, 8\); expected rows of width 9"),
        (
            lambda f: _rewrite_weights(f, lambda t: t | {"b_enc": torch.zeros(49)}),
            r"b_enc has shape \(49,\); expected",
        ),
        (
            lambda f: _rewrite_weights(f, lambda t: t | {"theta": torch.zeros(1)}),
            "theta; expected W_enc, b_enc",
        ),
        (lambda f: (f / "sae.safetensors").write_bytes(b"x"), "sae.safetensors: missing or damaged"),
        (lambda f: (f / "sae.safetensors").unlink(), "sae.safetensors: missing or damaged"),
        (lambda f: (f / "sae.json").unlink(), r"no autoencoder there; looked for sae.json \(interp\)"),
    ],
)
def test_a_damaged_one_is_refused(sae, tmp_path, damage, message):
    sae.save(tmp_path / "sae")
    damage(tmp_path / "sae")
    with pytest.raises(InterpError, match=message):
        SparseAutoencoder.load(tmp_path / "sae")


def test_activations_of_another_width_are_refused(sae):
    with pytest.raises(InterpError, match=r"have width 9; this autoencoder of resid_post\.1 reads a width of 8"):
        sae.encode(torch.randn(2, 9))


def test_another_model_is_refused(sae, tiny, tmp_path):
    own = replace(sae, **one_site(8, "resid_post.1", tiny("llama").reference))
    own.require(tiny("llama"))
    with pytest.raises(InterpError, match=r"this SAE was made for tiny llama 0 with weights"):
        own.require(tiny("llama", seed=1))
    own.save(tmp_path / "sae")
    assert SparseAutoencoder.load(tmp_path / "sae", tiny("llama")).reads == own.reads
    replace(sae, **one_site(8, "resid_post.99", tiny("llama").reference)).save(tmp_path / "deep")
    with pytest.raises(InterpError, match=r"resid_post\.99"):
        SparseAutoencoder.load(tmp_path / "deep", tiny("llama"))
    with pytest.raises(InterpError, match=r"this SAE was made for tiny llama 0 with weights"):
        SparseAutoencoder.load(tmp_path / "sae", tiny("llama", seed=1))


def test_it_shows_itself(sae):
    assert "50 latents, 4 per token" in sae._repr_html_()


@pytest.fixture
def jumping(sae):
    threshold = 3 * torch.rand(50, generator=torch.Generator().manual_seed(1))
    return replace(sae, nonlinearity=JumpReLU(), threshold=threshold)


@pytest.mark.parametrize("shape", [(8,), (2, 3, 8), (0, 8), (1100, 8)])
def test_latents_above_their_thresholds_fire(jumping, shape):
    x = 3 * torch.randn(shape)
    pre = x @ jumping.W_enc.T + jumping.b_enc
    expected = torch.where(pre > jumping.threshold, pre, 0)
    torch.testing.assert_close(jumping.encode(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(jumping(x), expected @ jumping.W_dec + jumping.b_dec, atol=1e-4, rtol=1e-5)


def test_thresholds_are_saved(jumping, tmp_path):
    jumping.save(tmp_path / "sae")
    again = SparseAutoencoder.load(tmp_path / "sae")
    assert torch.equal(again.threshold, jumping.threshold)
    assert again.nonlinearity == JumpReLU()
    _rewrite_weights(tmp_path / "sae", lambda t: {name: x for name, x in t.items() if name != "threshold"})
    with pytest.raises(InterpError, match="expected a threshold for each latent of a jumprelu one"):
        SparseAutoencoder.load(tmp_path / "sae")


def test_thresholds_go_with_jumprelu_alone(sae, jumping):
    with pytest.raises(InterpError, match="a topk autoencoder and threshold"):
        replace(sae, threshold=torch.zeros(50))
    with pytest.raises(InterpError, match="threshold -1 is below zero"):
        replace(jumping, threshold=torch.full((50,), -1.0))
