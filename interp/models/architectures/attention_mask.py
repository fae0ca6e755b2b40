"""Attention masks: which columns of the left-padded batch each token attends to, for functions that change them.

Hugging Face's attention modules receive a mask in one of three forms: None (causal attention), a boolean tensor (sdpa),
or numbers that are added to the scores (eager). A function receives the same for each of them: a boolean tensor (batch,
heads, pos, column) that is true where the token may attend to the column. Columns are counted from the first of the
batch, whichever of them the cache of a sliding window keeps.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.functional import pad

from interp.core.errors import InterpError
from interp.models.architectures.table import Tap

_CACHES = ("past_key_values", "layer_past")  # the modules' names for their cache


def attention_mask_hook(
    transform: Callable[[Tensor], Tensor | None], module: nn.Module, tap: Tap
) -> Callable[..., Any]:
    """A forward pre-hook, for `register_forward_pre_hook(..., with_kwargs=True)`, that lets a function change a mask.

    Args:
        transform: Receives the boolean mask (batch, heads, pos, column) and returns a new one, or None.
        module: The attention module.
        tap: The tap of the module, with its number of heads and its layer.

    Raises:
        InterpError: The module takes no mask (raised at once); or its mask has no entry per edge, or the function
            returns another shape or dtype (raised in the forward pass).
    """
    signature = inspect.signature(module.forward)
    if "attention_mask" not in signature.parameters:
        raise InterpError(f"{tap.path} ({type(module).__name__}) takes no attention mask, so no edge can be cut there")

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = signature.bind(*args, **kwargs)
        mask, hidden = bound.arguments.get("attention_mask"), bound.arguments["hidden_states"]
        cache = next((bound.arguments[name] for name in _CACHES if bound.arguments.get(name) is not None), None)
        width = hidden.shape[1]
        length, offset = (width, 0) if cache is None else cache.get_mask_sizes(width, tap.layer)
        visible = _visible(mask, (*hidden.shape[:2], tap.heads), length, offset, hidden.device)
        changed = transform(visible)
        if changed is None or changed is visible:
            return None
        if changed.dtype != torch.bool or changed.shape != visible.shape:
            raise InterpError(
                f"a function on an attention mask returned {changed.dtype} of shape {tuple(changed.shape)}; expected "
                f"booleans of shape {tuple(visible.shape)}, or None to leave it unchanged"
            )
        bound.arguments["attention_mask"] = _masked(mask, changed[..., offset:])
        return bound.args, bound.kwargs

    return hook


def _visible(
    mask: Any, shape: tuple[int, int, int], length: int, offset: int, device: torch.device
) -> Bool[Tensor, "batch heads pos column"]:
    batch, width, heads = shape
    if mask is None:
        columns = torch.arange(length, device=device)
        visible = (columns <= columns[length - width :, None])[None, None]
    elif isinstance(mask, Tensor) and mask.ndim == 4:
        visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    else:
        raise InterpError(
            f"attention received a mask of shape {tuple(mask.shape) if isinstance(mask, Tensor) else type(mask)}, "
            "which has no entry per edge; load the model with attn_implementation sdpa or eager"
        )
    return pad(visible, (offset, 0)).expand(batch, heads, -1, -1)


def _masked(mask: Tensor | None, visible: Tensor) -> Tensor:
    """The mask without the columns that are no longer visible, in the form that the module received."""
    if mask is None or mask.dtype == torch.bool:
        return visible
    return mask.masked_fill(~visible, torch.finfo(mask.dtype).min)
