"""What a harvest survives, and what it holds in memory.

    python experiments/benchmarks/durability.py [--kills 10] [--gigabytes 2] [--json FILE]

1. A harvest of the organism's activations runs in a process of its own, which is killed (SIGKILL) at random moments and
   started again until it finishes. Its files are compared, byte by byte, with those of a harvest left alone.
2. A harvest that writes so many gigabytes; the process's resident memory is read after every shard. Flat means: the
   second half needs no more than the first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random

from quick import progress
from rich.console import Console
from rich.table import Table

from interp.core.files import sha256_file

SITES = ["resid_post.*", "mlp_post.*"]
TOKENS = 150_000
# Each harvest is a fork of a process that has imported the packages, and done nothing else.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["interp.models.hooked", "interp.activations.harvester", "transformers.models.llama.modeling_llama"]
)


def work(out: Path, tokens: int, sites: list[str], memory: Connection) -> None:
    """Harvest in this process, and send resident memory (MiB) as documents are read."""
    import torch

    import interp
    from interp import organism

    torch.set_num_threads(1)

    def documents() -> Iterator[str]:
        for number, document in enumerate(organism.corpus(10**9)):
            if number % 200 == 0:
                memory.send(resident_mib())
            yield document

    interp.harvest(
        interp.load("organism"), documents(), sites, out, tokens=tokens, shard_tokens=8192, context=128, batch_size=32
    )


def resident_mib() -> int:
    """This process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 >> 20


def started(out: Path, tokens: int, sites: list[str]) -> tuple[ForkServerProcess, Connection]:
    """The harvest as a process, and what it sends."""
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(out, tokens, sites, sender))
    process.start()
    sender.close()
    return process, receiver


def finished(out: Path, tokens: int, sites: list[str] = SITES) -> list[int]:
    """Resident memory (MiB) during a harvest that is left alone."""
    process, receiver = started(out, tokens, sites)
    received = []
    with suppress(EOFError):
        while True:
            received.append(receiver.recv())
    process.join()
    if process.exitcode:
        raise SystemExit("a harvest failed without being killed")
    return received


def hashes(folder: Path) -> dict[str, str]:
    """Digest of every file."""
    return {file.name: sha256_file(file) for file in sorted(folder.iterdir())}


def killed(scratch: Path, kills: int, tokens: int, sites: list[str] = SITES) -> tuple[int, bool]:
    """How many kills landed before the harvest finished, and whether its files equal an undisturbed one's."""
    finished(scratch / "whole", tokens, sites)
    rng, landed = Random(0), 0
    while landed < kills:
        process, receiver = started(scratch / "killed", tokens, sites)
        receiver.recv()  # the model is loaded, and the harvest begins to read
        process.join(timeout=rng.uniform(0.1, 1.5))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        landed += 1
    finished(scratch / "killed", tokens, sites)
    return landed, hashes(scratch / "whole") == hashes(scratch / "killed")


def memory(out: Path, gigabytes: float) -> dict[str, float]:
    """Resident memory (MiB) over a harvest that writes so many gigabytes."""
    row_bytes = 6 * (192 + 512) * 4
    seen = finished(out, int(gigabytes * 1e9 / row_bytes))
    half = len(seen) // 2  # the first half has the first shards, from which on it should not grow
    return {
        "gigabytes": sum(file.stat().st_size for file in out.iterdir()) / 1e9,
        "peak_mib_first_half": max(seen[:half]),
        "peak_mib_second_half": max(seen[half:]),
    }


def main() -> None:
    """Print the table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="0 leaves the second part out")
    parser.add_argument("--quick", action="store_true", help="the headline claims, within five minutes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the harvest that is killed")
    args = parser.parse_args()
    if args.quick:
        args.kills, args.gigabytes, args.tokens = 2, 1.0, 30_000
    with tempfile.TemporaryDirectory() as folder:
        progress(f"a harvest of {args.tokens:,} tokens, killed {args.kills} times")
        landed, equal = killed(Path(folder), args.kills, args.tokens)
        figures = {"kills": landed, "equal_after_kills": equal}
        if args.gigabytes:
            progress(f"memory over a harvest of {args.gigabytes:g} GB")
            figures |= memory(Path(folder) / "long", args.gigabytes)
    table = Table("what", "figure")
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
