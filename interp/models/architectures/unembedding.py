"""Directions in terms of the vocabulary: which tokens a direction in the residual stream makes likelier.

The direct effect on the logits is direction, times the final norm's gain, times the unembedding. It is per
unit length and up to the norm's own division, which differs from token to token; what later layers do with
the direction is left out.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.core.errors import InterpError
from interp.models.hooked import HookedModel


@torch.no_grad()
def logit_effect(model: HookedModel, directions: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_vocab"]:
    """Direct effect of each direction on the logits."""
    norm, unembed = final_norm(model), model.hf.get_output_embeddings()
    rows = directions.to(model.device).float()
    # A LayerNorm subtracts the mean of its input; an RMSNorm does not.
    centred = rows - rows.mean(1, keepdim=True) if isinstance(norm, nn.LayerNorm) else rows
    return (centred * norm_gain(norm, model)) @ unembed.weight.float().T


def norm_gain(norm: nn.Module, model: HookedModel) -> Float[Tensor, "d_model"]:
    """A norm's gain, measured on an input of mean 0 and unit variance: some store it as 1 + weight."""
    signs = torch.ones(model.d_model, device=model.device, dtype=model.dtype)
    signs[1::2] = -1
    return ((norm(signs) - norm(0 * signs)) * signs).float()


def final_norm(model: HookedModel) -> nn.Module:
    """The only norm beside the layers: a direct child of the model whose sole weight is a vector."""
    for child in model.hf.base_model.children():
        if [weight.ndim for name, weight in child.named_parameters() if name == "weight"] == [1]:
            return child
    raise InterpError(
        f"{model.config.model_type} has no norm before its unembedding; its direct logit effect is not known"
    )


def token_text(tokenizer: Any, token: int) -> str:
    """A token as it reads within a text, its leading space included."""
    # Many decoders drop the space of a text's first token, so the token is read behind another.
    before = tokenizer.decode([0], clean_up_tokenization_spaces=False)
    return tokenizer.decode([0, token], clean_up_tokenization_spaces=False).removeprefix(before)
