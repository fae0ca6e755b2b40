"""The experiment on concepts runs, and what it measures is what it says."""

import json
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
import torch
from scripts import importable

SCRIPTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def concepts():
    """What the scripts define."""
    with importable(SCRIPTS):
        import concept_detection
        import concepts

        yield SimpleNamespace(**vars(concept_detection), dealt=concepts.dealt)


def test_it_runs_on_the_organism(tmp_path):
    processes.run(SCRIPTS / "concepts.py", "--smoke", "--only", "organism", "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())["organism"]
    assert found["detection"]["hostility"]["diff_means"]["auroc"] > 0.9
    methods = [row["method"].partition(",")[0] for row in found["steering"]["hostility"]]
    assert {"unedited", "diff_means", "steering_vector", "reft_r1", "random 0", "prompt"} <= set(methods)
    assert found["steering"]["hostility"][0]["harm"] == 1


def test_no_text_is_in_two_parts(concepts):
    pairs = [(f"a{n % 40}", f"b{n}") for n in range(100)]
    parts = concepts.dealt(pairs, (20, 10, 30))
    texts = [text for part in parts for pair in part for text in pair]
    assert len(texts) == len(set(texts)) > 0
    assert len(parts.test) > len(parts.train) > len(parts.valid) > 0


def test_the_interval_of_a_difference_covers_it_and_is_zero_for_equals(concepts):
    draw = torch.Generator().manual_seed(0)
    one, other = (
        concepts.Sides(torch.randn(60, generator=draw) + shift, torch.randn(60, generator=draw)) for shift in (2, 0)
    )
    gap, low, high = concepts.difference(one, other)
    assert gap == pytest.approx(concepts.auroc(*one) - concepts.auroc(*other))
    assert 0 < low < gap < high
    assert concepts.difference(one, one) == (0, 0, 0)


def test_layers_are_chosen_on_the_validation_part(concepts):
    """One place separates validation and nothing else, the other the test part alone: the first is taken."""
    draw = torch.Generator().manual_seed(0)

    def sides(shift):
        noise = torch.randn(2, 50, 3, generator=draw)
        return concepts.Sides(noise[0] + torch.tensor([shift, 0.0, 0.0]), noise[1])

    parts = [{"a": sides(4), "b": sides(4)}, {"a": sides(4), "b": sides(0)}, {"a": sides(0), "b": sides(4)}]
    found = concepts.detected("means", lambda s: s.positive.mean(0) - s.negative.mean(0), parts, signed=True)
    assert found.place == "a"
    assert found.auroc < 0.8
