"""Alignment search: its accuracies against patching along the subspace, with controls that must fail."""

import pytest
import torch

from interp import InterpError, Project, Recipe
from interp.attribution import Comparison, LogProbability, fit_das, patch


def pairs_of(model, seed, convention="denoise"):
    """Pairs of random tokens that differ at the last one, and after which the model prefers different tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 90, (40, 6), generator=generator)
    other = ids.clone()
    other[:, -1] = torch.randint(4, 90, (40,), generator=generator)
    best = [model.logits(side, last=1)[:, 0].argmax(-1) for side in (ids, other)]
    chosen = (best[0] != best[1]).nonzero()[:16, 0]
    return Comparison(ids[chosen].tolist(), other[chosen].tolist(), convention=convention).on(model)


@pytest.mark.parametrize("convention", ["denoise", "noise"])
def test_accuracies_are_those_of_patching_and_controls_fail(tiny, convention):
    model = tiny("llama")
    fitted, held_out = (pairs_of(model, seed, convention) for seed in (0, 1))
    site = f"resid_post.{model.n_layers - 1}"
    subspace = fit_das(model, fitted, held_out, site, k=16, steps=30)
    scores, sign = subspace.scores, 1 if convention == "denoise" else -1
    for name, pairs in (("interchange accuracy", held_out), ("fitted pairs", fitted)):
        values = patch(model, pairs, site, positions=[-1], subspace=subspace).values
        assert scores[name] == pytest.approx(float((sign * values > 0).float().mean()))
    assert scores["whole site"] == 1
    assert scores["fitted pairs"] > scores["random subspace"] + 0.2
    assert scores["interchange accuracy"] > scores["arbitrary answers"]
    assert scores["arbitrary answers, fitted pairs"] > 0.9, "half of all dimensions learn what a coin says"
    assert subspace.rows.shape == (16, model.d_model)
    assert Recipe([(site, Project(subspace))]).edits[0].op.width == model.d_model


def test_a_site_after_which_nothing_can_reach_the_answer_has_no_subspace(tiny):
    """At another position than the last, after the last layer."""
    model = tiny("llama")
    fitted, held_out = (pairs_of(model, seed) for seed in (0, 1))
    scores = fit_das(model, fitted, held_out, f"resid_post.{model.n_layers - 1}", position=-2, steps=2).scores
    assert scores["whole site"] == scores["fitted pairs"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1000}, "expected at most 32"),
        ({"site": "z.1"}, "residual stream's basis"),
        ({"position": -9}, "position -9 is not in all"),
        ({"position": 0}, "position 0 is not in all"),
    ],
)
def test_what_can_not_be_searched_is_refused(tiny, options, message):
    model = tiny("llama")
    pairs = pairs_of(model, 0)
    with pytest.raises(InterpError, match=message):
        fit_das(model, pairs, pairs, **{"site": "resid_post.1"} | options)
    single = Comparison([[4, 5]], [[4, 6]], LogProbability([7]))
    with pytest.raises(InterpError, match="pair 1: has one answer"):
        fit_das(model, single, single, "resid_post.1")
