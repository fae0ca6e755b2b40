"""What attention sees: which columns of the left-padded batch each token looks at, as a function may change it.

Hugging Face's attention modules are given a mask, in one of three forms: none at all (each token sees all before it), a
boolean tensor (sdpa), or numbers that are added to the scores (eager). A function is shown the same for each of them: a
boolean tensor (batch, heads, pos, column) that is true where the token sees the column. Columns are counted from
the batch's first, whatever part of them a sliding window's cache keeps.
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

_CACHES = ("past_key_values", "layer_past")  # what modules call their cache


def attention_mask_hook(
    transform: Callable[[Tensor], Tensor | None], module: nn.Module, tap: Tap
) -> Callable[..., Any]:
    """A forward pre-hook, for `register_forward_pre_hook(..., with_kwargs=True)`, that lets a function change a mask.

    Raises at once for a module that takes no mask, and when it is given one that has no place for single edges.
    """
    signature = inspect.signature(module.forward)
    if "attention_mask" not in signature.parameters:
        raise InterpError(f"{tap.path} ({type(module).__name__}) takes no attention mask, so no edge can be cut there")

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = signature.bind(*args, **kwargs)
        mask, shape = given.arguments.get("attention_mask"), given.arguments["hidden_states"].shape[:2]
        cache = next((given.arguments[name] for name in _CACHES if given.arguments.get(name) is not None), None)
        length, offset = (shape[1], 0) if cache is None else cache.get_mask_sizes(shape[1], tap.layer)
        sees = _sees(mask, (*shape, tap.heads), length, offset, given.arguments["hidden_states"].device)
        changed = transform(sees)
        if changed is None or changed is sees:
            return None
        if changed.dtype != torch.bool or changed.shape != sees.shape:
            raise InterpError(
                f"a function on what attention sees returned {changed.dtype} of shape {tuple(changed.shape)}; expected "
                f"booleans of shape {tuple(sees.shape)}, or None to leave it as it is"
            )
        given.arguments["attention_mask"] = _masked(mask, changed[..., offset:])
        return given.args, given.kwargs

    return hook


def _sees(
    mask: Any, shape: tuple[int, int, int], length: int, offset: int, device: torch.device
) -> Bool[Tensor, "batch heads pos column"]:
    batch, width, heads = shape
    if mask is None:
        columns = torch.arange(length, device=device)
        sees = (columns <= columns[length - width :, None])[None, None]
    elif isinstance(mask, Tensor) and mask.ndim == 4:
        sees = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    else:
        raise InterpError(
            f"attention was given a mask of shape {tuple(mask.shape) if isinstance(mask, Tensor) else type(mask)}, "
            "which has no place for single edges; load the model with attn_implementation sdpa or eager"
        )
    return pad(sees, (offset, 0)).expand(batch, heads, -1, -1)


def _masked(mask: Tensor | None, sees: Tensor) -> Tensor:
    """The mask with what is not seen taken out, in its own form."""
    if mask is None or mask.dtype == torch.bool:
        return sees
    return mask.masked_fill(~sees, torch.finfo(mask.dtype).min)
