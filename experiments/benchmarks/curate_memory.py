"""The memory and disk that a curation takes by its number of rows, with a scorer that costs nothing.

    python experiments/benchmarks/curate_memory.py [--rows 10000 100000 1000000] [--json FILE]

Each corpus has rows of 40 words, of which one in twenty repeats an earlier row apart from a word. It is curated in a
process of its own. Memory is that process's highest resident size, less what it had when all was imported. Disk is the
largest size of the hidden table, which is removed in the end.

Claims: from the smallest to the largest corpus the memory grows by less than 16 MiB, and a row takes at most 1,000
bytes on disk while the curation runs. Exit code 1 if a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

MEMORY, DISK = 16.0, 1000.0  # MiB of growth, bytes a row
ROWS = (10_000, 100_000, 1_000_000)
WORDS = [f"word{number}" for number in range(5000)]


@dataclass(frozen=True)
class Length:
    """The length of a text as its score."""

    measures: tuple[str, ...] = ("mean",)
    identity: dict[str, Any] = field(default_factory=lambda: {"scorer": "length"})

    def open(self) -> Length:
        """The scorer itself."""
        return self

    def score(self, documents: Sequence[Any]) -> list[tuple[float, ...]]:
        """The length of each text."""
        return [(float(len(text)),) for text in documents]

    def tokens(self, document: Any) -> list[tuple[str, float]]:
        """Each word with its length."""
        return [(f"{word} ", float(len(word))) for word in document.split()]


def rows(count: int) -> Iterator[str]:
    """Lines of JSON, of which one in twenty repeats an earlier one apart from its last word."""
    rng, earlier = Random(0), "a b c d e"
    for number in range(count):
        words = rng.choices(WORDS, k=40)
        text = f"{earlier} again" if number % 20 == 19 else " ".join(words)
        earlier = text if number % 20 == 0 else earlier
        yield json.dumps({"text": text}) + "\n"


def work(data: Path, out: Path) -> dict[str, float]:
    """Curate in this process: peak memory above what was there before, in MiB, and the largest table, in bytes."""
    import pyarrow.parquet  # noqa: F401  # what is imported counts before
    from datasketch import MinHash, MinHashLSH  # noqa: F401

    from interp.upkeep import CurationOptions, curate

    table, largest, ended = out.with_name(f".{out.name}.curating"), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            try:
                largest[0] = max(largest[0], sum(file.stat().st_size for file in table.iterdir()))
            except OSError:
                continue

    thread = threading.Thread(target=watch, daemon=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    thread.start()
    began = time.perf_counter()
    record = curate(data, Length(), out, CurationOptions(threshold=340.0, shard=1024))
    seconds = time.perf_counter() - began
    ended.set()
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"memory_mib": memory, "table": largest[0], "seconds": seconds, "duplicates": record.duplicates}


def measure(count: int) -> dict[str, float]:
    """One corpus, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data.jsonl", Path(folder) / "out"
        with data.open("w") as file:
            file.writelines(rows(count))
        call = [sys.executable, __file__, "--work", str(data), str(out)]
        done = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
        output = sum(file.stat().st_size for file in out.iterdir()) / count
        return {
            "rows": count,
            "memory_mib": round(done["memory_mib"], 1),
            "bytes_per_row_on_disk": round(done["table"] / count, 1),
            "bytes_per_row_of_data": round(data.stat().st_size / count, 1),
            "bytes_per_row_written": round(output, 1),
            "duplicates": done["duplicates"],
            "seconds": round(done["seconds"], 1),
        }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="sizes of the corpora")
    parser.add_argument("--json", type=Path, help="new file for the figures")
    parser.add_argument("--work", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(work(*args.work)))
        return
    runs = [measure(count) for count in args.rows]
    growth = runs[-1]["memory_mib"] - runs[0]["memory_mib"]
    claims = {
        f"memory grows by less than {MEMORY:g} MiB": growth < MEMORY,
        f"at most {DISK:g} bytes a row on disk": runs[-1]["bytes_per_row_on_disk"] <= DISK,
    }
    table = Table(*runs[0])
    for run in runs:
        table.add_row(*(f"{value:,}" for value in run.values()))
    Console(width=140).print(table, claims)
    if args.json:
        args.json.write_text(
            json.dumps({"runs": runs, "growth_mib": round(growth, 1), "claims": claims}, indent=2) + "\n"
        )
    if not all(claims.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
