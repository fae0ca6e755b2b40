"""Edits of SAE features as what folds: projections, and least-squares fits with their fidelity."""

import numpy as np
import pytest
import torch
from folding import IDS
from tiny_models import one_site
from torch.nn.functional import normalize
from transcoders import suppressed, transcoder
from transformers import AutoModelForCausalLM

import interp
from interp import Clamp, InterpError, Project, Recipe, SparseAutoencoder
from interp.activations.token_rows import pack_rows
from interp.editing.approximate.affine_features import affine_fit, as_projection
from interp.editing.approximate.fidelity import measure_fidelity
from interp.interventions.ablation import Replace
from interp.interventions.positions import At
from interp.models.sites import Site
from interp.sae.nonlinearities import JumpReLU

TEXTS = [
    " ".join(f"w{n}" for n in torch.randint(4, 128, (30,), generator=torch.Generator().manual_seed(seed)).tolist())
    for seed in range(24)
]


def autoencoder(model, site, always=False):
    """Of random rows; with `always` the first latents fire on every token there is."""
    draw = torch.Generator().manual_seed(3)
    W_enc, b_enc = torch.randn(40, 32, generator=draw) / 8, torch.zeros(40)
    if always:
        b_enc[:8] = 50.0
    return SparseAutoencoder(
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=normalize(torch.randn(40, 32, generator=draw), dim=1),
        b_dec=torch.zeros(32),
        nonlinearity=JumpReLU(),
        threshold=torch.zeros(40),
        **one_site(32, site, model.reference),
    )


def clamped(model, site="mlp_out.1", latents=(1, 2), value=0.0, always=False):
    return Recipe([(site, Clamp(autoencoder(model, site, always), list(latents), value))])


def activations(model, site, texts):
    packed = pack_rows(model, texts, 32)
    return model.forward_to([Site.parse(site)], packed.model_inputs(model.device))[Site.parse(site)][packed.inner]


def test_the_fit_is_the_least_squares_solution(tiny):
    model, recipe = tiny("llama"), clamped(tiny("llama"))
    fitted = affine_fit(model, recipe, TEXTS, context=32, held_out=0.25, batch_size=3)
    packed = pack_rows(model, TEXTS, 32)
    x = activations(model, "mlp_out.1", TEXTS)[: fitted.tokens].double()
    change = recipe.edits[0].op(x) - x
    beside = np.column_stack([x.numpy(), np.ones(len(x))])
    expected = beside @ np.linalg.lstsq(beside, change.numpy(), rcond=None)[0]
    assert 0 < fitted.tokens < int(packed.inner.sum())
    op = fitted.recipe.edits[0].op
    assert len(op.rows) == 2, "as many directions as latents"
    torch.testing.assert_close((op(x) - x).numpy(), expected, atol=1e-5, rtol=1e-4)
    assert 0.1 < fitted.fidelity.explained < 0.95, "control: the edit is no affine function"


def test_where_a_latent_always_fires_the_fit_is_the_edit_itself(tiny, tmp_path):
    model = tiny("gpt2")
    recipe = clamped(model, always=True, value=49.0)
    fitted = affine_fit(model, recipe, TEXTS, context=32)
    assert fitted.fidelity.explained > 1 - 1e-6
    assert fitted.fidelity.kl < 1e-7 < 1e-4 < fitted.fidelity.effect_kl
    assert fitted.fidelity.reproduced > 0.999
    assert fitted.exports
    certificate = interp.export(fitted.recipe, model, tmp_path / "out")
    assert (certificate.status, certificate.faithful) == ("exact", True)
    with torch.no_grad(), model.hooked(recipe):
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(IDS).logits
        torch.testing.assert_close(found, model.logits(IDS), atol=1e-3, rtol=1e-3)
    with pytest.raises(InterpError, match="no exact fold"):
        interp.export(recipe, model, tmp_path / "clamp")


def test_a_fit_says_where_it_folds(tiny):
    """At what writes the stream, where there is a bias to be had; not at one site of the stream."""
    model = tiny("llama")
    assert affine_fit(model, clamped(model), TEXTS, context=32).exports
    qwen = affine_fit(tiny("qwen3"), clamped(tiny("qwen3")), TEXTS, context=32)
    assert not qwen.exports
    assert "needs a bias on its writer" in str(qwen)
    alone = affine_fit(model, clamped(model, "resid_post.1"), TEXTS, context=32)
    assert not alone.exports
    assert "no single tensor writes that site" in alone.items[0].reason


@pytest.mark.parametrize(("name", "site", "writer"), [("llama", "resid_post.1", "mlp_out.1"),
                                                      ("gpt_neox", "resid_pre.2", "mlp_out.1")])  # fmt: skip
