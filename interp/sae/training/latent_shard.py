"""The latents of one of several processes that train an autoencoder together.

Each process holds the rows, biases, thresholds and optimiser's state of its own latents, and reads every batch.

1. Each takes the largest of its own pre-activations, at most k per token. Their values, not their indices, go to the
   other processes. All find the same k largest, and each keeps its own. BatchTopK does so with a batch's entries.
2. Each decodes its own entries. The sum over processes is the reconstruction, and the only message of a batch's size.
   The gradients of a latent then need no other latent.
3. Means and counts over all latents are sums over processes.

A shard that is the whole, the default, sends nothing. Messages go through torch.distributed's process group: gloo on
CPUs, NCCL on GPUs.
"""

import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

from interp.core.errors import InterpError, first_line
from interp.sae.code import Code
from interp.sae.compiled.selection import largest
from interp.sae.config import SaeConfig

_SHARED = ("b_dec", "W_skip")  # have no row per latent, so that every process holds them


@dataclass(frozen=True)
class LatentShard:
    """Which part of the latents a process has: number `rank` of `size` equal ones."""

    rank: int = 0
    size: int = 1

    def rows(self, d_sae: int) -> int:
        """How many of the latents this process has."""
        return d_sae // self.size

    def require(self, config: SaeConfig) -> None:
        """Raise for settings that need all latents in one process."""
        if self.size == 1:
            return
        if config.d_sae % self.size:
            raise InterpError(f"d_sae is {config.d_sae}; expected a multiple of the {self.size} processes")
        for name in ("layered", "clip", "resample_every"):
            if getattr(config, name):
                raise InterpError(f"{name} is for one process, and there are {self.size}; leave it out")

    def sum(self, x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """The sum over processes, in place."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def least(self, x: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
        """The least over processes, in place."""
        return self._reduced(x, dist.ReduceOp.MIN)

    def _reduced(self, x: Tensor, op: Any) -> Tensor:
        if self.size > 1:
            with together():
                dist.all_reduce(x, op)
        return x

    def beside(self, x: Shaped[Tensor, "row n"]) -> Shaped[Tensor, "row all"]:
        """The columns of all processes side by side, in the order of their latents."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        with together():
            dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim=1)

    def largest(self, u: Float[Tensor, "row n"], k: int) -> Code:
        """Of each row's k largest entries over all processes, this process's; the first of equal ones."""
        kept = min(k, u.shape[1])
        values, columns = largest(u, kept) if kept else (u, torch.empty(u.shape, dtype=torch.long, device=u.device))
        code = Code.of_rows(values, columns)
        if self.size == 1:
            return code
        every = self.beside(pad(values, (0, k - kept), value=-math.inf))
        taken = torch.zeros(every.shape, dtype=torch.bool, device=u.device).scatter_(1, largest(every, k)[1], True)
        return code.pick(taken[:, self.rank * k :][:, :kept].flatten().nonzero().squeeze(1))

    def top(self, entries: Code, count: int) -> Code:
        """Of the `count` largest entries over all processes, this process's; the first of equal ones, by token."""
        own = len(entries.values)
        if self.size == 1:
            return entries.pick(largest(entries.values[None], count)[1][0]) if own > count else entries
        sizes = self.beside(torch.tensor([[own]], device=entries.values.device))
        if int(sizes.sum()) <= count:
            return entries
        room = int(sizes.max())
        values = self.beside(pad(entries.values, (0, room - own), value=-math.inf)[None])
        order = self.beside(pad(entries.tokens, (0, room - own), value=entries.count)[None])[0].argsort(stable=True)
        chosen = order[largest(values[:, order], count)[1][0]] - self.rank * room
        return entries.pick(chosen[(chosen >= 0) & (chosen < own)])

    def holds(self, name: str, x: Shaped[Tensor, "*any"]) -> bool:
        """Whether a tensor of a checkpoint, such as "0.W_enc.exp_avg", has a row for each of this process's latents."""
        _, dot, rest = name.partition(".")
        return bool(dot) and x.ndim > 0 and rest.partition(".")[0] not in _SHARED

    def whole(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of all latents by name, in the first process; the others keep their own."""
        return {name: x if self.size == 1 or name in _SHARED else self._gathered(x) for name, x in named.items()}

    def _gathered(self, x: Tensor) -> Tensor:
        parts = None if self.rank else [torch.empty_like(x) for _ in range(self.size)]
        with together():
            dist.gather(x.contiguous(), parts)
        return x if parts is None else torch.cat([part.cpu() for part in parts])


class LostProcess(InterpError):
    """Another process of the training has ended."""


@contextmanager
def together() -> Iterator[None]:
    """Say what to do when another process ends while this one waits for it."""
    try:
        yield
    except RuntimeError as problem:
        if not re.search("gloo|nccl|connection|socket|timed out", str(problem), re.IGNORECASE):
            raise
        raise LostProcess(
            f"another process of the training has ended ({first_line(problem).partition('. ')[0]}); the same command "
            "continues from the newest checkpoint"
        ) from None


def launch(processes: int, store: str | Path, settings: Sequence[str], run: str | Path | None, **options: Any) -> None:
    """Train in several processes of this machine, by `torchrun`'s launcher.

    Args:
        processes: How many.
        store: The folder of activations.
        settings: `key=value` settings of `SaeConfig`.
        run: The run's folder.
        options: Other options of `python -m interp.sae.training`.

    Raises:
        InterpError: There is no folder, or one of the processes failed or was killed; the others are ended then.
    """
    if processes < 1 or run is None:
        raise InterpError(
            f"processes is {processes}, run {run}; expected at least 1, and a folder for checkpoints (--run)"
        )
    words = [str(store), *settings, f"--folder={run}"]
    for name, value in options.items():
        values = value if isinstance(value, tuple) else () if value in (None, False) else (value,)
        words += [f"--{name.replace('_', '-')}" + ("" if item is True else f"={item}") for item in values]
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    free: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": str(os.getpid())}
    config = LaunchConfig(1, 1, processes, **free, max_restarts=0, monitor_interval=0.1)
    try:
        elastic_launch(config, sys.executable)("-m", "interp.sae.training", *words)
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as problem:
        rank, failure = problem.get_first_failure()
        if failure.exitcode >= 0:
            raise InterpError(f"process {rank} of {processes} failed; see the message above") from None
        how = f"was killed ({failure.signal_name()}); the same command continues from the newest checkpoint"
        raise InterpError(f"process {rank} of {processes} {how}") from None


@contextmanager
def process_group() -> Iterator[LatentShard]:
    """Join the processes that `torchrun` started, one shard each; the whole if it started none.

    Example:
        >>> from interp.sae.training.latent_shard import process_group
        >>> with process_group() as shard:
        ...     shard.rows(4096)
        4096
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield LatentShard()
        return
    dist.init_process_group()
    try:
        yield LatentShard(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
