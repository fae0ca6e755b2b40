"""Hooks: functions on activations, attached to modules for as long as a `with` block lasts.

A function receives the activations at a site and returns new ones, or None to leave them unchanged. The hooks are
always removed: an exception or Ctrl-C inside the block leaves none.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from interp.core.errors import InterpError
from interp.models.architectures.attention_mask import attention_mask_hook
from interp.models.architectures.table import Tap

Transform = Callable[[Tensor], Tensor | None]


@contextmanager
def attached(model: nn.Module, taps: Iterable[tuple[Tap, Transform]]) -> Iterator[None]:
    """Attach each function at its tap, in order, and remove all of them when the block ends.

    Args:
        model: The Hugging Face model.
        taps: Pairs of tap and function; functions at one tap run in this order.

    Raises:
        InterpError: A function returns another shape than it receives, or attention takes no mask (for a mask tap).
    """
    handles: list[Any] = []
    try:
        for tap, transform in taps:
            module = model.get_submodule(tap.path)
            if tap.end == "mask":
                mask_hook = attention_mask_hook(transform, module, tap)
                handles.append(module.register_forward_pre_hook(mask_hook, with_kwargs=True))
                continue
            shape: list[int] = []
            if tap.batch_of:
                whole = model.get_submodule(tap.batch_of)
                handles.append(whole.register_forward_pre_hook(partial(_record_shape, shape), with_kwargs=True))
            at_module = partial(_at_module, transform, tap, shape)
            if tap.end == "in":
                handles.append(module.register_forward_pre_hook(partial(_input_hook, at_module), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(partial(_output_hook, at_module)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record_shape(shape: list[int], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A hook that records the batch and pos axes of a module's input."""
    shape[:] = (args[0] if args else kwargs["hidden_states"]).shape[:2]


def _at_module(transform: Transform, tap: Tap, shape: list[int], x: Tensor) -> Tensor | None:
    """Call a function with its site's view of a module's tensor, which may be flat, unscaled or without a head axis."""
    site = x.unflatten(0, shape) if tap.batch_of and x.ndim == 2 else x
    site = site if tap.scale == 1 else site * tap.scale
    site = site.unflatten(-1, (tap.heads, -1)) if tap.heads else site
    changed = transform(site)
    if changed is None:
        return None
    if changed.shape != site.shape:
        raise InterpError(
            f"a hook returned shape {tuple(changed.shape)} where the model computes {tuple(site.shape)}; "
            "return a tensor of the same shape, or None to leave it unchanged"
        )
    changed = changed if tap.scale == 1 else changed / tap.scale
    return changed if site.shape == x.shape else changed.reshape(x.shape)


def _input_hook(transform: Transform, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    changed = transform(args[0] if args else kwargs["hidden_states"])
    if changed is None:
        return None
    return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})


def _output_hook(transform: Transform, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if not isinstance(output, tuple):
        return transform(output)
    changed = transform(output[0])
    return None if changed is None else (changed, *output[1:])