def test_an_edit_of_the_stream_is_fitted_by_what_was_written_last(tiny, tmp_path, name, site, writer):
    """That is the least-squares solution of the change on the write; it folds."""
    model, recipe = tiny(name), clamped(tiny(name), site)
    fitted = affine_fit(model, recipe, TEXTS, context=32, at_writer=True)
    assert fitted.recipe.edits[0].sites == (writer,)
    assert fitted.exports
    assert interp.export(fitted.recipe, model, tmp_path / "out").faithful
    assert 0.1 < fitted.fidelity.explained < 0.95
    assert fitted.fidelity.kl < fitted.fidelity.effect_kl
    x, written = (activations(model, each, TEXTS)[: fitted.tokens].double() for each in (site, writer))
    change = (recipe.edits[0].op(x) - x).numpy()
    beside = np.column_stack([written.numpy(), np.ones(len(x))])
    expected = beside @ np.linalg.lstsq(beside, change, rcond=None)[0]
    found = fitted.recipe.edits[0].op(written) - written
    torch.testing.assert_close(found.numpy(), expected, atol=1e-5, rtol=1e-3)
    assert affine_fit(model, clamped(model), TEXTS, context=32, at_writer=True).recipe.edits[0].sites == ("mlp_out.1",)


def test_a_projection_of_latents_folds_exactly_and_takes_away_more(tiny, tmp_path):
    model, recipe = tiny("llama"), clamped(tiny("llama"), "resid_post.1")
    sae = recipe.edits[0].op.sae
    projection = as_projection(sae, [1, 2])
    assert interp.export(projection, model, tmp_path / "out").leak < 1e-5
    near = measure_fidelity(model, recipe, projection, TEXTS, context=32)
    itself = measure_fidelity(model, recipe, recipe, TEXTS, context=32)
    assert (itself.explained, itself.kl) == (1, pytest.approx(0, abs=1e-9))
    assert near.effect_kl == pytest.approx(itself.effect_kl)
    assert near.kl > 0.1 * near.effect_kl
    grafted = suppressed(tiny("llama"))
    assert measure_fidelity(model, grafted, grafted, TEXTS, context=32).explained == 1


def test_a_fit_of_fewer_directions_is_further_off(tiny):
    model, recipe = tiny("llama"), clamped(tiny("llama"), latents=range(12))
    some, more = (affine_fit(model, recipe, TEXTS, context=32, rank=rank) for rank in (2, None))
    assert len(some.recipe.edits[0].op.rows) == 2 < len(more.recipe.edits[0].op.rows)
    assert some.fidelity.explained < more.fidelity.explained


def test_what_can_not_be_fitted_is_refused(tiny):
    model = tiny("llama")
    clamp = clamped(model).edits[0].op
    silent = SparseAutoencoder(
        **{**clamp.sae.tensors(), "b_enc": torch.full((40,), -1e4)},
        nonlinearity=JumpReLU(),
        **one_site(32, "mlp_out.1", model.reference),
    )
    for recipe, texts, options, message in [
        (Recipe([("mlp_out.*", Project(torch.ones(32)))]), TEXTS, {}, "3 ops at sites; expected one"),
        (Recipe([("mlp_out.1", At(clamp, "last"))]), TEXTS, {}, "At depends on more than the activations"),
        (suppressed(model), TEXTS, {}, "export its neurons"),
        (clamped(model), TEXTS[:2], {}, "expected more tokens"),
        (clamped(model), TEXTS[:1], {}, "expected some to fit on"),
        (clamped(model), TEXTS, {"held_out": 0.0}, "held_out is 0.0"),
        (clamped(model), TEXTS, {"rank": 0}, "rank is 0"),
        (Recipe([("mlp_out.1", Clamp(silent, 3))]), TEXTS, {}, "changes nothing on these texts"),
        (Recipe([("mlp_post.1", Replace(units=[1]))]), TEXTS, {}, "not in the basis of the residual stream"),
        (clamped(tiny("llama", seed=1)), TEXTS, {}, "made for"),
        (clamped(model, "resid_mid.1"), TEXTS, {"at_writer": True}, "seen by the MLP alone"),
    ]:
        with pytest.raises(InterpError, match=message):
            affine_fit(model, recipe, texts, context=32, **options)
    for latents in ([], [40], -1):
        with pytest.raises(InterpError, match="expected one or more from 0 to 39"):
            as_projection(clamp.sae, latents)
    with pytest.raises(InterpError, match="not in the residual stream's basis"):
        as_projection(transcoder(model, writes="mlp_input", reads="mlp_out"), 3)
