"""Frozen forward passes: attention patterns and norm scales are constants, so that all but the MLPs is linear.

A first pass records them, and later passes of copies of the same tokens use them instead of their own:

- the output of a softmax, or the queries and keys of fused attention: an attention pattern
- the output of a reciprocal square root, or that of a fused norm: what a norm multiplies by

They are recognised by the torch function that computes them, in the order of the pass. So this needs no knowledge of an
architecture; whether the passes are linear is measured where they are used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from interp.core.errors import InterpError

_PATTERNS = {functional.softmax, torch.softmax, Tensor.softmax}
_SCALES = {torch.rsqrt, Tensor.rsqrt}


class Freeze(TorchFunctionMode):
    """Patterns and scales of the first pass under it, of one row; each later pass is inside `replay`."""

    def __init__(self) -> None:
        super().__init__()
        self.constants: list[Tensor] = []
        self._rows = 0  # of the pass that replays; 0 while recording
        self._next = 0
        self._norms = True

    @contextmanager
    def replay(self, rows: int, norms: bool = True) -> Iterator[None]:
        """One pass of `rows` copies of the recorded row, with its patterns and, unless norms respond, its scales."""
        self._rows, self._next, self._norms = rows, 0, norms
        with self:
            yield
        if self._next != len(self.constants):
            counts = f"{len(self.constants)} patterns and scales were recorded, and {self._next} used"
            raise InterpError(f"{counts}: the model computes in another way the second time, so it can't be frozen")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PATTERNS or func in _SCALES:
            return self._constant(lambda: func(*args, **kwargs), func in _PATTERNS or self._norms)
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func in (functional.layer_norm, functional.rms_norm):
            return self._norm(func is functional.layer_norm, *args, **kwargs)
        return func(*args, **kwargs)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        """Fused attention in steps: attention to the columns of an identity matrix is its pattern."""
        columns = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device).expand(*key.shape[:-1], -1)
        attend = functional.scaled_dot_product_attention
        pattern = self._constant(lambda: attend(query, key, columns, *rest, **options))
        return pattern @ value.repeat_interleave(pattern.shape[1] // value.shape[1], dim=1)

    def _norm(
        self, centres: bool, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float | None = None
    ) -> Tensor:
        """A fused norm in steps, so that its scale is a tensor of its own."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        centred = wide - wide.mean(-1, keepdim=True) if centres else wide
        floor = torch.finfo(wide.dtype).eps if eps is None else eps
        scale = self._constant(lambda: (centred.square().mean(-1, keepdim=True) + floor).rsqrt(), self._norms)
        normed = (centred * scale).to(x.dtype)
        normed = normed if weight is None else normed * weight
        return normed if bias is None else normed + bias

    def _constant(self, compute: Callable[[], Tensor], held: bool = True) -> Tensor:
        """What is computed, in the first pass; in a later one, what was computed then, for each copy, if it is held."""
        if not self._rows:
            self.constants.append(compute().detach())
            return self.constants[-1]
        if self._next == len(self.constants):
            raise InterpError("the model computes more patterns and scales than the first time, so it can't be frozen")
        value = self.constants[self._next]
        self._next += 1
        if not held:
            return compute()
        return value.repeat(self._rows, *[1] * (value.ndim - 1)) if self._rows > 1 else value
