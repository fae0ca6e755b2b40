"""A function on an attention mask sees the causal mask, and what it hides has no influence."""

import pytest
import torch

from interp import InterpError
from interp.models.architectures.table import attention_mask_tap
from interp.models.hooks import attached

HIDDEN, WIDTH = 2, 7
IDS = torch.randint(4, 128, (2, WIDTH), generator=torch.Generator().manual_seed(1))
OTHERS = torch.where(torch.arange(WIDTH) == HIDDEN, 200 - IDS, IDS).remainder(128)


@torch.no_grad()
def logits(model, ids, transform=None):
    taps = [(attention_mask_tap(model.config, layer), transform) for layer in range(model.n_layers)]
    with attached(model.hf, taps if transform else []):
        return model.hf(ids, use_cache=False).logits


def hide(mask):
    """No later token attends to the hidden one."""
    mask = mask.clone()
    mask[:, :, HIDDEN + 1 :, HIDDEN] = False
    return mask


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_the_mask_is_causal_and_what_is_hidden_has_no_influence(tiny, name):
    model, seen = tiny(name), []
    plain = logits(model, IDS, lambda mask: seen.append(mask))
    assert len(seen) == model.n_layers
    assert all(torch.equal(mask, torch.ones(WIDTH, WIDTH).tril().bool().expand_as(mask)) for mask in seen)
    torch.testing.assert_close(plain, logits(model, IDS), atol=1e-5, rtol=1e-5)
    later = slice(HIDDEN + 1, None)
    one, other = (logits(model, ids, hide)[:, later] for ids in (IDS, OTHERS))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    changed = logits(model, IDS)[:, later] - logits(model, OTHERS)[:, later]
    assert changed.abs().max() > 1e-3, "control: a visible token has an influence"


@pytest.mark.parametrize("transform", [lambda mask: mask.float(), lambda mask: mask[:, :1, :1]])
def test_another_type_or_shape_is_refused(tiny, transform):
    with pytest.raises(InterpError, match="a function on an attention mask returned"):
        logits(tiny("llama"), IDS, transform)
