"""The effect against a hook that takes the latent's part off the stream."""

import pytest
import torch

from interp.activations import pack_rows
from interp.features import measure_ablation_effects
from interp.models import next_token_losses


def test_equals_the_loss_under_a_hook_of_ones_own(tiny, corpus, saes):
    model, sae = tiny("llama"), saes["top"]
    packed = pack_rows(model, corpus, 32)
    found = measure_ablation_effects(sae, model, packed, [3, 17], rows=2)
    for latent, effect in zip([3, 17], found, strict=True):
        seen, firings, change = 0, 0, 0.0
        for number in range(len(packed)):
            row, amount = packed.rows(number, number + 1), {}
            inputs = row.model_inputs(model.device)
            at = model.forward_to(model.resolve("resid_post.1"), inputs)
            x = next(iter(at.values()))
            amount = sae.encode(x)[..., latent] * row.inner
            if seen == 2 or not amount.any():
                continue
            seen, firings = seen + 1, firings + int((amount > 0).sum())
            with torch.no_grad():
                plain = model.hf(**inputs, use_cache=False).logits
                part = amount[..., None] * sae.W_dec[latent]
                with model.hooked([("resid_post.1", lambda x, part=part: x - part)]):
                    ablated = model.hf(**inputs, use_cache=False).logits
            losses = [next_token_losses(y, row.ids, row.predicted).sum() for y in (ablated, plain)]
            change += float(losses[0] - losses[1])
        assert effect == pytest.approx(change / firings, rel=1e-3, abs=1e-6)
        assert effect != 0


def test_a_latent_that_never_fires_has_no_effect(tiny, corpus, saes):
    from dataclasses import replace

    silent = replace(saes["jump"], threshold=torch.full((24,), 1e9))
    assert measure_ablation_effects(silent, tiny("llama"), pack_rows(tiny("llama"), corpus[:3], 32), [2]) == [None]
