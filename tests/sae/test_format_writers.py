"""SAELens, sparsify and dictionary_learning themselves read what is written for them, and what they write is read.

Where they are not installed these are skipped: their pins clash with ours (sae-lens wants TransformerLens 3).
"""

import json
from dataclasses import replace

import pytest
import torch
from planted import MADE_UP
from torch.nn.functional import normalize

from interp.activations.columns import SiteColumns
from interp.sae import format_writers
from interp.sae.coder import SparseAutoencoder
from interp.sae.nonlinearities import JumpReLU, TopK

D, F, K = 8, 40, 4
HERE, THERE = (SiteColumns(site=site, model=MADE_UP, width=D) for site in ("resid_post.0", "mlp_out.0"))
G = torch.Generator().manual_seed(0)
X = 3 * torch.randn(200, D, generator=G) + 1


def _coder(kind, writes=HERE, skip=False):
    """Random, with biases, and decoder rows that are not of norm one where that matters."""
    rows = torch.randn(F, D, generator=G)
    tensors = {"W_enc": rows, "b_enc": torch.randn(F, generator=G), "b_dec": torch.randn(D, generator=G)}
    tensors["W_dec"] = torch.randn(F, D, generator=G) / 2 if kind == "topk" else normalize(rows)
    own = {"nonlinearity": TopK(k=K)} if kind == "topk" else {"nonlinearity": JumpReLU(), "threshold": torch.rand(F)}
    return SparseAutoencoder(
        **tensors, **own, reads=(HERE,), writes=(writes,), W_skip=torch.randn(D, D, generator=G) if skip else None
    )


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_saelens_reads_an_autoencoder(tmp_path, kind):
    saes = pytest.importorskip("sae_lens")
    ours = _coder(kind)
    format_writers.write_autoencoder(ours, tmp_path / "sae", "saelens")
    theirs = saes.SAE.load_from_disk(str(tmp_path / "sae"))
    torch.testing.assert_close(theirs(X), ours(X), atol=1e-5, rtol=1e-5)
    assert torch.equal(theirs.encode(X) > 0, ours.encode(X) > 0)
    assert theirs.cfg.metadata.hook_name == "blocks.0.hook_resid_post"


@pytest.mark.parametrize("skip", [False, True])
def test_saelens_reads_a_transcoder(tmp_path, skip):
    saes = pytest.importorskip("sae_lens")
    ours = _coder("jumprelu", THERE, skip)
    format_writers.write_autoencoder(ours, tmp_path / "sae", "saelens")
    theirs = saes.SAE.load_from_disk(str(tmp_path / "sae"))
    found = theirs.decode(theirs.encode(X)) + (X @ theirs.W_skip.T if skip else 0)
    torch.testing.assert_close(found, ours(X), atol=1e-4, rtol=1e-5)


SAELENS = ("Standard", "TopK", "BatchTopK", "JumpReLU", "Gated", "MatryoshkaBatchTopK")


@pytest.mark.parametrize("name", SAELENS)
def test_what_saelens_trains_is_read(tmp_path, name):
    pytest.importorskip("sae_lens")
    from sae_lens import SAE, saes

    options = {"k": K} if "TopK" in name else {}
    options |= {"matryoshka_widths": [10, F]} if "Matryoshka" in name else {}
    torch.manual_seed(0)
    trained = getattr(saes, f"{name}TrainingSAE")(getattr(saes, f"{name}TrainingSAEConfig")(d_in=D, d_sae=F, **options))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    trained.save_inference_model(str(tmp_path / "sae"))
    theirs = SAE.load_from_disk(str(tmp_path / "sae"))
    ours = SparseAutoencoder.load(tmp_path / "sae", MADE_UP, "resid_post.0")
    with torch.no_grad():
        torch.testing.assert_close(ours(X), theirs(X), atol=1e-5, rtol=1e-5)
    assert float((ours.encode(X) > 0).float().mean()) > 0.01


@pytest.mark.parametrize(("writes", "skip"), [(HERE, False), (THERE, False), (THERE, True)])
def test_sparsify_reads_and_writes(tmp_path, monkeypatch, writes, skip):
    monkeypatch.setenv("SPARSIFY_DISABLE_TRITON", "1")  # whose kernels need a GPU
    sparsify = pytest.importorskip("sparsify")
    ours = _coder("topk", writes, skip)
    format_writers.write_autoencoder(ours, tmp_path / "sae", "sparsify")
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path / "sae")
    with torch.no_grad():
        torch.testing.assert_close(theirs(X).sae_out, ours(X), atol=1e-5, rtol=1e-5)
    theirs.save_to_disk(tmp_path / "again")
    again = SparseAutoencoder.load(tmp_path / "again", MADE_UP, "resid_post.0", None if writes == HERE else "mlp_out.0")
    torch.testing.assert_close(again(X), ours(X), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_dictionary_learning_reads_what_is_written(tmp_path, kind):
    utils = pytest.importorskip("dictionary_learning.utils", exc_type=ImportError)
    ours = _coder(kind)
    ours = replace(ours, W_dec=normalize(ours.W_dec))  # which it assumes
    format_writers.write_autoencoder(ours, tmp_path / "sae", "dictionary_learning")
    format_writers.write_autoencoder(ours, tmp_path / "sae", "dictionary_learning", overwrite=True)
    theirs, config = utils.load_dictionary(str(tmp_path / "sae"), "cpu")
    with torch.no_grad():
        torch.testing.assert_close(theirs(X), ours(X), atol=1e-5, rtol=1e-5)
    assert config["trainer"]["lm_name"] == MADE_UP.name


@pytest.mark.parametrize(
    "name", ["AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "GatedAutoEncoder", "JumpReluAutoEncoder"]
)
def test_what_dictionary_learning_saves_is_read(tmp_path, name):
    pytest.importorskip("dictionary_learning", exc_type=ImportError)
    from dictionary_learning import dictionary, trainers

    torch.manual_seed(0)
    homes = (dictionary, trainers.top_k, trainers.batch_top_k)
    made = next(getattr(home, name) for home in homes if hasattr(home, name))
    theirs = made(D, F, K) if "TopK" in name else made(D, F)
    with torch.no_grad():
        for key, value in theirs.state_dict().items():
            if value.is_floating_point() and value.ndim:
                value.copy_(torch.rand(value.shape) if key == "threshold" else 0.5 * torch.randn(value.shape))
        if "BatchTopK" in name:
            theirs.threshold.fill_(0.8)
        torch.save(theirs.state_dict(), tmp_path / "ae.pt")
        (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, "k": K}}))
        ours = SparseAutoencoder.load(tmp_path, MADE_UP, "resid_post.0")
        torch.testing.assert_close(ours(X), theirs(X), atol=1e-5, rtol=1e-4)
