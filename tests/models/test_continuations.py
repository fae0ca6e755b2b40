"""Continuations: their log-probability, token by token, and gradients that leave the weights alone."""

import pytest
import torch

from interp import InterpError
from interp.models.continuations import Continuations, frozen_weights, logprobs


def test_a_logprob_is_the_sum_over_the_continuations_tokens(tiny):
    model = tiny("llama")
    batch = Continuations.of(model, ["w5 w6", "w9"], [" w7 w8", " w10"])
    for row, (text, count) in enumerate((("w5 w6 w7 w8", 2), ("w9 w10", 1))):
        ids = model.tokens(text).ids
        each = model.logits(text)[0].double().log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(logprobs(model, batch)[row].detach(), each[-count:].sum(), atol=1e-5, rtol=1e-5)


def test_a_continuation_without_a_token_is_named(tiny):
    with pytest.raises(InterpError, match="continuation 1 adds no token"):
        Continuations.of(tiny("llama"), ["w5", "w6"], [" w7", ""])


def test_weights_are_frozen_within_the_block_only(tiny):
    model = tiny("llama")
    batch = model.tokens("w5 w6 w7")
    with frozen_weights(model):
        assert not model.mean_loss(batch).requires_grad
    assert model.mean_loss(batch).requires_grad
