"""Both models compute on a batch of rows what each computes on its documents alone."""

import pytest
import torch
from drifted import TEXTS, alone, copied, moved, rows_of

from interp import InterpError
from interp.upkeep.drift.paired_passes import paired_passes


def test_logits_and_activations_are_those_of_each_document_alone(tiny):
    first = tiny("llama")
    second = moved(first, 1, torch.randn(32, generator=torch.Generator().manual_seed(0)))
    rows, sites = rows_of(first), first.resolve("resid_post.*")
    got = {"first": {}, "second": {}}
    for batch, *sides in paired_passes(first, second, rows, sites):
        for name, side in zip(got, sides, strict=True):
            for number in batch.document[batch.mask].unique().tolist():
                which = batch.document == number
                got[name][number] = side.logits[which], side.activations[sites[1]][which]
    for name, model in (("first", first), ("second", second)):
        for number, text in enumerate(TEXTS):
            tokens = alone(model, text)
            expected = model.logits(tokens)[0], model.capture(tokens, sites[1])[sites[1]][0]
            for value, right in zip(got[name][number], expected, strict=True):
                assert torch.allclose(value, right, atol=1e-5)
    assert not torch.allclose(got["first"][0][1], got["second"][0][1], atol=1e-2), "control"


def test_a_hooked_model_and_a_broken_one_raise(tiny):
    first = tiny("llama")
    rows = rows_of(first)
    with first.hooked([]), pytest.raises(InterpError, match="hooked"):
        next(paired_passes(first, first, rows, []))
    broken = copied(first)
    with torch.no_grad():
        broken.hf.model.norm.weight.fill_(torch.nan)
    with pytest.raises(InterpError, match="logits of copy are not finite"):
        next(paired_passes(first, broken, rows, []))
