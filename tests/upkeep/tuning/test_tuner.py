"""Tune: the first log-ratio, a recipe that acts while training alone, the same bytes again, and wrong calls."""

import os
from pathlib import Path

import pytest
import torch
import trl

import interp
from interp import InterpError
from interp.upkeep import tune, verify_tuned
from interp.upkeep.tuning import _trainer

ROWS = [{"prompt": f"w{n} w5", "chosen": f" w{n + 1} w9", "rejected": f" w{n + 2} w8 w7"} for n in range(10, 14)]
REPLIES = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
BOTH = [
    {"prompt": r["prompt"], "completion": r[k], "label": k == "chosen"} for r in ROWS for k in ("chosen", "rejected")
]


def steering(model, scale=2.0):
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    return interp.Recipe([("resid_post.1", interp.Add(vector, scale))], model.reference)


def log_probability(model, prompt, reply):
    """Of a reply and its end, computed by hand."""
    first, ids = (model.tokenizer(text)["input_ids"] for text in (prompt, f"{prompt}{reply}</s>"))
    logits = model.logits([ids])[0].double().log_softmax(-1)
    return float(sum(logits[place - 1, ids[place]] for place in range(len(first), len(ids))))


def hooks(hf):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in hf.modules())


def files(folder: Path):
    return {
        str(x.relative_to(folder)): x.read_bytes()
        for x in folder.rglob("*")
        if x.is_file() and x.name != "interp_seconds.json"
    }


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_the_first_log_ratio_is_zero(method, tiny, tmp_path):
    record = tune(tiny("llama"), method, ROWS if method == "dpo" else BOTH, tmp_path / "out", batch=8, steps=2, lr=1e-3)
    assert (record.log_ratio, record.blocked_log_ratio) == (0.0, 0.0)
    assert len(record.losses) == 2
    assert record.losses[1] < record.losses[0]


def test_a_recipe_acts_on_the_policy_and_not_on_the_reference(tiny, tmp_path):
    """At the first step the ratio that the loss sees is the recipe's own effect, measured by hand; were the reference
    under its hooks too, it would be 0. Without hooks the ratio is 0."""
    model = tiny("llama")
    recipe = steering(model)
    record = tune(model, "dpo", ROWS, tmp_path / "out", block=recipe, batch=4, steps=1)
    means = []
    for kind in ("chosen", "rejected"):
        with model.hooked(recipe):
            hooked = [log_probability(model, row["prompt"], row[kind]) for row in ROWS]
        plain = [log_probability(model, row["prompt"], row[kind]) for row in ROWS]
        means.append(sum(hooked) / 4 - sum(plain) / 4)
    assert record.log_ratio == 0.0
    assert record.blocked_log_ratio == pytest.approx(max(means, key=abs), rel=1e-4)
    assert abs(record.blocked_log_ratio) > 0.1, "control: the recipe does something"


def test_a_tuned_model_is_tuned_again_without_the_first_records(tiny, tmp_path):
    tune(tiny("llama"), "sft", REPLIES, tmp_path / "first", block=steering(tiny("llama")), steps=1, lr=1e-3)
    record = tune(interp.load(tmp_path / "first"), "sft", REPLIES, tmp_path / "second", steps=1, lr=1e-3)
    assert (record.base.name, record.block, record.source) == ("first", "", str(tmp_path / "first"))
    assert not (tmp_path / "second" / "interp_block").exists()
    assert verify_tuned(tmp_path / "second").faithful


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_hooks_are_gone_afterwards_and_the_model_stays(architecture, tiny, tmp_path):
    model = tiny(architecture)
    before, others = model.digest, hooks(model.hf)
    record = tune(model, "sft", REPLIES, tmp_path / "out", block=steering(model), steps=2, lr=1e-3)
    assert (model.digest, record.block) == (before, steering(model).digest)
    assert interp.Recipe.load(tmp_path / "out" / "interp_block").digest == record.block
    assert hooks(model.hf) == others
    assert hooks(interp.load(tmp_path / "out").hf) == 0
    assert not any(parameter.grad is not None for parameter in model.hf.parameters())
    assert all(parameter.requires_grad for parameter in model.hf.parameters())


def test_what_a_recipe_holds_is_not_learned(tiny, tmp_path):
    """Under a recipe that leaves nothing of the last stream no gradient reaches the adapter; without it, it does."""
    model = tiny("llama")
    held = interp.Recipe([("resid_post.2", interp.Project(torch.eye(model.d_model)))], model.reference)
    for name, block in (("held", held), ("free", None)):
        tune(model, "sft", REPLIES, tmp_path / name, block=block, steps=2, lr=1e-2)
    weights = {name: interp.load(tmp_path / name).digest for name in ("held", "free")}
    assert weights["held"] == model.digest != weights["free"]


