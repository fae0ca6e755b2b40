"""Functions run in several processes at once, joined by gloo: forks of the test's process, which has imported all."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from interp.sae.training.latent_shard import LatentShard, process_group


def together(work: Callable[[LatentShard], object], folder: Path, size: int = 2) -> list:
    """What the function returns in each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(_work, (work, folder, size, port), size, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _work(rank: int, work: Callable[[LatentShard], object], folder: Path, size: int, port: int) -> None:
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in here.items()}, INTERP_PROGRESS="0")
    torch.set_num_threads(1)
    with process_group() as shard:
        torch.save(work(shard), folder / f"{rank}.pt")
        dist.barrier()
