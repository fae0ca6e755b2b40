"""Items are dealt once, whole groups at a time, and what is kept of the unedited model changes no number."""

import json

import pytest
import torch

import interp
from interp import InterpError, Recipe
from interp.auditing import choice
from interp.auditing.conditions import ModelCondition
from interp.search import MeasureSettings
from interp.search.sweeps._prefix import UneditedPrefix, lowest_layer
from interp.search.sweeps.measures import Bench, Measures, _dealt

PROMPTS = [f"w{n} w{n + 1} w{n + 2}" for n in range(4, 40)]


def test_choosing_and_confirming_items_share_neither_an_item_nor_a_group():
    groups = [f"g{number // 3}" for number in range(36)]
    behaviour = choice("c", "harm", "s", PROMPTS, [(" w5", " w9")] * 36, [0] * 36, groups=groups)
    first, rest = _dealt(behaviour, 20, 12, 0)
    assert (len(first), len(rest)) == (18, 12)
    assert not {*first.groups} & {*rest.groups}
    assert not {*first.prompts} & {*rest.prompts}
    with pytest.raises(InterpError, match=r"'c' has 36 items in 1 groups: 0 to choose by, 36 to confirm by"):
        _dealt(choice("c", "harm", "s", PROMPTS, [(" w5", " w9")] * 36, [0] * 36, groups=["g"] * 36), 20, 12, 0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "falcon"])
def test_a_pass_that_begins_at_the_lowest_edited_layer_gives_the_same_numbers_to_the_last_bit(tiny, architecture):
    model = tiny(architecture)
    torch.manual_seed(0)
    recipe = Recipe([("mlp_out.2", interp.Project(torch.randn(model.d_model)))])
    behaviour = choice("c", "harm", "s", PROMPTS[:6], [(" w5 w6", " w9")] * 6, [0] * 6, unit="margin")
    whole = ModelCondition(model, recipe).scores(behaviour).values
    texts = model.generate(PROMPTS[:6], recipe, max_new_tokens=4)
    prefix, calls = UneditedPrefix(model), []
    handle = model.hf.get_submodule("transformer.h.0" if architecture in ("gpt2", "falcon") else "model.layers.0").mlp
    counted = handle.register_forward_hook(lambda *_: calls.append(1))
    assert lowest_layer(recipe, model) == 2
    for _ in range(2):
        with prefix.reused(2):
            assert ModelCondition(model, recipe).scores(behaviour).values == whole
            assert model.generate(PROMPTS[:6], recipe, max_new_tokens=4) == texts
        calls.append(0)
    counted.remove()
    first, second = calls[: calls.index(0)], calls[calls.index(0) + 1 : -1]
    assert len(second) < len(first), "the second time the first layer does not run on what it has seen"


def test_a_recipe_that_acts_on_the_embeddings_or_reads_below_has_no_prefix(tiny):
    model = tiny("llama")
    direction = torch.ones(model.d_model)
    assert lowest_layer(Recipe([("writers", interp.Project(direction))]), model) == 0
    gate = interp.Gate(interp.Project(direction), interp.interventions.Reads(direction, 0.0), site="resid_post.1")
    assert lowest_layer(Recipe([("resid_post.2", gate)]), model) == 1


def test_parts_of_the_items_give_the_scores_of_all(small_sweep):
    measure, model = small_sweep.settings().measure, small_sweep.model
    recipe = Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
    parts, whole = (Measures.read(measure, model, 0, shares, small_sweep.folder) for shares in ((0.2, 0.5), ()))
    scores, reason = Bench(model, parts).measure(recipe)
    assert reason == ""
    for name, values in Bench(model, whole).measure(recipe)[0].items():
        assert scores[name] == pytest.approx(values, abs=1e-5)
    stopped, reason = Bench(model, parts).measure(recipe, lambda so_far: "enough" * (len(so_far["kl"]) > 1))
    assert (reason, len(stopped["kl"])) == ("enough", 2)
    first, reason = Bench(model, parts, first=["kl", "kept"]).measure(recipe, lambda so_far: "enough")
    assert (reason, len(first["kl"]), len(first["kept"])) == ("enough", 0, 3), "the KL takes longest, so it is last"


def test_behaviours_in_the_settings_are_those_of_a_file(small_sweep):
    own = json.loads((small_sweep.folder / "own.yaml").read_text())["behaviours"]
    rows = [json.loads(line) for line in (small_sweep.folder / "kept.jsonl").read_text().splitlines()]
    within = [entry | {"items": rows} if entry["name"] == "kept" else entry for entry in own]
    sizes = {"choose_items": 16, "confirm_items": 16}
    measures = [
        Measures.read(MeasureSettings(**sizes, **each), small_sweep.model, folder=small_sweep.folder)
        for each in ({"suites": ["own.yaml"]}, {"behaviours": within}, {"behaviours": within[:2]})
    ]
    assert measures[0].digests == measures[1].digests != measures[2].digests
    twice = MeasureSettings(suites=["own.yaml"], behaviours=within[:1])
    with pytest.raises(InterpError, match="there is a behaviour 'harm' already"):
        Measures.read(twice, small_sweep.model, folder=small_sweep.folder)
