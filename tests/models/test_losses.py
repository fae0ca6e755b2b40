"""Losses against their definitions, in float64."""

import torch

from interp.models.losses import kl_divergence, next_token_losses


def test_the_kl_divergence_is_its_definition():
    logits, other = torch.randn(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p, q = logits.softmax(-1), other.softmax(-1)
    torch.testing.assert_close(kl_divergence(logits, other), (p * (p / q).log()).sum(-1))
    assert float(kl_divergence(logits, logits).abs().max()) < 1e-12, "control"


def test_losses_are_minus_the_log_probability_of_the_next_token():
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 2, 3, 4], [0, 5, 6, 1]])
    predicted = torch.tensor([[True, True, True], [False, True, True]])
    expected = -logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(next_token_losses(logits, ids, predicted), expected[predicted])
