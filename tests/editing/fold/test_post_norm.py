"""Norms behind writers (Gemma 2 and 3, OLMo 2 and 3, GLM-4, EXAONE 4): nothing is left along the direction."""

import pytest
import torch
from folding import IDS, POST_NORM, gap, loaded, on_disk, planned, reloaded, rows

from interp import Add, InterpError, Project, Recipe
from interp.editing.fold.steps import fold
from interp.interventions import Replace
from interp.models.architectures.writers import writers

WRITTEN = ("embed", "attn_out.*", "mlp_out.*")


def leak(model, recipe):
    """The largest share of any writer's output along the recipe's rows."""
    removed = recipe.edits[0].op.rows
    acts = model.capture(IDS, WRITTEN).tensors.values()
    return max(float(((x @ removed.T).norm(dim=-1) / x.norm(dim=-1)).max()) for x in acts)


@pytest.mark.parametrize("name", POST_NORM)
@pytest.mark.parametrize("k", [1, 3])
def test_nothing_is_left_along_the_direction(tiny, name, k):
    """diag(1/g) P diag(g) W leaves nothing; P W, the fold of a model without that norm, leaves a share one sees."""
    model, recipe = tiny(name), Recipe([("writers", Project(rows(k=k)))])
    plan = planned(model, recipe, approximate=True)
    assert plan.status == "scale"
    assert leak(reloaded(model, plan), recipe) < 1e-6
    op, tensors = recipe.edits[0].op, dict(on_disk(model)[0])
    for writer in writers(model.config, tensors):
        x = tensors[writer.tensor]
        tensors[writer.tensor] = x - op.rows.T @ (op.rows @ x) if writer.layout == "out_in" else op(x)
    tensors.setdefault("lm_head.weight", on_disk(model)[0]["model.embed_tokens.weight"])
    naive = loaded(tensors, on_disk(model)[1] | {"tie_word_embeddings": False})
    assert leak(naive, recipe) > 1e-2
    off, effect = gap(model, recipe, plan)
    assert 1e-3 < off < 0.3 * effect


def test_what_stays_is_one_factor_a_token(tiny):
    """In float64: each writer's output is the projected one times rms(x) / rms(x'), the same for all its entries."""
    model, recipe = tiny("olmo2"), Recipe([("attn_out.0", Project(rows()))])
    with model.hooked(recipe):
        hooked = model.capture(IDS, "attn_out.0")["attn_out.0"]
    edited = reloaded(model, planned(model, recipe, approximate=True)).capture(IDS, "attn_out.0")["attn_out.0"]
    factor = (edited * hooked).sum(-1, keepdim=True) / hooked.square().sum(-1, keepdim=True)
    assert (edited - factor * hooked).norm() < 1e-5 * hooked.norm()
    assert (factor - 1).abs().max() > 1e-3, "control: the lengths differ"


@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
def test_near_a_zero_of_the_gain_another_projection_leaves_nothing_either(tiny, name):
    model, recipe = tiny(name, seed=7), Recipe([("writers", Project(rows()))])
    zero = -1.0 if name == "gemma2" else 0.0
    with torch.no_grad():
        for layer in model.hf.model.layers:
            layer.post_attention_layernorm.weight[3] = zero + 1e-6
            layer.post_feedforward_layernorm.weight[5] = zero
    plan = planned(model, recipe, approximate=True)
    assert plan.status == "approximate"
    assert "near 0" in str(plan)
    edited = reloaded(model, plan)
    assert leak(edited, recipe) < 1e-6
    assert all(x.isfinite().all() and x.abs().max() < 10 for x in edited.hf.state_dict().values())
    with pytest.raises(InterpError, match="only a full projection"):
        planned(model, Recipe([("writers", Project(rows(), 0.5))]), approximate=True)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo2", "exaone4", "glm4"])
def test_what_acts_before_the_norm_is_exact(tiny, name):
    """Heads and whole writes are ablated before the norm, which sees the same as with hooks."""
    model = tiny(name)
    recipe = Recipe([("z.1", Replace(units=[0, 2])), ("mlp_out.2", Replace()), ("mlp_post.0", Replace(units=[5, 6]))])
    plan = planned(model, recipe)
    off, effect = gap(model, recipe, plan)
    assert plan.status == "exact"
    assert off < 2e-6 < 1e-2 < effect


def test_a_vector_is_added_before_the_first_block_or_not_at_all(tiny):
    model, recipe = tiny("gemma3"), Recipe([("resid_pre.0", Add(rows()[0]))])
    off, effect = gap(model, recipe, planned(model, recipe))
    assert off < 2e-6 < 1e-2 < effect
    for site in ("mlp_out.1", "resid_post.0"):
        with pytest.raises(InterpError, match="nothing holds a constant after that norm"):
            planned(model, Recipe([(site, Add(rows()[0]))]), approximate=True)


def test_gains_have_to_be_read(tiny):
    model = tiny("olmo2")
    with pytest.raises(InterpError, match="give fold a function that reads them"):
        fold(Recipe([("writers", Project(rows()))]), model.config, model.hf.state_dict(), tied=False)
