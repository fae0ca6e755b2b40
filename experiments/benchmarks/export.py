"""Export against `cp -r` of the same folder: time by size, and memory that does not grow with it.

    python experiments/benchmarks/export.py [--sizes 0.5 2 8] [--rounds 3] [--memory 0.25 0.5 1 2] [--kills]
                                            [--out docs/results/export.md] [--work FOLDER] [--json FILE]

Checkpoints of random bfloat16 weights in Llama's layout, in files of about half a gigabyte, are made under --work. A
direction is projected out at every writer of the residual stream (embedding, attention and MLP outputs: a third of the
bytes), with files hashed and flushed to disk, as `export_streamed` always does; `cp -r` neither hashes nor flushes.
Each round times `cp -r`, then `cp -r` with `sync`, then what gives the same guarantees (`cp -r`, `sync -f` of the copy,
and SHA-256 of each file of it, one after the other), then the export, on a source that is in the page cache; the table
shows medians. SHA-256 is Python's, which takes the processor's instructions for it where there are some; `sha256sum` is
slower here. Memory is the peak of a process that exports, above that of one that only imports what it takes.

`hashing alone` is how long SHA-256 of the written files takes on as many threads as there are cores. `CPU` is processor
time, user and system, which other work on the machine does not lengthen as it does the rest.

`--memory` sizes are exported once more for their memory alone, and `--kills` adds what is left of exports that are
killed (`kills.py`). `--out` writes all that as a page.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import kills
import torch
from quick import progress
from rich.console import Console
from rich.table import Table

from interp import Project, Recipe
from interp.editing.export.exporter import export_streamed
from interp.models.checkpoints.checkpoint import INDEX
from interp.models.checkpoints.safetensors_file import as_bytes, header_bytes

FILE = 512 << 20
WIDTH, VOCABULARY = 2048, 32_000


KILLS = """
In the old state there is no folder of that name; the new state is the complete folder, equal byte by byte to that of
an export that was not killed. The last column counts, over all kills, the weight files that were finished when the
export was killed, and those that the next run did not write again.
"""


def layout(gigabytes: float) -> tuple[dict[str, tuple[int, ...]], int]:
    """Names and shapes of a Llama of about that size, and how many layers it has."""
    hidden, kv = 4 * WIDTH, WIDTH // 4
    block = {
        "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (kv, WIDTH), "self_attn.v_proj": (kv, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (hidden, WIDTH), "mlp.up_proj": (hidden, WIDTH),
        "mlp.down_proj": (WIDTH, hidden), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
    }  # fmt: skip
    per_layer = 2 * sum(torch.Size(shape).numel() for shape in block.values())
    layers = max(1, round((gigabytes * 1e9 - 4 * WIDTH * VOCABULARY) / per_layer))
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes | {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCABULARY, WIDTH)}, layers


def make(folder: Path, gigabytes: float) -> None:
    """Write a checkpoint, unless it is there."""
    if (folder / "config.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    shapes, layers = layout(gigabytes)
    files: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if 2 * sum(torch.Size(dims).numel() for dims in files[-1].values()) > FILE:
            files.append({})
        files[-1][name] = shape
    weight_map, noise = {}, torch.randn(16 << 20, dtype=torch.bfloat16) / 50
    for number, part in enumerate(files, 1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        with (folder / file).open("wb") as out:
            out.write(header_bytes({name: ("BF16", shape) for name, shape in part.items()}, {"format": "pt"}))
            for name, shape in part.items():
                for start in range(0, torch.Size(shape).numel(), len(noise)):
                    out.write(as_bytes(noise[: min(len(noise), torch.Size(shape).numel() - start)]))
                weight_map[name] = file
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": layers,
        "intermediate_size": 4 * WIDTH, "num_attention_heads": 16, "num_key_value_heads": 4, "dtype": "bfloat16",
        "vocab_size": VOCABULARY, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def project(source: Path, out: Path) -> None:
    """Export the projection of a fixed direction."""
    row = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0))
    export_streamed(Recipe([("writers", Project(row))]), source, out)


def seconds(action, *arguments) -> tuple[float, float]:
    """How long it takes, and processor time, that of processes it starts included."""
    began, before = time.perf_counter(), os.times()
    action(*arguments)
    return time.perf_counter() - began, sum(os.times()[:4]) - sum(before[:4])


def copied(source: Path, out: Path, flush: bool) -> None:
    """`cp -r`, and `sync` if asked for."""
    subprocess.run(["cp", "-r", source, out], check=True)
    if flush:
        subprocess.run(["sync"], check=True)


def guaranteed(source: Path, out: Path) -> None:
    """A copy that is on the disk, and its digests."""
    copied(source, out, flush=False)
    subprocess.run(["sync", "-f", out], check=True)
    hashed(out, threads=1)


def hashed(folder: Path, threads: int | None = None) -> None:
    """SHA-256 of every file."""

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        list(pool.map(digest, folder.glob("*.safetensors")))


def peak(arguments: list[str]) -> float:
    """Peak memory in MB of this script, run with the arguments."""
    process = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return float(process.stdout.split()[-1])


def timed(source: Path, work: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Medians over the rounds, of time and processor time."""
    names = "cp", "cp and sync", "cp, sync and SHA-256", "export", "hashing alone"
    durations: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    hashed(source)  # reads it into the page cache
    for _ in range(rounds):
        for name, action in (
            ("cp", lambda out: copied(source, out, False)),
            ("cp and sync", lambda out: copied(source, out, True)),
            ("cp, sync and SHA-256", lambda out: guaranteed(source, out)),
            ("export", lambda out: project(source, out)),
        ):
            subprocess.run(["sync"], check=True)
            durations[name].append(seconds(action, work / "out"))
            if name == "export":
                durations["hashing alone"].append(seconds(hashed, work / "out"))
            shutil.rmtree(work / "out")
    return {name: (median(x for x, _ in values), median(x for _, x in values)) for name, values in durations.items()}


