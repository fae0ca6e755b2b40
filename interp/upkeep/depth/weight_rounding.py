"""Rounding of weights to few bits, as quantisation does, to see whether a removed harm survives it.

Rounding moves weights by up to half a step. Where an edit moved them by less, rounding may undo it (Zhang et al. 2024,
https://arxiv.org/abs/2410.16454). Each weight is rounded to the nearest of 2**bits - 1 levels that are symmetric around
0, with one scale an output channel, or one a group of weights in it. The matrices of linear layers and experts are
rounded; tables of embeddings, the unembedding, norms and biases stay, as is usual.

Limitations: rounding to nearest, without calibration (GPTQ, AWQ) and without rounded activations. Of experts that share
one tensor, the last axis is taken for a channel's weights, which gpt-oss has the other way round.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from interp.core.errors import InterpError
from interp.upkeep.depth.subject import Subject


def rounded(weights: Float[Tensor, "*rows columns"], bits: int, group: int | None = None) -> Tensor:
    """Weights rounded to the nearest level, row by row.

    Args:
        weights: The weights, (…, columns); each row is an output channel.
        bits: Bits of a weight, at least 2.
        group: Consecutive weights of a row that share a scale; None for the whole row.

    Raises:
        InterpError: `bits` is below 2, or `group` below 1.

    Example:
        >>> from interp.upkeep.depth.weight_rounding import rounded
        >>> rounded(torch.tensor([[3.5, 1.2, -2.4, 0.0]]), bits=4)
        tensor([[ 3.5000,  1.0000, -2.5000,  0.0000]])
    """
    if bits < 2 or (group is not None and group < 1):
        raise InterpError(f"bits is {bits} and group {group}; expected at least 2 bits, and a group of at least 1")
    columns, levels = weights.shape[-1], 2 ** (bits - 1) - 1
    size = columns if group is None else min(group, columns)
    padded = torch.nn.functional.pad(weights.float(), (0, -columns % size)).unflatten(-1, (-1, size))
    scale = padded.abs().amax(-1, keepdim=True) / levels
    whole = (padded / scale.where(scale > 0, 1)).round() * scale
    return whole.flatten(-2)[..., :columns].to(weights)


def rounded_copy(subject: Subject, bits: int, group: int | None = None) -> Subject:
    """A copy of a model with rounded matrices.

    Args:
        subject: The model, with its recipe, which is not rounded.
        bits: Bits of a weight.
        group: Consecutive weights of an output channel that share a scale; None for the whole channel.
    """
    copied = subject.copied()
    with torch.no_grad():
        for weight in _matrices(copied.model.hf):
            weight.copy_(rounded(weight, bits, group))
    return copied


def _matrices(hf: Any) -> Iterator[Tensor]:
    """The matrices that are rounded, as views with an output channel a row."""
    kept = {id(table) for table in (hf.get_output_embeddings().weight, hf.get_input_embeddings().weight)}
    for module in hf.modules():
        for weight in module.parameters(recurse=False):
            if weight.ndim > 1 and id(weight) not in kept and not isinstance(module, torch.nn.Embedding):
                yield weight.T if isinstance(module, Conv1D) else weight
