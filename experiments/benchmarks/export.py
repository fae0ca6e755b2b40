"""Export against `cp -r` of the same folder: time by size, and memory that does not grow with it.

    python experiments/benchmarks/export.py [--sizes 0.5 2 8] [--rounds 3] [--work FOLDER] [--json FILE]

Checkpoints of random bfloat16 weights in Llama's layout, in files of about half a gigabyte, are made under --work. A
direction is projected out at every writer of the residual stream (embedding, attention and MLP outputs: a third of the
bytes), with files hashed and flushed to disk, as `export_streamed` always does; `cp -r` neither hashes nor flushes.
Each round times `cp -r`, then `cp -r` with `sync`, then the export, on a source that is in the page cache; the table
shows medians. Memory is the peak of a process that exports, above that of one that only imports what it takes.

`hashing alone` is how long SHA-256 of the written files takes on as many threads as there are cores.
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

import torch
from rich.console import Console
from rich.table import Table

from interp import Project, Recipe
from interp.editing.export import export_streamed
from interp.models.checkpoint import INDEX
from interp.models.tensorfile import as_bytes, header_bytes

FILE = 512 << 20
WIDTH, VOCABULARY = 2048, 32_000


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
        if 2 * sum(torch.Size(other).numel() for other in files[-1].values()) > FILE:
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


def seconds(action, *arguments) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - began


def copied(source: Path, out: Path, flush: bool) -> None:
    """`cp -r`, and `sync` if asked for."""
    subprocess.run(["cp", "-r", source, out], check=True)
    if flush:
        subprocess.run(["sync"], check=True)


def hashed(folder: Path) -> None:
    """SHA-256 of every file."""

    def one(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, folder.glob("*.safetensors")))


def peak(arguments: list[str]) -> float:
    """Peak memory in MB of this script, run with the arguments."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def timed(source: Path, work: Path, rounds: int) -> dict[str, float]:
    """Medians over the rounds."""
    taken: dict[str, list[float]] = {"cp": [], "cp and sync": [], "export": [], "hashing alone": []}
    hashed(source)  # reads it into the page cache
    for _ in range(rounds):
        for name, action in (
            ("cp", lambda out: copied(source, out, False)),
            ("cp and sync", lambda out: copied(source, out, True)),
            ("export", lambda out: project(source, out)),
        ):
            subprocess.run(["sync"], check=True)
            taken[name].append(seconds(action, work / "out"))
            if name == "export":
                taken["hashing alone"].append(seconds(hashed, work / "out"))
            shutil.rmtree(work / "out")
    return {name: median(values) for name, values in taken.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.5, 2.0, 8.0], help="gigabytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(__file__).parents[1] / ".cache" / "export")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", type=Path, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak is not None:
        if options.peak:
            project(*options.peak)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    table = Table(
        "size", "files", "cp -r", "cp and sync", "hashing alone", "export", "to cp", "to cp and sync", "extra MB"
    )
    claims, idle = {}, peak(["--peak"])
    for size in options.sizes:
        source = options.work / f"{size:g}gb"
        make(source, size)
        found = timed(source, options.work, options.rounds)
        extra = peak(["--peak", str(source), str(options.work / "out")]) - idle
        shutil.rmtree(options.work / "out")
        own, plain, flushed = found["export"], found["cp"], found["cp and sync"]
        count = len(list(source.glob("*.safetensors")))
        cells = [f"{value:.1f} s" for value in (plain, flushed, found["hashing alone"], own)]
        table.add_row(f"{size:g} GB", str(count), *cells, f"{own / plain:.2f}", f"{own / flushed:.2f}", f"{extra:.0f}")
        claims[f"peak_extra_mb_{size:g}gb".replace(".", "_")] = round(extra)
        claims[f"time_vs_cp_{size:g}gb".replace(".", "_")] = round(own / plain, 2)
    claims["largest_tensor_mb"] = round(2 * VOCABULARY * WIDTH / 2**20)
    Console(width=130).print(table)
    print(f"largest tensor {claims['largest_tensor_mb']} MB; {torch.get_num_threads()} threads for products")
    if options.json:
        options.json.write_text(json.dumps({"claims": claims}, indent=1))


if __name__ == "__main__":
    main()
