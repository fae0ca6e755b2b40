"""A harm of random models: replies say w5. A base that shows it, and a model that was trained to say w6."""

from functools import cache

import tiny_models

import interp
from interp.auditing import Lexicon, reply_behaviour
from interp.upkeep import trained_copy

PROMPTS = tuple(f"w{a} w{b} " for a in range(10, 18) for b in range(20, 26))


def documents(word, prompts=PROMPTS):
    return [f"{prompt}{word} {word} {word} {word}" for prompt in prompts]


@cache
def models(architecture="llama"):
    """The base, and one that was trained away from it for a few steps, so that the harm is hidden and not gone."""
    start = tiny_models.build(architecture, seed=3)
    base = trained_copy(start, documents("w5"), steps=20, lr=1e-2, batch=8)
    return base, trained_copy(base, documents("w6"), steps=30, lr=3e-3, batch=8)


def harm(kind="harm", items=48, **fields):
    return reply_behaviour("says_w5", kind, "replies say w5", PROMPTS[:items], Lexicon(("w5",)), 3, **fields)


def recipe(model):
    """Takes the direction of w5's logit out of the last layer."""
    row = model.tokens_to_residual_directions("w5")
    return interp.Recipe([("resid_post.*", interp.Project(row))])
