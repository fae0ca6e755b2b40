"""A function on an attention mask sees the causal mask, and what it hides has no influence."""

import pytest
import torch
import transformers
from tiny_models import CONFIGS

from interp import InterpError
from interp.models.architectures.attention_mask import attention_mask_hook
from interp.models.architectures.table import attention_mask_tap
from interp.models.hooked import HookedModel
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


def test_a_mask_of_numbers_is_the_same_booleans_and_is_cut_alike(tiny):
    """Eager attention receives numbers that are added to the scores, sdpa booleans; both with padding."""
    model = tiny("llama")
    hf = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"](), attn_implementation="eager").float()
    hf.load_state_dict(model.hf.state_dict())
    eager, batch = HookedModel(hf, model.tokenizer), model.tokens(["w5 w9 w20 w33 w41", "w7 w12 w9"])
    seen, cut = [], []
    for each in (model, eager):
        tap = attention_mask_tap(each.config, 1)
        plain = each.logits(batch)
        with attached(each.hf, [(tap, seen.append)]):
            assert torch.equal(each.logits(batch), plain), "a function that returns None changes nothing"
        with attached(each.hf, [(tap, hide)]):
            cut.append(each.logits(batch)[batch.mask])
    columns = torch.arange(batch.ids.shape[1])
    expected = ((columns <= columns[:, None]) & batch.mask[:, None])[:, None].expand_as(seen[0])
    real = batch.mask[:, None, :, None].expand_as(expected)
    assert all(torch.equal(mask[real], expected[real]) for mask in seen)
    torch.testing.assert_close(*cut, atol=2e-5, rtol=1e-4)
    assert (cut[0] - plain[batch.mask]).abs().max() > 1e-3, "control: the hidden token has an influence"


def test_a_module_without_a_mask_is_refused(tiny):
    tap = attention_mask_tap(tiny("llama").config, 1)
    with pytest.raises(InterpError, match="takes no attention mask"):
        attention_mask_hook(lambda mask: mask, torch.nn.Linear(2, 2), tap)
