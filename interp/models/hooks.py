"""Hooks: functions on activations, attached to modules for as long as a `with` block lasts.

A function f(x) or f(x, hook) receives the activations at a site and returns new ones, or None to leave them unchanged.
The hooks are always removed: an exception or Ctrl-C inside the block leaves none.

Where transformers has split a model over processes (`tp_plan`), each process has some of the heads and neurons. A
function still receives all of them: the parts are gathered, and each process keeps its own of what is returned. All
processes have to attach the same functions.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from interp.core.errors import InterpError
from interp.models.architectures.attention_mask import attention_mask_hook
from interp.models.architectures.table import Tap
from interp.models.sites import Site

Transform = Callable[[Tensor], Tensor | None]
HookFunction = Callable[..., Tensor | None]  # f(x) or f(x, hook)


@dataclass(frozen=True)
class HookPoint:
    """What a hook function f(x, hook) receives about its place; `ctx` is a dictionary for its own use."""

    site: Site
    ctx: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """TransformerLens' name of the site."""
        return self.site.hook_name

    def layer(self) -> int:
        """The layer; raises at a site that has none."""
        if self.site.layer is None:
            raise InterpError(f"{self.name} is in no layer")
        return self.site.layer


def hook_function(function: HookFunction, hook: Any) -> Transform:
    """A function f(x) or f(x, hook) as a function of the activations alone. Its parameters say which it is.

    A parameter that is called `hook`, or a second one without a default, receives the hook point. A function whose
    parameters are not known, as some of torch's, is f(x).

    Args:
        function: The function, a callable object or a module.
        hook: The hook point of its place.

    Raises:
        InterpError: It is not callable, or takes neither (x) nor (x, hook).

    Example:
        >>> from interp.models.hooks import HookPoint, hook_function
        >>> point = HookPoint(interp.models.Site("mlp_out", 3))
        >>> hook_function(lambda x, hook: x * hook.layer(), point)(torch.ones(2))
        tensor([3., 3.])
        >>> hook_function(lambda x, factor=2: x * factor, point)(torch.ones(2))
        tensor([2., 2.])
    """
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):
        if callable(function):
            return function
        raise InterpError(f"hook {function!r} at {hook.name} is not a function; expected f(x) or f(x, hook)") from None
    given = isinstance(function, partial) and "hook" in function.keywords
    if "hook" in signature.parameters and not given and _binds(signature, 0, hook=hook):
        return partial(function, hook=hook)
    if _binds(signature, 0):
        return function
    if _binds(signature, 0, hook):
        return lambda x: function(x, hook)
    name = getattr(function, "__name__", type(function).__name__)
    raise InterpError(f"hook {name}{signature} at {hook.name} takes other arguments; expected f(x) or f(x, hook)")


def _binds(signature: inspect.Signature, *arguments: Any, **named: Any) -> bool:
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True


@contextmanager
def attached(model: nn.Module, taps: Iterable[tuple[Tap, Transform]]) -> Iterator[None]:
    """Attach each function at its tap, in order, and remove all of them when the block ends.

    Args:
        model: The Hugging Face model.
        taps: Pairs of tap and function; functions at one tap run in this order.

    Raises:
        InterpError: A function returns anything but a tensor of the shape that it receives or None, or attention takes
            no mask (for a mask tap).
    """
    handles: list[Any] = []
    try:
        for tap, transform in taps:
            module = model.get_submodule(tap.path)
            if tap.end == "mask" and _is_split(model):
                raise InterpError(f"{tap.path}: attention masks can't be changed in a model that is split by tp_plan")
            if tap.end == "mask":
                mask_hook = attention_mask_hook(transform, module, tap)
                handles.append(module.register_forward_pre_hook(mask_hook, with_kwargs=True))
                continue
            shape: list[int] = []
            if tap.batch_of:
                whole = model.get_submodule(tap.batch_of)
                handles.append(whole.register_forward_pre_hook(partial(_record_shape, shape), with_kwargs=True))
            at_module = partial(_at_module, transform, tap, shape)
            if _is_split(model):
                at_module = partial(_gathered, at_module, tap, module, getattr(model, "config", None))
            if tap.end == "in":
                handles.append(module.register_forward_pre_hook(partial(_input_hook, at_module), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(partial(_output_hook, at_module)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_split(model: nn.Module) -> bool:
    """Whether transformers has split the model over processes."""
    return (getattr(model, "tp_size", None) or 1) > 1


def _gathered(transform: Transform, tap: Tap, module: nn.Module, config: Any, x: Tensor) -> Tensor | None:
    """Call a function with the whole of a tensor of which each process may have a part."""
    weight: Any = getattr(module, "weight", None)
    linear = isinstance(module, nn.Linear) and hasattr(weight, "device_mesh")
    if x.shape[-1] == (weight.shape[0 if tap.end == "out" else 1] if linear else config.hidden_size):
        return transform(x)
    if not linear or (x.requires_grad and torch.is_grad_enabled()):
        what = "gradients of it" if linear else "its parts"
        raise InterpError(f"{tap.path} is split over processes, which do not join {what}; choose a site of the stream")
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(weight.device_mesh.size())]
    dist.all_gather(parts, x.contiguous(), group=weight.device_mesh.get_group())
    changed = transform(torch.cat(parts, -1))
    return None if changed is None else changed.chunk(len(parts), -1)[weight.device_mesh.get_local_rank()]


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
    if not isinstance(changed, Tensor) or changed.shape != site.shape:
        returned = f"shape {tuple(changed.shape)}" if isinstance(changed, Tensor) else f"a {type(changed).__name__}"
        raise InterpError(
            f"a hook at {tap.path} returned {returned} where the model computes shape {tuple(site.shape)}; "
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
