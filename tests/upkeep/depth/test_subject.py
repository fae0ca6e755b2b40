"""A subject: its copy can change and it stays; its recipe acts on both."""

import torch
from word_harm import harm, models, recipe

from interp.upkeep.depth.subject import Subject


def test_a_copy_under_its_recipe_changes_and_the_model_stays():
    base, _ = models()
    subject = Subject("edited", base, recipe(base))
    assert (Subject("base", base).rate(harm()).estimate, subject.rate(harm()).estimate) == (1.0, 0.0)
    digest, copied = base.digest, subject.copied()
    with torch.no_grad():
        next(copied.model.hf.parameters()).add_(0.01)
    assert base.digest == digest != copied.model.digest
    assert copied.rate(harm()).estimate == 0.0, "the recipe acts on weights that differ from those it was made for"
    with copied.hooked() as hooked:
        assert hooked.is_hooked
    assert not copied.model.is_hooked


def test_missing_scores_are_left_out_and_groups_widen_the_interval():
    base, _ = models()
    grouped = harm(groups=tuple(str(n // 12) for n in range(48)))
    plain, wide = (Subject("base", base).rate(x) for x in (harm(), grouped))
    assert (plain.estimate, plain.n) == (wide.estimate, wide.n) == (1.0, 48)
    assert wide.low < plain.low
