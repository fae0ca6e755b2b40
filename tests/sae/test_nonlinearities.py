"""TopK and JumpReLU let the latents fire that a slow count finds."""

import pytest
import torch

from interp.core.errors import InterpError
from interp.sae.nonlinearities import JumpReLU, TopK

PRE = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("k", [1, 3, 20])
def test_topk_keeps_the_k_largest_that_are_positive(k):
    dense = TopK(k=k).code(PRE, None).dense(20)
    edge = PRE.sort(1, descending=True).values[:, k - 1 : k]
    assert torch.equal(dense, torch.where(edge <= PRE, PRE, 0).relu())


def test_jumprelu_keeps_what_is_above_its_threshold_unchanged():
    threshold = torch.linspace(0, 1, 20)
    dense = JumpReLU().code(PRE, threshold).dense(20)
    assert torch.equal(dense, torch.where(threshold < PRE, PRE, 0))
    with pytest.raises(InterpError, match="needs thresholds"):
        JumpReLU().code(PRE, None)


def test_records_are_read_back_by_their_kind():
    assert TopK.parse({"kind": "topk", "k": 4}) == TopK(k=4)
    with pytest.raises(InterpError, match="unknown key 'n'"):
        TopK.parse({"n": 4, "k": 4})
