"""Scores kept in a folder: found again under the same conditions only, and refused where they were changed."""

import json
from dataclasses import replace

import pytest
import tiny_models
import torch

from interp import InterpError, Project, Recipe
from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.conditions import ModelCondition
from interp.auditing.score_cache import ScoreCache
from interp.auditing.scoring.choices import text_loss

PROMPTS = ("w5 w6", "w7 w8 w9", "w10 w11")


@pytest.fixture
def model():
    return tiny_models.build("llama", seed=1)


@pytest.fixture
def calls():
    return []


@pytest.fixture
def behaviour(calls):
    def measure(model):
        calls.append(model.render("x", chat=False))
        losses = text_loss("loss", PROMPTS).measure(model).values
        return Scores(losses, ("a", "b", "c"))

    return Behaviour("losses", "capability", "more is worse", PROMPTS, measure, unit="nats")


def same(first, second):
    return str(first) == str(second)


def recipe(seed=0):
    return Recipe([("writers", Project(torch.randn(32, generator=torch.Generator().manual_seed(seed))))])


def test_scores_survive_the_process(model, behaviour, calls, tmp_path):
    first = ScoreCache(tmp_path).scores(ModelCondition(model), behaviour)
    again = ScoreCache(tmp_path).scores(ModelCondition(model), behaviour)
    assert same(first, again)
    assert len(calls) == 1
    assert len(list(tmp_path.iterdir())) == 1, "no temporary file is left"


def test_scores_that_are_missing_are_measured_again_by_the_next_audit(model, behaviour, calls, tmp_path):
    """A judge was down for one item; in one audit the scores stay what they were."""
    whole = behaviour.measure
    partly = replace(
        behaviour, measure=lambda model: replace(found := whole(model), values=(*found.values[:2], float("nan")))
    )
    cache, condition = ScoreCache(tmp_path), ModelCondition(model)
    first = cache.scores(condition, partly)
    assert first.missing == 1
    assert same(cache.scores(condition, partly), first)
    assert len(calls) == 1
    assert ScoreCache(tmp_path).scores(condition, behaviour).missing == 0
    assert ScoreCache(tmp_path).get(condition, partly) is not None, "control: whole scores are kept"


def test_every_part_of_a_condition_counts(model, behaviour, calls, tmp_path):
    cache = ScoreCache(tmp_path)
    conditions = [
        ModelCondition(model),
        ModelCondition(model, recipe()),
        ModelCondition(model, recipe(1)),
        ModelCondition(model, None, "w5"),
    ]
    found = [cache.scores(condition, behaviour).values[:2] for condition in conditions]
    assert len(calls) == 4
    assert len(set(found[:3])) == 3, "control: the edits change the scores"
    assert calls[3] == "w5\n\nx", "the instruction was there when it was measured"
    assert cache.get(ModelCondition(model), replace(behaviour, statement="other")) is None
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(1.5)
    assert cache.get(ModelCondition(model), behaviour) is None
    assert cache.scores(ModelCondition(model), behaviour).values[:2] not in found


def test_models_of_the_same_weights_and_other_settings_are_kept_apart(model, behaviour, calls, tmp_path):
    ScoreCache(tmp_path).scores(ModelCondition(model), behaviour)
    turned = tiny_models.build("llama", seed=1)
    turned.hf.config.rope_parameters["rope_theta"] = 100.0
    turned.hf.model.rotary_emb = type(turned.hf.model.rotary_emb)(turned.hf.config)
    assert turned.digest == model.digest, "control: the weights are the same"
    found = ScoreCache(tmp_path).scores(ModelCondition(turned), behaviour)
    assert len(calls) == 2
    assert found.values[:2] != ScoreCache(tmp_path).scores(ModelCondition(model), behaviour).values[:2]
    turned = tiny_models.build("llama", seed=1)
    turned.tokenizer.chat_template = "{{ messages[0]['content'] }} and so on"
    assert ScoreCache(tmp_path).get(ModelCondition(turned), behaviour) is None
    assert ScoreCache(tmp_path).get(ModelCondition(model), behaviour) is not None, "control"


def test_types_are_kept_apart(behaviour, tmp_path):
    """A digest is that of the values in bfloat16, whichever type was loaded."""
    wide = tiny_models.build("llama", seed=1)
    wide.hf.to(torch.bfloat16).to(torch.float32)
    narrow = tiny_models.build("llama", seed=1)
    narrow.hf.to(torch.bfloat16)
    assert wide.digest == narrow.digest, "control"
    ScoreCache(tmp_path).scores(ModelCondition(wide), behaviour)
    assert ScoreCache(tmp_path).get(ModelCondition(narrow), behaviour) is None


def test_replies_of_secret_behaviours_are_not_kept(model, behaviour, tmp_path):
    secret = replace(behaviour, secret=True)
    assert ScoreCache(tmp_path).scores(ModelCondition(model), secret).replies == ()
    assert "replies" in json.loads(next(tmp_path.iterdir()).read_text())
    assert json.loads(next(tmp_path.iterdir()).read_text())["replies"] == []
    assert ScoreCache(tmp_path / "open").scores(ModelCondition(model), behaviour).replies == ("a", "b", "c"), "control"


@pytest.mark.parametrize("change", [{"values": [0.0, 0.0, 0.0]}, {"values": [0.0]}, {"key": {}}, {"sha256": None}])
def test_a_changed_file_is_refused(model, behaviour, tmp_path, change):
    ScoreCache(tmp_path).scores(ModelCondition(model), behaviour)
    file = next(tmp_path.iterdir())
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InterpError, match="not the scores that were kept there; remove it"):
        ScoreCache(tmp_path).get(ModelCondition(model), behaviour)


def test_a_model_that_is_hooked_already_is_refused(model, behaviour):
    with model.hooked(recipe()), pytest.raises(InterpError, match="inside a hooked block"):
        ModelCondition(model).scores(behaviour)


def test_logits_that_are_nan_are_an_error(model):
    behaviour = text_loss("loss", PROMPTS)
    assert ModelCondition(model).scores(behaviour).missing == 0, "control"
    with torch.no_grad():
        model.hf.lm_head.weight[7] = float("nan")
    with pytest.raises(InterpError, match="gave NaN logits while 'loss' was measured"):
        ModelCondition(model).scores(behaviour)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "qwen2", "mixtral"])
def test_padding_is_no_nan(tiny, name):
    uneven = text_loss("loss", ("w5 w6", "w7 " * 30))
    assert ModelCondition(tiny(name)).scores(uneven).missing == 0
