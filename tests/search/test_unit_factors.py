"""Learned factors: the margin falls more than under the same factors of other units, and what is kept stays."""

import pytest
import torch
from tiny_models import one_site
from word_contrasts import choices

import interp
from interp import InterpError, Recipe
from interp.directions.methods._answers import answer_continuations
from interp.interventions.ablation import Scale
from interp.models import Continuations, frozen_weights
from interp.models.continuations import logprobs
from interp.models.losses import kl_divergence
from interp.sae import TopK
from interp.search import RecipeFile, learn_factors

KEPT = ["The river runs past the mill.", "A cat sat on the old wall.", "Nobody came to the fair today."]


def sides(model):
    """The likelier answers first, so that there is a margin to lose."""
    first, second = answer_continuations(model, choices())
    return (first, second) if (logprobs(model, first) - logprobs(model, second)).mean() > 0 else (second, first)


def kept(model):
    return [Continuations.whole(model.tokens(KEPT))]


@torch.no_grad()
def margins(model, recipe):
    positive, negative = sides(model)
    with model.hooked(recipe):
        return logprobs(model, positive) - logprobs(model, negative)


def margin(model, recipe):
    return float(margins(model, recipe).mean())


@torch.no_grad()
def divergence(model, recipe):
    batch = model.tokens(KEPT)
    before = model.forward(batch)
    with model.hooked(recipe):
        after = model.forward(batch)
    return float(kl_divergence(before.double(), after.double())[:, :-1][batch.predicted].mean())


def shuffled(recipe, seed):
    draw = torch.Generator().manual_seed(seed)
    ops = [(edit.sites, edit.op.factors) for edit in recipe.edits]
    return Recipe([(site, Scale(factors[torch.randperm(len(factors), generator=draw)])) for site, factors in ops])


@pytest.mark.parametrize(("name", "kinds"), [("llama", ("neurons",)), ("gpt2", ("neurons", "heads"))])
def test_the_margin_falls_and_the_recipe_gives_the_figures(tiny, name, kinds):
    model = tiny(name)
    learned = learn_factors(model, *sides(model), kept(model), kinds, units=20, steps=12, rate=0.3)
    reached = margin(model, learned.recipe)
    assert reached == pytest.approx(learned.after, abs=1e-4)
    assert margin(model, ()) == pytest.approx(learned.before, abs=1e-4)
    assert divergence(model, learned.recipe) == pytest.approx(learned.kl, abs=1e-4)
    assert 0 < len(learned) <= 20
    assert all(factor % 0.25 == 0 for edit in learned.edits() for factor in [edit["factor"]])
    others = [margin(model, shuffled(learned.recipe, seed)) for seed in range(3)]
    assert reached < min(*others, learned.before), "control: the same factors of other units"
    built = RecipeFile.parse({"edits": learned.edits()}).build(model)
    assert margin(model, built) == pytest.approx(reached, abs=1e-4)


def test_a_larger_weight_keeps_more():
    model = interp.load("organism")
    free, tied = (
        learn_factors(model, *sides(model), kept(model), steps=8, rate=0.2, weight=weight) for weight in (0.1, 30.0)
    )
    assert tied.kl < free.kl / 3
    assert free.after < tied.after < tied.before


def test_margins_of_pairs_that_are_kept_stay():
    """Kept as pairs, the margin that should fall cannot; as texts, the same prompts let it."""
    model, settings = interp.load("organism"), {"steps": 8, "rate": 0.2, "weight": 3.0}
    free = learn_factors(model, *sides(model), kept(model), **settings)
    held = learn_factors(model, *sides(model), [sides(model)], **settings)
    assert held.before - held.after < (free.before - free.after) / 5
    changes = [margins(model, recipe) for recipe in ((), held.recipe)]
    moved = (changes[1] - changes[0]) / changes[0].std(correction=0)
    assert held.kl == pytest.approx(float(moved.square().mean() / 2), rel=1e-3)


def test_latents_are_turned_down_in_what_is_written(tiny, tmp_path):
    model = tiny("llama")
    rows = torch.randn(24, model.d_model, generator=torch.Generator().manual_seed(0))
    own = one_site(model.d_model, "resid_post.1", model.reference)
    sae = interp.SparseAutoencoder(rows, torch.zeros(24), rows, torch.zeros(model.d_model), TopK(k=2), **own)
    learned = learn_factors(model, *sides(model), kept(model), [sae], units=12, steps=12, rate=0.3)
    assert {site.partition(".")[0] for site, *_ in learned.units} <= {"attn_out", "mlp_out"}
    assert margin(model, learned.recipe) == pytest.approx(learned.after, abs=1e-4)
    assert learned.after < learned.before
    sae.save(tmp_path / "sae")
    named = {f"latent_{number}": {"sae": "sae", "latent": number} for _, number, _ in learned.units}
    built = RecipeFile.parse({"directions": named, "edits": learned.edits()}).build(model, folder=tmp_path)
    assert margin(model, built) == pytest.approx(learned.after, abs=1e-4)
    others = {f"latent_{n}": {"sae": "sae", "latent": (n + 7) % 24} for n in range(24)}
    other = RecipeFile.parse({"directions": others, "edits": learned.edits()}).build(model, folder=tmp_path)
    assert learned.after < margin(model, other), "control: the same factors of other latents"


def test_only_units_of_the_layers_change(tiny):
    model = tiny("llama")
    learned = learn_factors(model, *sides(model), kept(model), layers=range(1, 2), steps=3, rate=0.3)
    assert [edit.sites for edit in learned.recipe.edits] == [("mlp_post.1",)]


def test_it_is_the_same_again(tiny):
    model = tiny("llama")
    first, second = (learn_factors(model, *sides(model), kept(model), steps=3, rate=0.3) for _ in range(2))
    assert first.recipe.digest == second.recipe.digest


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_last_logits_and_their_gradients_are_those_of_all(tiny, name):
    model = tiny(name)
    batch = model.tokens(KEPT)
    shift = torch.zeros(model.d_model, requires_grad=True)
    found = []
    for last in (0, 2):
        with frozen_weights(model), model.hooked([("resid_post.0", lambda x: x + shift)]):
            logits = model.forward(batch, last)[:, -2:]
            found.append((logits.detach(), torch.autograd.grad(logits.logsumexp(-1).sum(), shift)[0]))
    for whole, short in zip(*found, strict=True):
        assert torch.allclose(whole, short, atol=1e-5)


def test_wrong_input(tiny):
    model = tiny("llama")
    positive, negative = sides(model)
    with pytest.raises(InterpError, match=r"kinds are \['latents'\]; expected neurons or heads, or an autoencoder"):
        learn_factors(model, positive, negative, kept(model), kinds=["latents"])
    with pytest.raises(InterpError, match="nothing to keep"):
        learn_factors(model, positive, negative, [])
    with pytest.raises(InterpError, match="3 positive answers and 2 negative"):
        learn_factors(model, positive.rows(0, 3), negative.rows(0, 2), kept(model))
    with pytest.raises(InterpError, match="pair 1 has two prompts"):
        learn_factors(model, positive.rows(0, 1), Continuations.of(model, ["Who?"], [" Me"]), kept(model))
    with pytest.raises(InterpError, match="steps is 0"):
        learn_factors(model, positive, negative, kept(model), steps=0)
    with pytest.raises(InterpError, match="no factor is further from 1"):
        learn_factors(model, positive, negative, kept(model), steps=1, rate=1e-6)
