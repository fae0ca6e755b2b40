"""The record names what counts, the site where a shift grew most, and the worst decision of a series."""

from dataclasses import replace

import pytest

from interp import InterpError
from interp.auditing.statistics.comparison import Estimate
from interp.models.identity import ModelReference
from interp.upkeep import Drift, ModelDrift
from interp.upkeep.drift.drift_record import BehaviourChange
from interp.upkeep.drift.latent_changes import FiringChange
from interp.upkeep.drift.site_changes import ProjectionChange, SiteChange
from interp.upkeep.drift.token_divergence import TokenDivergence

MODEL = ModelReference(name="m", digest="0", model_type="llama", d_model=2, n_layers=3)
RATE = Estimate(0.5, 0.4, 0.6, 10)


def shift(site, size, name="hostility", finding=True):
    return ProjectionChange(name, site, Estimate(size, size - 0.01, size + 0.01, 10), 0.001, finding)


def made(*projections, outcome=None):
    behaviour = BehaviourChange("rude", "harm", "rate", RATE, RATE, RATE, 0.1, 0.2, None, True)
    sites = tuple(SiteChange(f"resid_post.{layer}", 1.0, 0.0, (), ()) for layer in range(3))
    latents = (FiringChange(3, 0.1, 0.6, RATE, True), FiringChange(4, 0.1, 0.1, RATE, False))
    divergence = TokenDivergence(RATE, 0.1, 0.2, 5, ())
    return ModelDrift(MODEL, "audit-1.json", (behaviour,), divergence, sites, projections, latents, None, outcome, ())


def test_findings_are_behaviours_directions_once_and_latents():
    drift = made(shift("resid_post.2", 0.5), shift("resid_post.1", 0.4), shift("resid_post.0", 0.0, finding=False))
    behaviour, direction, latent = drift.findings
    assert behaviour == "rude changed by 0.500 [0.400, 0.600]"
    assert "at resid_post.2 by 0.500" in direction
    assert direction.endswith("grew most at resid_post.1")
    assert latent.startswith("latent 3 fires")


def test_a_shift_grew_most_where_it_exceeds_the_site_before_by_most_up_or_down():
    sizes = {"resid_post.0": 0.1, "resid_post.1": -0.5, "resid_post.2": 0.55}
    drift = made(*(shift(site, size) for site, size in reversed(sizes.items())))
    assert drift.grew_at("hostility") == "resid_post.1"
    with pytest.raises(InterpError, match="did you mean hostility"):
        drift.grew_at("hostilty")


def test_the_worst_decision_of_the_series_counts():
    def outcome(*outcomes):
        return Drift(MODEL, tuple(replace(made(), outcome=x) for x in outcomes), {}).outcome

    assert outcome("allow", "deny", "inconclusive") == "deny"
    assert outcome("allow", "inconclusive") == "inconclusive"
    assert outcome("allow", "allow") == "allow"
    assert outcome(None) is outcome() is None


def test_a_folder_without_a_record_and_a_damaged_one_are_refused(tmp_path):
    with pytest.raises(InterpError, match="is no folder of a drift"):
        Drift.read(tmp_path)
    (tmp_path / "drift.json").write_text('{"first": 3}')
    with pytest.raises(InterpError, match="damaged"):
        Drift.read(tmp_path)
