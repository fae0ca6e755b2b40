"""Unembedding of directions: which tokens a direction in the residual stream makes likelier.

The direct effect on the logits is the direction, times the gain of the final norm, times the unembedding.

Limitations: the effect is per unit length and up to the division by the norm, which differs from token to token; it
leaves out what later layers do with the direction.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.core.errors import InterpError
from interp.models._plain import PlainModel
from interp.models.architectures.table import architecture


@torch.no_grad()
def logit_effect(model: PlainModel, directions: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_vocab"]:
    """The direct effect of each direction on the logits, (k, d_vocab).

    Args:
        model: The model.
        directions: Directions in the residual stream.
    """
    norm, unembed = final_norm(model), model.hf.get_output_embeddings()
    rows = directions.to(model.device).float()
    # A LayerNorm subtracts the mean of its input; an RMSNorm does not.
    centred = rows - rows.mean(1, keepdim=True) if isinstance(norm, nn.LayerNorm) else rows
    return (centred * norm_gain(norm, model)) @ unembed.weight.float().T


def norm_gain(norm: nn.Module, model: PlainModel) -> Float[Tensor, "d_model"]:
    """The gain of a norm, measured on an input of mean 0 and variance 1, since some norms store it as gain - 1."""
    signs = torch.ones(model.d_model, device=model.device, dtype=model.dtype)
    signs[1::2] = -1
    return ((norm(signs) - norm(0 * signs)) * signs).float()


def stream_logits(model: PlainModel, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
    """The logits of what the final norm returns, with the architecture's scale and cap."""
    logits, config = model.hf.get_output_embeddings()(x), model.config
    logits = logits * getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def final_norm(model: PlainModel) -> nn.Module:
    """The final norm: the norm beside the layers that is not the embedding's. Raises where there is none."""
    row = architecture(model.config)
    for name, child in model.hf.get_submodule(row.layers.rpartition(".")[0]).named_children():
        if "norm" in type(child).__name__.lower() and name != (row.embed_norm or "").rpartition(".")[2]:
            return child
    raise InterpError(
        f"{model.config.model_type} has no norm before its unembedding, so its direct logit effect is not known; "
        "use a model with a final norm"
    )


def token_text(tokenizer: Any, token: int) -> str:
    """A token as it reads inside a text, including its leading space; bytes that are no text show as <0xE2>."""
    # Many decoders drop the space of a text's first token, so the token is decoded after another one.
    before = tokenizer.decode([0], clean_up_tokenization_spaces=False)
    text: str = tokenizer.decode([0, token], clean_up_tokenization_spaces=False).removeprefix(before)
    return _with_bytes(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text


def _with_bytes(piece: str) -> str:
    """The text of a byte-level vocabulary's entry, such as part of a character; other entries as they are."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    values = {letter: value for value, letter in bytes_to_unicode().items()}
    if not set(piece) <= set(values):
        return piece
    text = bytes(values[letter] for letter in piece).decode("utf-8", errors="surrogateescape")
    return "".join(f"<0x{ord(x) - 0xDC00:02X}>" if "\udc80" <= x <= "\udcff" else x for x in text)
