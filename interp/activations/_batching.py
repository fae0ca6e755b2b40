"""Batches cut from pools of shuffled rows."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError


def shuffled_batches(pools: Iterable[Float[Tensor, "_ d_in"]], batch_size: int) -> Iterator[Float[Tensor, "_ d_in"]]:
    """Batches of one size; they continue across pools, so that only the last can be shorter."""
    rest: Tensor | None = None
    for pool in pools:
        begin = 0
        if rest is not None and len(rest):
            # Only the batch that spans two pools is copied; the others are views of a pool.
            begin = batch_size - len(rest)
            rest = torch.cat([rest, pool[:begin]])
            if len(rest) < batch_size:
                continue
            yield rest
        end = begin + (len(pool) - begin) // batch_size * batch_size
        yield from (pool[start : start + batch_size] for start in range(begin, end, batch_size))
        rest = pool[end:]
    if rest is not None and len(rest):
        yield rest


def epoch_batches(
    pools: Callable[[], Iterable[Float[Tensor, "_ d_in"]]], batch_size: int, epochs: int | None
) -> Iterator[Float[Tensor, "_ d_in"]]:
    """Batches of some epochs, each with pools of its own; endless if `epochs` is None. Raises for numbers below 1."""
    if batch_size < 1:
        raise InterpError(f"batch_size is {batch_size}; expected at least 1 row")
    if epochs is not None and epochs < 1:
        raise InterpError(f"epochs is {epochs}; expected at least 1, or None for an endless iterator")
    passes = count() if epochs is None else range(epochs)
    return shuffled_batches(chain.from_iterable(pools() for _ in passes), batch_size)
