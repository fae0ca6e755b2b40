"""ReFT-R1: its losses are those of slow definitions, it detects on other texts, and it survives saving."""

import random

import pytest
import torch
from tiny_models import at_layer
from torch.nn.functional import normalize, softplus
from word_contrasts import choices, sentences, words

from interp import Contrast, InterpError
from interp.directions.methods.reft import ReftR1, reft_r1
from interp.directions.scores import auroc

SITE = "resid_post.1"


def test_reft_detects_on_other_texts_and_not_where_labels_are_drawn(tiny):
    model = tiny("llama")
    trained = reft_r1(model, sentences(), SITE)
    positive, negative = (trained.detect(model, side) for side in sentences(40, seed=1).texts(model.render))
    assert auroc(positive, negative) > 0.95
    assert (positive > 0).double().mean() + (negative <= 0).double().mean() > 1.7, "and its threshold serves them"
    draw = torch.Generator().manual_seed(0)
    row = normalize(torch.randn(model.d_model, generator=draw), dim=0)
    x = [model.capture(list(side), SITE)[SITE][:, 1:] @ row for side in sentences(40, seed=1).texts(model.render)]
    by_chance = auroc(*(side.amax(1) for side in x))
    assert max(by_chance, 1 - by_chance) < 0.85, "control: a random direction does not"
    rng = random.Random(3)
    drawn = Contrast.of([(words(rng, 8), words(rng, 8)) for _ in range(40)])
    chance = reft_r1(model, drawn, SITE)
    other = [chance.detect(model, [words(rng, 8) for _ in range(40)]) for _ in range(2)]
    assert 0.3 < auroc(*other) < 0.7


def test_refts_losses_are_those_of_slow_definitions(tiny):
    """Detection and steering of the first step, text by text, with what the seed draws."""
    model, pairs = tiny("llama"), choices(5)
    trained = reft_r1(model, pairs, SITE, steps=1, k=2, batch_size=5)
    w = normalize(torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)), dim=0)
    rows = [[model.capture(text, SITE)[SITE][0, 1:] for text in side] for side in pairs.texts(model.render)]
    every = torch.cat([x for side in rows for x in side])
    scale = (every - every.mean(0)).square().mean().sqrt()
    levels = [[((x - every.mean(0)) @ w) / scale for x in side] for side in rows]
    detection = [softplus(-sign * x.max()) for sign, side in zip((1, -1), levels, strict=True) for x in side]
    assert trained.losses[0][0] == pytest.approx(float(torch.stack(detection).mean()), rel=1e-4)
    steered = []
    for side, texts, prompts in zip(levels, pairs.texts(model.render), pairs.prompts(model.render), strict=True):
        losses = []
        for level, text, prompt in zip(side, texts, prompts, strict=True):
            length = scale * level.relu().topk(2).values.mean()
            prompt_length, ids = len(model.tokens(prompt).ids[0]), model.tokens(text).ids[0]
            with model.hooked([(SITE, lambda x, length=length: x + length * w)]):
                logprob = model.logits(text)[0].log_softmax(-1)
            losses += [-logprob[place - 1, ids[place]] for place in range(prompt_length, len(ids))]
        steered.append(torch.stack(losses).mean())
    assert trained.losses[0][1] == pytest.approx(float(torch.stack(steered).mean()), rel=1e-4)


def test_reft_is_one_unit_row_and_survives_saving(tiny, tmp_path):
    model = tiny("llama")
    trained = reft_r1(model, choices(8), SITE, steps=5)
    assert trained.direction.rows.norm() == pytest.approx(1, abs=1e-6)
    trained.save(tmp_path / "reft")
    kept = ReftR1.load(tmp_path / "reft")
    texts = ["w5 w6 w7", "w8 w9"]
    assert torch.equal(kept.detect(model, texts), trained.detect(model, texts))
    assert (kept.losses, kept.magnitude, kept.accuracy) == (trained.losses, trained.magnitude, trained.accuracy)
    with pytest.raises(InterpError, match="this direction was made for tiny llama 0"):
        kept.detect(tiny("llama", seed=1), texts)
    with at_layer(model, 2, lambda x: x * float("nan")), pytest.raises(InterpError, match="diverged at step 1"):
        reft_r1(model, choices(8), SITE, steps=5)
