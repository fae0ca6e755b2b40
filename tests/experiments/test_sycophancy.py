"""The sycophancy experiment: its scores and edits against slow versions, and a small run where model and data are."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch
from scripts import importable

import interp

FOLDER = Path(__file__).parents[2] / "experiments" / "sycophancy"
MODEL = FOLDER.parent / ".cache" / "smollm2-135m-instruct"
DATA = FOLDER.parents[2] / "shared" / "data" / "sycophancy_hint"


@pytest.fixture(scope="module")
def parts():
    """The experiment's modules, which import each other by bare names."""
    with importable(FOLDER):
        yield {name: importlib.import_module(name) for name in ("items", "scoring", "heads")}


@pytest.fixture(scope="module")
def model():
    """A tiny model with a chat template."""
    model = tiny_models.build("llama", seed=3)
    model.hf.config.max_position_embeddings = 64
    model.tokenizer.chat_template = "{% for m in messages %}w4 {{ m['content'] }} w5 {% endfor %}w6"
    return model


@pytest.fixture(scope="module")
def asked(parts):
    item = parts["items"].Item
    return [item("w20 w21 w22", "w30", "w31 w32"), item("w23", "w33 w34 w35", "w36"), item("w24 w25", "w37", "w38 w39")]


def slowly(model, prompt, answer):
    """Mean log-probability of an answer's tokens, everything read at once."""
    before, whole = model.tokens(prompt).ids, model.tokens(f"{prompt} {answer}").ids
    start = before.shape[1]
    each = model.logits(whole)[0].log_softmax(-1)[range(start - 1, whole.shape[1] - 1), whole[0, start:]]
    return float(each.mean())


def test_scores_are_those_of_whole_texts(parts, model, asked):
    with model.hooked(parts["heads"].zeroed([(1, 2)])):
        for recipe, edit in (((), "plain"), (parts["heads"].zeroed([(0, 1), (2, 3)]), "edited")):
            found = parts["scoring"].margins(model, asked, "wrong hint", recipe)
            with model.hooked(recipe):
                for row, item in enumerate(asked):
                    prompt = model.chat(item.ask("wrong hint"))
                    expected = slowly(model, prompt, item.right) - slowly(model, prompt, item.wrong)
                    assert float(found[row]) == pytest.approx(expected, abs=1e-4), edit


def test_losses_are_those_of_each_passage(parts, model):
    passages = ["w20 w21 w22 w23", "w24 w25"]
    for passage, found in zip(passages, parts["scoring"].loss(model, passages), strict=True):
        assert float(found) == pytest.approx(model.loss(passage), abs=1e-5)


def test_factors_are_a_recipe_that_exports(parts, model, asked, tmp_path):
    heads = parts["heads"]
    factors = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) * 2
    prompts = [model.chat(item.ask("plain")) for item in asked]
    kept = model.tokens(prompts).mask
    plain = model.logits(prompts)[kept]
    with model.hooked(heads.scaled(factors)):
        expected = model.logits(prompts)[kept]
    with model.hooked(heads.as_recipe(factors)):
        torch.testing.assert_close(model.logits(prompts)[kept], expected)
    assert (expected - plain).abs().max() > 1e-2, "control"
    assert interp.export(heads.as_recipe(factors), model, tmp_path / "scaled").max_abs_logit_diff < 1e-5
    assert interp.export(heads.zeroed([(0, 1), (2, 3), (2, 0)]), model, tmp_path / "zeroed").max_abs_logit_diff < 1e-5


def test_attribution_is_the_slope_of_the_margin(parts, model, asked):
    """Against a difference quotient, head by head."""
    found = parts["heads"].attributed(model, asked)
    for layer, head in ((0, 1), (1, 3), (2, 2)):
        ends = []
        for step in (-0.01, 0.01):
            factors = torch.ones(3, 4)
            factors[layer, head] += step
            recipe = parts["heads"].scaled(factors)
            ends.append(float(parts["scoring"].margins(model, asked, "wrong hint", recipe).mean()))
        assert float(found[layer, head]) == pytest.approx((ends[0] - ends[1]) / 0.02, abs=2e-3)
    assert found.abs().max() > 1e-2, "control"


def test_learning_raises_the_margin(parts, model, asked):
    passages = ["w20 w21 w22 w23", "w24 w25 w26"]
    factors = parts["heads"].learned(model, asked, passages, steps=15, weight=0.1)
    assert 0 <= factors.min() <= factors.max() <= 2
    before, after = (
        parts["scoring"].margins(model, asked, "wrong hint", recipe).mean()
        for recipe in ((), parts["heads"].scaled(factors))
    )
    assert after > before + 0.05


@pytest.mark.timeout(900)
@pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL} is not there; experiments/models.py makes it")
@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there")
def test_a_small_run(parts):
    command = [sys.executable, str(FOLDER / "run.py"), "--smoke"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    tables = [line for line in run.stdout.splitlines() if line.startswith("| ")]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in tables}
    assert "| +0 |" in rows["nothing"]
    assert "[+0.0, +0.0]" in rows["nothing"], "no intervention, no cost"
    gaps = [float(line.split("differ by ")[1].split(",")[0]) for line in run.stdout.splitlines() if "differ by" in line]
    assert len(gaps) == 2
    assert max(gaps) < 1e-3
    held = parts["items"].items(8, 4)[1]
    assert not any(item.question in run.stdout for item in held), "no data in what is printed"
