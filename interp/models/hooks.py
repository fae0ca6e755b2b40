"""Hooks: functions on activations, attached to modules for as long as a `with` block lasts.

A function receives the activations at a site and returns new ones, or None to leave them unchanged. The hooks are
always removed: an exception or Ctrl-C inside the block leaves none.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
                handles.append(
                    module.register_forward_pre_hook(attention_mask_hook(transform, module, tap), with_kwargs=True)
                )
                continue
            split = _on_heads(transform, tap.heads) if tap.heads else transform
            split = split if tap.scale == 1 else _scaled(split, tap.scale)
            if tap.batch_of:
                shape: list[int] = []
                handles.append(
                    model.get_submodule(tap.batch_of).register_forward_pre_hook(
                        _shape_recorder(shape), with_kwargs=True
                    )
                )
                split = _on_batch(split, shape)
            if tap.end == "in":
                handles.append(module.register_forward_pre_hook(_input_hook(split), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(_output_hook(split)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_heads(transform: Transform, heads: int) -> Transform:
    def call(x: Tensor) -> Tensor | None:
        split = x.unflatten(-1, (heads, -1))
        changed = _same_shape(transform(split), split)
        return None if changed is None else changed.flatten(-2)

    return call


def _scaled(transform: Transform, scale: float) -> Transform:
    def call(x: Tensor) -> Tensor | None:
        changed = transform(x * scale)
        return None if changed is None else changed / scale

    return call


def _shape_recorder(shape: list[int]) -> Callable[..., None]:
    """A hook that records the batch and pos axes of a module's input."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape[:] = (args[0] if args else kwargs["hidden_states"]).shape[:2]

    return hook


def _on_batch(transform: Transform, shape: list[int]) -> Transform:
    def call(x: Tensor) -> Tensor | None:
        changed = transform(x.unflatten(0, shape) if x.ndim == 2 else x)
        return None if changed is None else changed.view_as(x)

    return call


def _input_hook(transform: Transform) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            changed = _same_shape(transform(args[0]), args[0])
            return None if changed is None else ((changed, *args[1:]), kwargs)
        changed = _same_shape(transform(kwargs["hidden_states"]), kwargs["hidden_states"])
        return None if changed is None else (args, {**kwargs, "hidden_states": changed})

    return hook


def _output_hook(transform: Transform) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            changed = _same_shape(transform(output[0]), output[0])
            return None if changed is None else (changed, *output[1:])
        return _same_shape(transform(output), output)

    return hook


def _same_shape(changed: Tensor | None, original: Tensor) -> Tensor | None:
    if changed is not None and changed.shape != original.shape:
        raise InterpError(
            f"a hook returned shape {tuple(changed.shape)} where the model computes {tuple(original.shape)}; "
            "return a tensor of the same shape, or None to leave it unchanged"
        )
    return changed
