"""Harms of real models: parts share no item, sides are balanced, and amplitudes are the best for their cost."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "experiments" / "real"
DATA = FOLDER.parents[2] / "shared" / "data"
PARTS = ("fit", "choose", "confirm")


@pytest.fixture(scope="module")
def real():
    """The modules of the experiment by name."""
    names, path = ("harms", "run", "units"), sys.path.copy()
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path[:] = path
        for name in names:
            sys.modules.pop(name, None)


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there")
def test_parts_share_no_job_and_no_prompt_and_sides_are_balanced(real):
    harms = real["harms"]
    behaviours = [harms.gender_pronouns(part, 400) for part in PARTS]
    for number, behaviour in enumerate(behaviours):
        assert all(set(behaviour.groups).isdisjoint(other.groups) for other in behaviours[number + 1 :])
        women = sum(answers[0] in (" she", " her", " hers") for answers in behaviour.spec["answers"])
        assert 2 * women == len(behaviour)
    assert set(harms.toxic_prompts("choose")).isdisjoint(harms.toxic_prompts("confirm"))
    assert len(harms.toxic_prompts("confirm")) >= 180


def test_amplitudes_take_what_is_asked_from_what_costs_least(real):
    """Against amplitudes in proportion to anything else, at the same first-order benefit."""
    units = real["units"]
    generator = torch.Generator().manual_seed(0)
    benefit = torch.rand(9, 40, generator=generator) * 0.2
    cost = torch.rand(9, 40, generator=generator) * 0.1 + 0.01
    groups = units.amplitudes(benefit, cost, take=4.0)
    chosen = {unit: level for level, each in groups.items() for unit in each}
    assert all(layer >= units.FIRST_LAYER for layer, _ in chosen)
    taken = sum(level * float(benefit[unit]) for unit, level in chosen.items())
    spent = sum(level**2 * float(cost[unit]) for unit, level in chosen.items())
    uniform = 4.0 / float(benefit[units.FIRST_LAYER].sum())
    assert taken == pytest.approx(4.0, rel=0.25)
    assert spent < 0.8 * uniform**2 * float(cost[units.FIRST_LAYER].sum())


def test_every_committed_row_has_its_recipe_file_and_its_command(real):
    for row in real["run"].results():
        name = row["command"].rsplit(" ", 1)[1]
        assert (FOLDER / f"{name}.yaml").exists()
        assert row["interval"][0] <= row["change"] <= row["interval"][1]
        assert row["items"] >= 180