def extra(source: Path, work: Path, idle: float) -> float:
    """Peak memory in MB of an export, above that of a process that only imports what it takes."""
    megabytes = peak(["--peak", str(source), str(work / "out")]) - idle
    shutil.rmtree(work / "out")
    return megabytes


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)) + "\n"


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """To the terminal."""
    shown = Table(*header)
    for row in rows:
        shown.add_row(*row)
    Console(width=150).print(shown)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.5, 2.0, 8.0], help="gigabytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=float, nargs="*", default=[], help="gigabytes, for memory alone")
    parser.add_argument("--kills", action="store_true", help="kill exports as well")
    parser.add_argument("--quick", action="store_true", help="the headline claims, within five minutes")
    parser.add_argument("--out", type=Path, help="page to write")
    parser.add_argument("--work", type=Path, default=Path(__file__).parents[1] / ".cache" / "export")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", type=Path, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak is not None:
        if options.peak:
            project(*options.peak)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    if options.quick:
        options.sizes, options.rounds, options.memory = [0.25], 1, [0.5]
    claims, idle = {"largest_tensor_mb": round(2 * VOCABULARY * WIDTH / 2**20)}, peak(["--peak"])
    times, memory, sections = [], {}, []
    for size in options.sizes:
        progress(f"time and memory of {size:g} GB")
        source = options.work / f"{size:g}gb"
        make(source, size)
        medians = timed(source, options.work, options.rounds)
        memory[size] = extra(source, options.work, idle)
        (export_time, busy), (plain, plain_busy), flushed = medians["export"], medians["cp"], medians["cp and sync"][0]
        same = medians["cp, sync and SHA-256"][0]
        shown = plain, flushed, same, medians["hashing alone"][0], export_time, plain_busy, busy
        cells = [f"{value:.1f} s" for value in shown]
        count = len(list(source.glob("*.safetensors")))
        ratios = [f"{export_time / plain:.2f}", f"{export_time / same:.2f}"]
        print(f"{size:g} GB: {medians}", flush=True)
        times.append([f"{size:g} GB", str(count), *cells, *ratios, f"{memory[size]:.0f}"])
        claims[f"peak_extra_mb_{size:g}gb".replace(".", "_")] = round(memory[size])
        claims[f"time_vs_cp_{size:g}gb".replace(".", "_")] = round(export_time / plain, 2)
        claims[f"time_vs_cp_sync_sha_{size:g}gb".replace(".", "_")] = round(export_time / same, 2)
    for size in options.memory:
        if size not in memory:
            progress(f"memory of {size:g} GB")
            make(options.work / f"{size:g}gb", size)
            memory[size] = extra(options.work / f"{size:g}gb", options.work, idle)
    tables = [
        (["size", "files", "`cp -r`", "`cp -r`, `sync`", "`cp -r`, `sync`, SHA-256", "hashing alone", "export",
          "CPU of `cp`", "CPU of export", "to `cp`", "to `cp`, `sync`, SHA-256", "extra MB"], times),
        (["size", "peak memory beyond the interpreter's, MB"],
         [[f"{size:g} GB", f"{memory[size]:.0f}"] for size in sorted(memory)]),
    ]  # fmt: skip
    if options.kills:
        progress("kills")
        tables.append((kills.HEADER, kills.rows(kills.measured(8 if options.quick else 1))))
    for title, (header, rows) in zip(("Time", "Memory", "Kills"), tables, strict=False):
        print_table(header, rows)
        sections.append(f"## {title}\n\n{markdown(header, rows)}")
    print(f"largest tensor {claims['largest_tensor_mb']} MB")
    if options.out:
        options.out.write_text(page(options, claims["largest_tensor_mb"], sections))
    if options.json:
        options.json.write_text(json.dumps({"claims": claims}, indent=1))


def page(options: argparse.Namespace, largest: int, sections: list[str]) -> str:
    """What was measured, with the command."""
    sizes, more = (" ".join(f"{size:g}" for size in numbers) for numbers in (options.sizes, options.memory))
    command = f"--sizes {sizes} --rounds {options.rounds}" + (f" --memory {more}" if more else "")
    command += " --kills" if options.kills else ""
    return (
        f"# Exports without a model in memory\n\nWritten by `python experiments/benchmarks/export.py {command} --out "
        f"docs/results/export.md`, whose docstring says what is measured, on {os.cpu_count()} cores with a load of "
        f"{os.getloadavg()[2]:.1f} (average of 15 minutes: the machine had other work, which lengthens times "
        f"but not CPU). The largest tensor has {largest} MB.\n\n"
        + "\n".join(sections)
        + (KILLS if options.kills else "")
    )


if __name__ == "__main__":
    main()
