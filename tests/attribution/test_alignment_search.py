"""Alignment search: its accuracies against patching along the subspace, with controls that must fail."""

import pytest
import torch

from interp import InterpError, Project, Recipe
from interp.attribution import Comparison, LogitDifference, LogProbability, fit_das, patch


def pairs_of(model, seed, convention="denoise"):
    """Pairs of random tokens: of two tokens the model prefers one after the clean ones, the other after the corrupt."""
    ids = torch.randint(4, 90, (160, 6), generator=torch.Generator().manual_seed(seed))
    logits = model.logits(ids, last=1)[:, 0]
    order = (logits[:, 7] - logits[:, 50]).argsort()
    sides = ids[order[-16:]].tolist(), ids[order[:16]].tolist()
    return Comparison(*sides, LogitDifference([7] * 16, [50] * 16), convention=convention).on(model)


@pytest.mark.parametrize("convention", ["denoise", "noise"])
def test_accuracies_are_those_of_patching_and_controls_fail(tiny, convention):
    """After the last layer, where one direction decides between two tokens."""
    model = tiny("llama")
    fitted, held_out = (pairs_of(model, seed, convention) for seed in (0, 1))
    site = f"resid_post.{model.n_layers - 1}"
    subspace = fit_das(model, fitted, held_out, site, steps=30)
    scores, sign = subspace.scores, 1 if convention == "denoise" else -1
    for name, pairs in (("interchange accuracy", held_out), ("fitted pairs", fitted)):
        values = patch(model, pairs, site, positions=[-1], subspace=subspace).values
        assert scores[name] == pytest.approx(float((sign * values > 0).float().mean()))
    assert (scores["whole site"], scores["no patch"]) == (1, 0)
    assert scores["interchange accuracy"] > scores["random subspace"] + 0.3
    assert scores["interchange accuracy"] > scores["arbitrary answers"] + 0.2
    assert subspace.rows.shape == (1, model.d_model)
    assert Recipe([(site, Project(subspace))]).edits[0].op.width == model.d_model


def test_a_free_search_learns_what_a_coin_says_where_it_is_fitted_alone(tiny):
    """What the control is for: half of all dimensions at an early layer, and few pairs."""
    model = tiny("llama")
    fitted, held_out = (pairs_of(model, seed) for seed in (0, 1))
    scores = fit_das(model, fitted, held_out, "resid_pre.1", k=16, steps=60).scores
    assert scores["arbitrary answers, fitted pairs"] > 0.8 > scores["arbitrary answers"]


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
