"""Means of heads, neurons and whole writes in weights: columns are zeroed, and what they wrote is in the bias."""

import pytest
from folding import IDS, gap, planned, rows

from interp import Project, Recipe
from interp.interventions import Replace


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gemma2", "granite", "phi", "falcon"])
def test_mean_ablation_of_heads_moves_what_they_wrote_into_the_bias(tiny, name):
    model = tiny(name)
    mean = Replace.mean(model, IDS, "z.1", units=[0, 2])
    recipe = Recipe([("z.1", mean), ("z.1", Replace(units=[2]))])
    plan = planned(model, recipe)
    off, effect = gap(model, recipe, plan)
    assert plan.status == "exact"
    assert off < 2e-6 < 1e-2 < effect


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "opt"])
def test_mean_ablation_of_neurons_and_of_whole_writes(tiny, name):
    model = tiny(name)
    for recipe in (
        Recipe([("mlp_post.1", Replace.mean(model, IDS, "mlp_post.1", units=[3, 40, 41]))]),
        Recipe([("mlp_post.1", Replace.mean(model, IDS, "mlp_post.1"))]),
        Recipe([("mlp_out.0", Replace.mean(model, IDS, "mlp_out.0"))]),
        Recipe([("attn_out.1", Replace.mean(model, IDS, "attn_out.1", units=[1, 30]))]),
        Recipe([("z.2", Replace.mean(model, IDS, "z.2")), ("writers", Project(rows(k=2)))]),
    ):
        off, effect = gap(model, recipe, planned(model, recipe))
        assert off < 2e-6 < 1e-3 < effect