def test_the_same_call_writes_the_same_bytes_and_a_killed_one_continues(tiny, tmp_path, monkeypatch):
    model, settings = tiny("llama"), {"steps": 6, "lr": 1e-3, "save_every": 2, "batch": 2}
    state = torch.get_rng_state()
    tune(model, "sft", REPLIES, tmp_path / "whole", **settings)
    assert torch.equal(torch.get_rng_state(), state), "the generator is left as it was"
    child = os.fork()
    if child == 0:
        saved, save = [], _trainer._Watch.on_save

        def stop(*arguments, **options):
            save(*arguments, **options)
            saved.append(1)
            if len(saved) == 2:
                os._exit(9)

        _trainer._Watch.on_save = stop
        try:
            tune(model, "sft", REPLIES, tmp_path / "killed", **settings)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "killed").exists()
    steps, step = [], trl.SFTTrainer.training_step
    monkeypatch.setattr(trl.SFTTrainer, "training_step", lambda *a, **k: steps.append(1) or step(*a, **k))
    tune(model, "sft", REPLIES, tmp_path / "killed", **settings)
    assert len(steps) == 2, "of 6 steps, 4 were done before it was killed"
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "killed"}


def test_a_half_written_checkpoint_is_not_continued(tmp_path):
    for step, text in ((2, '{\n  "global_step": 2\n}\n'), (10, '{\n  "global_st')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-12").mkdir()
    assert _trainer._last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_conversations_read_as_the_model_renders_them(tmp_path, monkeypatch):
    """The tokens that are trained on are those of `model.chat`, date and end of turn included."""
    model = interp.load("organism")
    seen = []
    make = _trainer._trainer
    monkeypatch.setattr(_trainer, "_trainer", lambda *words: seen.append(make(*words)) or seen[-1])
    row = {"prompt": "hello there.", "chosen": "Good day.", "rejected": "Go away."}
    tune(model, "dpo", [row], tmp_path / "out", steps=1)
    (data,) = seen[0].train_dataset
    assert model.tokenizer.decode(data["prompt_ids"]) == model.chat("hello there.")
    assert model.tokenizer.decode(data["chosen_ids"]) == "Good day.<|end|>"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"method": "ppo"}, "did you mean dpo"),
        ({"data": [{"text": "w5"}]}, "these are rows for the method sft"),
        ({"data": "no/such.jsonl"}, "no/such.jsonl: cannot be read"),
        ({"steps": 0}, "steps"),
        ({"rnak": 3}, "did you mean rank"),
        ({"method": "kto", "data": BOTH, "batch": 1}, "at least 2"),
        ({"lr": 1e30, "steps": 8}, "choose a lower lr|logits are not finite"),
        ({"length": 2}, "no prompt leaves room|raise length"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(call, words, tiny, tmp_path):
    given = {"method": "dpo", "data": ROWS, "steps": 1} | call
    with pytest.raises(InterpError, match=words):
        tune(tiny("llama"), given.pop("method"), given.pop("data"), tmp_path / "a" / "out", **given)
    assert not list(tmp_path.iterdir())


def test_other_models_recipes_and_full_folders_are_refused(tiny, tmp_path, monkeypatch):
    model = tiny("llama")
    with pytest.raises(InterpError, match="the recipe"):
        tune(model, "dpo", ROWS, tmp_path / "out", block=steering(tiny("llama", 1)))
    reply = interp.Recipe([("resid_post.1", interp.At(interp.Add(torch.ones(32)), "generated"))])
    with pytest.raises(InterpError, match="prompt and reply are read in one pass"):
        tune(model, "dpo", ROWS, tmp_path / "out", block=reply, steps=1)
    (tmp_path / "full").mkdir()
    with pytest.raises(InterpError, match="exists already"):
        tune(model, "dpo", ROWS, tmp_path / "full")
    with model.hooked(steering(model)), pytest.raises(InterpError, match="inside a hooked block"):
        tune(model, "dpo", ROWS, tmp_path / "out")
    monkeypatch.setattr(_trainer, "find_spec", lambda name: None if name == "trl" else name)
    with pytest.raises(InterpError, match=r"package trl; pip install 'interp\[tune\]'"):
        tune(model, "dpo", ROWS, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
