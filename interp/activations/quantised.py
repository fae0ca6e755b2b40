"""Activations as 8-bit whole numbers with one scale a token: a quarter of float32's room."""

import torch
from jaxtyping import Float
from torch import Tensor


def quantised(x: Float[Tensor, "token d_in"], name: str) -> dict[str, Tensor]:
    """The tensors to store for a site: whole numbers from -127 to 127 under its name, and scales under NAME.scale."""
    scale = x.float().abs().amax(1).clamp(min=1e-30) / 127
    whole = (x.float() / scale[:, None]).round().clamp(-127, 127)
    # NaN has no whole number: the scale carries it, so that it is seen.
    return {name: whole.nan_to_num().to(torch.int8), f"{name}.scale": scale}


def restored(stored: dict[str, Tensor], name: str) -> Float[Tensor, "token d_in"]:
    """What was stored for a site, as numbers again: float32 if whole numbers were."""
    x = stored[name]
    return x.float() * stored[f"{name}.scale"][:, None] if x.dtype == torch.int8 else x
