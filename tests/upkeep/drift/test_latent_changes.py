"""Shares of documents in which a latent fires are those of a slow loop; of a model against itself nothing changes."""

import pytest
import torch
from drifted import TEXTS, alone, moved, rows_of

from interp import InterpError
from interp.activations import SiteColumns
from interp.sae import SparseAutoencoder, TopK
from interp.upkeep.drift.latent_changes import FiringTally
from interp.upkeep.drift.paired_passes import paired_passes


def coder(model, sites=("resid_post.1",)):
    """As many latents as there are directions and signs, of which the four largest fire."""
    width = 32 * len(sites)
    rows = torch.cat([torch.eye(width), -torch.eye(width)])
    places = tuple(SiteColumns(site=site, model=model.reference, width=32) for site in sites)
    return SparseAutoencoder(rows, torch.zeros(2 * width), rows, torch.zeros(width), TopK(k=4), places, places)


def changes(first, second, limit=0.05, models=1):
    rows = rows_of(first)
    tally = FiringTally(coder(first), first, len(TEXTS))
    for batch in paired_passes(first, second, rows, [tally.site]):
        tally.update(*batch)
    return tally.result(limit, models, 0)


def test_shares_are_those_of_a_slow_loop_and_the_largest_changes_come_first(tiny):
    first = tiny("llama")
    axis = torch.eye(32)[7]
    second, sae = moved(first, 1, axis, 40.0), coder(first)
    fires = []
    for model in (first, second):
        each = [
            sae.encode(model.capture(alone(model, text), "resid_post.1")["resid_post.1"][0, 1:]).gt(0).any(0)
            for text in TEXTS
        ]
        fires.append(torch.stack(each).double().mean(0))
    found = changes(first, second)
    for change in found:
        assert abs(change.before - float(fires[0][change.latent])) < 1e-9
        assert abs(change.after - float(fires[1][change.latent])) < 1e-9
        assert abs(change.change.estimate - (change.after - change.before)) < 1e-9
    assert abs(found[0].change.estimate) == float((fires[1] - fires[0]).abs().max())
    assert {change.latent for change in found if change.finding} & {7, 39}, "the latent of the axis that was moved"
    assert {change.latent for change in changes(first, second, limit=1.0) if change.finding} == set()


def test_more_models_widen_the_intervals_and_nothing_changes_against_itself(tiny):
    first = tiny("llama")
    second = moved(first, 1, torch.eye(32)[7])
    alone, several = changes(first, second)[0].change, changes(first, second, models=50)[0].change
    assert several.low < alone.low <= alone.high < several.high
    assert changes(first, first) == ()


def test_an_autoencoder_of_another_model_or_of_several_sites_is_refused(tiny):
    with pytest.raises(InterpError, match="make one for this model"):
        FiringTally(coder(tiny("llama")), tiny("llama", seed=1), 2)
    with pytest.raises(InterpError, match="reads several sites"):
        FiringTally(coder(tiny("llama"), ("resid_post.0", "resid_post.1")), tiny("llama"), 2)
