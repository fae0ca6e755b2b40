"""Ablation trials rank the direction that causes a behaviour above one that costs others, by measured scores."""

import pytest
import sample_records
import tiny_models
import torch

from interp import Project, Recipe
from interp.auditing.ablation_trials import rank_by_ablation
from interp.auditing.behaviours import Behaviour, Scores, mean_scores
from interp.auditing.scoring.choices import text_loss
from interp.directions.direction import Direction
from interp.directions.findings import Finding, Findings
from interp.models.sites import Site

TEXTS = tuple(f"w{i} w{i + 1} w{i + 2}" for i in range(5, 13))
SITE = Site("resid_post", 1)


def share(name, kind, axis):
    """The share of the residual stream's norm along an axis: nothing where the axis is projected out."""

    def measure(model):
        activations = model.capture(TEXTS, [SITE], -1)[SITE][:, 0]
        return Scores(tuple((activations[:, axis].abs() / activations.norm(dim=-1)).tolist()))

    return Behaviour(name, kind, "the axis is used", TEXTS, measure)


@pytest.fixture(scope="module")
def model():
    return tiny_models.build("llama", seed=1)


def candidate(model, axis):
    row = torch.eye(model.d_model)[[axis]]
    return Finding(Direction(row, SITE, -1, "axis", model.reference, "", {}), auroc=0.9, cohens_d=2.0)


def test_the_cause_ranks_above_what_costs_other_behaviours(model):
    behaviours = [share("target", "harm", 3), share("kept", "capability", 4)]
    candidates = [candidate(model, 4), candidate(model, 3)]
    first, second = rank_by_ablation(model, candidates, behaviours, "target")
    assert (first.finding, second.finding) == (candidates[1], candidates[0])
    findings = Findings((candidates[1],), sample_records.contrast(), held_out=2)
    assert rank_by_ablation(model, findings, behaviours, "target")[0].finding == candidates[1]
    assert first.before["target"] > 0.01, "control: it was there"
    assert first.after["target"] == pytest.approx(0, abs=1e-6)
    assert second.after["kept"] == pytest.approx(0, abs=1e-6)


def test_scores_are_those_under_the_ablation_and_the_cost_adds_what_was_lost(model):
    behaviours = [
        share("target", "harm", 3), share("harm", "harm", 4), share("kept", "protected", 5), text_loss("loss", TEXTS)
    ]  # fmt: skip
    before = mean_scores(model, behaviours)
    trials = rank_by_ablation(model, [candidate(model, axis) for axis in (3, 5, 7)], behaviours, "target")
    assert [trial.cost for trial in trials] == sorted(trial.cost for trial in trials)
    for trial in trials:
        with model.hooked(Recipe([("writers", Project(trial.finding.direction))])):
            assert trial.after == mean_scores(model, behaviours)
        assert trial.before == before != trial.after
        losses = (
            trial.after["target"],
            max(0, trial.after["harm"] - before["harm"]),
            max(0, before["kept"] - trial.after["kept"]),
            max(0, trial.after["loss"] / before["loss"] - 1),
        )
        assert trial.cost == pytest.approx(sum(losses))
