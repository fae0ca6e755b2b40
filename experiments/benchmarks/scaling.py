"""How training in several processes scales: speed and memory per process by number of processes and of latents.

    python experiments/benchmarks/scaling.py [--processes 1 2] [--latents 4096 16384 65536] [--json FILE]

TopK steps of 1,024 tokens of width 512, k 32, one thread a process, gloo between the processes of this machine. The
wall clock is that of the slowest process and counts waiting, for cores too where others use them. Processor time is
that of one process, without waiting. Memory is the peak over what a process held after a first step of 64 latents.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from quick import progress
from rich.console import Console
from rich.table import Table
from torch.multiprocessing import start_processes

from interp.sae.config import SaeConfig
from interp.sae.training.latent_shard import process_group
from interp.sae.training.state import TrainingState

WIDTH, BATCH, WARM_UP = 512, 1024, 2


def work(rank: int, size: int, port: int, latents: int, steps: int, folder: Path) -> None:
    """Train in one of the processes, and write what it took."""
    here = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in here.items()})
    torch.set_num_threads(1)
    with process_group() as shard:
        x = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(0))
        TrainingState(SaeConfig(d_sae=64, k=32), WIDTH, shard=shard).update(x, 100)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        state = TrainingState(SaeConfig(d_sae=latents, k=32, batch_size=BATCH), WIDTH, shard=shard)
        wall, processor = [], []
        for _ in range(WARM_UP + steps):
            began = time.perf_counter(), time.process_time()
            state.update(x, 100)
            wall.append(time.perf_counter() - began[0])
            processor.append(time.process_time() - began[1])
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    found = {"wall": statistics.median(wall[WARM_UP:]), "processor": statistics.median(processor[WARM_UP:]), "mib": mib}
    (folder / f"{rank}.json").write_text(json.dumps(found))


def measured(size: int, latents: int, steps: int) -> dict[str, Any]:
    """The slowest and the largest of the processes."""
    progress(f"{size} processes, {latents:,} latents")
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        start_processes(work, (size, port, latents, steps, Path(name)), size, start_method="fork")
        rows = [json.loads(file.read_text()) for file in Path(name).glob("*.json")]
    return {"processes": size, "latents": latents} | {key: max(row[key] for row in rows) for key in rows[0]}


def main() -> None:
    """Print the table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--latents", type=int, nargs="+", default=[4096, 16384, 65536])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    rows = [measured(size, latents, args.steps) for latents in args.latents for size in args.processes]
    table = Table("latents", "processes", "tokens/s", "tokens per CPU-second of one", "MiB per process")
    for row in rows:
        speeds = [f"{BATCH / row[key]:,.0f}" for key in ("wall", "processor")]
        table.add_row(f"{row['latents']:,}", str(row["processes"]), *speeds, f"{row['mib']:,.0f}")
    Console().print(table, f"{os.cpu_count()} cores; load before {load:.1f}")
    if args.json:
        args.json.write_text(json.dumps({"load": load, "cores": os.cpu_count(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
