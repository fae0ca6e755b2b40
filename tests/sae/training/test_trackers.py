"""A dashboard's callback logs each point, and ends its run with the last step."""

import sys
import types

import pytest
from planted import SITE

from interp.core.errors import InterpError
from interp.sae import TrainingPlan
from interp.sae.config import SaeConfig
from interp.sae.training.trackers import tracker
from interp.sae.training.trainer import train_all


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_points_are_logged_and_the_run_is_ended(planted, monkeypatch, name):
    calls = []
    package = types.SimpleNamespace(
        init=lambda **options: calls.append(("init", options)),
        log=lambda values, step: calls.append(("log", values, step)),
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, name, package)
    config = SaeConfig(d_sae=32, k=2, batch_size=256, tokens=5_000)
    found = train_all(planted, [TrainingPlan(SITE, config)] * 2, callbacks=[tracker(name, "p", name="first")])
    assert calls[0] == ("init", {"project": "p", "name": "first"})
    assert [call[0] for call in calls].count("finish") == 1
    assert calls[-1] == ("finish",)
    logged = [call for call in calls if call[0] == "log"]
    assert len(logged) == sum(len(one.history) for one in found)
    assert logged[-1][1]["sae-1/fvu"] == found[1].history[-1].fvu
    assert logged[-1][2] == 5_000 // 256


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InterpError, match="wandb is not installed; pip install wandb"):
        tracker("wandb", "p")
