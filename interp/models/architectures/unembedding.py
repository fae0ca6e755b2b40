"""Unembedding of directions: which tokens a direction in the residual stream makes likelier.

The direct effect on the logits is the direction, centred where the final norm centres, times the gain of that norm,
times the unembedding and the scale of the logits.

Limitations: the effect is per unit length and up to the division by the norm, which differs from token to token; it
leaves out what later layers do with the direction, and a cap on the logits.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
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
    norm, unembed = FinalNorm.of(model), model.hf.get_output_embeddings()
    rows = norm.centred(directions.to(model.device).float())
    return (rows * norm.gain) @ unembed.weight.float().T * logit_scale(model)


@torch.no_grad()
def token_directions(
    model: PlainModel, tokens: int | Int[Tensor, "*shape"], fold_norm: bool = True
) -> Float[Tensor, "*shape d_model"]:
    """The directions whose products with the stream, divided by the final norm's scale, are the logits of tokens.

    Args:
        model: The model.
        tokens: Token ids.
        fold_norm: Include the weight of the final norm and the scale of the logits. Default: yes. Without it, the bare
            columns of the unembedding.

    Raises:
        InterpError: An id is not in the vocabulary.
    """
    rows, ids = model.hf.get_output_embeddings().weight, torch.as_tensor(tokens, device=model.device)
    if len(wrong := ids[(ids < 0) | (ids >= len(rows))]):
        raise InterpError(f"token {int(wrong[0])} is not in the vocabulary; expected an id from 0 to {len(rows) - 1}")
    if not fold_norm:
        return rows[ids].detach()
    norm = FinalNorm.of(model)
    return norm.centred(rows[ids].float() * norm.gain) * logit_scale(model)


@dataclass(frozen=True)
class FinalNorm:
    """The final norm as gain * centred(x) / scale(x) + bias, as measured on its module.

    Args:
        module: The norm.
        gain: What each coordinate is multiplied by.
        bias: What is added.
        centres: Whether it subtracts the mean of its input, as a LayerNorm does and an RMSNorm does not.
    """

    module: nn.Module
    gain: Float[Tensor, "d_model"]
    bias: Float[Tensor, "d_model"]
    centres: bool

    @classmethod
    def of(cls, model: PlainModel) -> "FinalNorm":
        """The final norm of a model. Raises where there is none."""
        module = final_norm(model)
        # Probes of large numbers, beside which the norm's epsilon is nothing.
        signs = torch.full((model.d_model,), 4096.0, device=model.device, dtype=model.dtype)
        signs[1::2] *= -1
        bias = module(0 * signs)
        shifted, plain = module(signs + 4096), module(signs)
        norm = cls(module, plain, bias.float(), centres=bool((shifted - plain).norm() < 0.1 * (plain - bias).norm()))
        centred = norm.centred(signs.float())
        return replace(norm, gain=(plain - bias).float() / centred * centred.square().mean().sqrt())

    def centred(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The input without its mean, where the norm subtracts it."""
        return x - x.mean(-1, keepdim=True) if self.centres else x

    def scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """What the norm divides an input by."""
        return (self.centred(x) * self.gain).norm(dim=-1) / (self.module(x) - self.bias).norm(dim=-1)


def stream_logits(
    model: PlainModel, x: Float[Tensor, "*batch d_model"], capped: bool = True
) -> Float[Tensor, "*batch d_vocab"]:
    """The logits of what the final norm returns, with the architecture's scale and, unless left out, its cap."""
    logits = model.hf.get_output_embeddings()(x) * logit_scale(model)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap is not None and capped else logits


def logit_scale(model: PlainModel) -> float:
    """What a model multiplies its logits by before any cap: Cohere's `logit_scale`, 1 / Granite's `logits_scaling`."""
    return getattr(model.config, "logit_scale", 1.0) / getattr(model.config, "logits_scaling", 1.0)


def final_norm(model: PlainModel) -> nn.Module:
    """The norm before the unembedding, by the architecture's row. Raises where there is none."""
    try:
        return model.hf.get_submodule(architecture(model.config).final_norm)
    except AttributeError:
        raise InterpError(
            f"{model.config.model_type} has no norm before its unembedding, so its direct logit effect is not known; "
            "use a model with a final norm"
        ) from None


def token_text(tokenizer: Any, token: int) -> str:
    """A token as it reads inside a text, with its leading space; bytes that are no text show as <0xE2>.

    Without a tokenizer, the id.
    """
    if tokenizer is None:
        return str(token)
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
