"""A soft prompt: it brings back what an edit only hides, an untrained one does not, and nothing of it is left."""

import pytest
import torch
from word_harm import PROMPTS, harm, models

from interp.auditing import margin
from interp.upkeep import DepthOptions
from interp.upkeep.depth.demonstrations import Demonstrations, demonstrate, halves
from interp.upkeep.depth.soft_prompt import recover_by_soft_prompt
from interp.upkeep.depth.subject import Subject

LEARNED, HELD_OUT = halves(harm(), 0)
OPTIONS = DepthOptions(soft_tokens=4, soft_steps=30, soft_lr=0.3)


def test_a_trained_prefix_recovers_what_is_hidden_and_an_untrained_one_does_not():
    base, edited = models()
    shown = demonstrate(Subject("base", base), LEARNED)
    words, digest = len(edited.tokenizer), edited.digest
    trained = recover_by_soft_prompt(Subject("x", edited), shown, HELD_OUT, OPTIONS)
    still = OPTIONS.model_copy(update={"soft_lr": 1e-9})
    untrained = recover_by_soft_prompt(Subject("x", edited), shown, HELD_OUT, still)
    assert trained.low > untrained.high
    assert (len(edited.tokenizer), edited.digest) == (words, digest), "the model and its tokenizer stay"
    assert not any(p.grad is not None for p in edited.hf.parameters())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "opt"])
def test_before_training_a_prefix_is_as_the_tokens_that_it_is_drawn_from(tiny, architecture):
    model, tokens = tiny(architecture), 3
    drawn = torch.randint(len(model.tokenizer), (tokens,), generator=torch.Generator().manual_seed(5))
    gap = margin("gap", "harm", "w5 rather than w6", PROMPTS[:8], ["w5"], ["w6"])
    options = DepthOptions(soft_tokens=tokens, soft_steps=1, soft_lr=1e-12, seed=5)
    shown = Demonstrations(harm(items=8), ("w5 w5",) * 8)
    behind = recover_by_soft_prompt(Subject("x", model), shown, gap, options)
    expected = Subject("x", model).rate(gap, " ".join(model.tokenizer.convert_ids_to_tokens(drawn.tolist())))
    assert (behind.estimate, behind.low) == pytest.approx((expected.estimate, expected.low), abs=1e-4)
    assert behind.estimate != pytest.approx(Subject("x", model).rate(gap).estimate, abs=1e-4), "control: without it"
