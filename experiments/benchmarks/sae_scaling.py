"""Where a training step's time goes, how it grows with width, and how fast users encode and decode.

    python experiments/benchmarks/sae_scaling.py [--threads 2] [--rounds 3] [--peers DIR ...] [--json FILE]
    python experiments/benchmarks/sae_scaling.py --threads 1 --parts [KIND ...]

TopK in bfloat16 on width 576, k 32, batches of 4,096, as `sae_train.py` has them. Each measurement is a process of its
own, and processes take turns; figures are medians.

- The breakdown is of 9,216 latents, in processor time of all threads, by the functions that do each part (medians of 6
  steps). `--parts` prints that alone, in milliseconds beside the product alone, for kinds of autoencoder.
- Selection is of 512 rows of 9,216 pre-activations in bfloat16: compiled, and by torch (its topk; a mask and its
  indices).
- Widths run from 4,096 to 65,536 latents. Time a token would grow as the width does if all of it were the encoder's
  product; memory is set beside 16 bytes a parameter (weight, gradient, Adam's two moments), 2 a parameter for bfloat16
  shadows, and a chunk of pre-activations.
- Encoding and decoding are `sae(x)` of raw activations, beside SAELens' `sae(x)` of the same weights, in float32, which
  is the default of both, and in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from quick import measures_bfloat16
from rich.console import Console
from rich.table import Table
from sae_train import BATCH, BATCHES, LATENTS, WIDTH, K, bound, data, elsewhere, peak_mib
from torch import Tensor

WIDTHS = (4096, 9216, 16384, 32768, 65536)
CHUNK = 512
RECONSTRUCT = tuple((who, kind) for kind in ("float32", "bfloat16") for who in ("interp", "saelens"))
# The functions of each part of a step; what is in none is "the rest". A part inside another counts for itself alone.
PARTS = {
    "interp.sae.training.gradients.pre_activations": "encoder's product",
    "interp.sae.training.latent_shard.largest": "selection",
    "interp.sae.training.gradients.above": "selection",
    "interp.sae.training.gradients.bag_sums": "sums over bags: decoding, gradients",
    "interp.sae.training.gradients.bag_products": "products along bags",
    "interp.sae.training.gradients._Batch._weight_gradients": "sorting and gathering entries",
    "interp.sae.training.gradients._Batch.dense": "dense products and slopes",
    "interp.sae.training.gradients.Weights.map": "weights in the type of products",
    "interp.sae.training.state.TrainingState._descend": "tangent, norms",
    "torch.optim.Adam.step": "Adam",
    "interp.sae.training.state.TrainingState.update": "the rest",
}


def fit(d_sae: int, compute: str, kind: str = "topk") -> Callable[[Tensor], Any]:
    """The step of `train`."""
    from interp.sae.config import SaeConfig
    from interp.sae.training.state import TrainingState

    config = SaeConfig(kind=kind, d_sae=d_sae, k=K, batch_size=BATCH, tokens=BATCH * 100, compute=compute)
    state = TrainingState(config, WIDTH)
    return lambda x: state.update(x, 100)


def timed(call: Callable[[Tensor], Any], warm_up: int = 2, steps: int = 4) -> dict[str, float]:
    """Median seconds of a call on a batch, and peak memory over what was held before."""
    batches, before, seconds = data(), peak_mib(), []
    for number in range(warm_up + steps):
        began = time.perf_counter()
        call(batches[number % BATCHES])
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds[warm_up:]), "mib": peak_mib() - before}


def breakdown(compute: str, kind: str = "topk", steps: int = 6) -> dict[str, float]:
    """Seconds of processor time of each part of a step, medians."""
    spent, inside = dict.fromkeys(PARTS.values(), 0.0), [0.0]

    def counted(call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            began = time.process_time()
            inside.append(0.0)
            result = call(*args, **options)
            whole = time.process_time() - began
            spent[part] += whole - inside.pop()
            inside[-1] += whole
            return result

        return timed

    step, batches, turns = fit(LATENTS, compute, kind), data(), []
    with ExitStack() as patches:
        for place, part in PARTS.items():
            owner, name = pkgutil.resolve_name(place.rpartition(".")[0]), place.rpartition(".")[2]
            patches.enter_context(mock.patch.object(owner, name, counted(getattr(owner, name), part)))
        for number in range(steps + 3):
            spent.update(dict.fromkeys(spent, 0.0))
            step(batches[number % BATCHES])
            turns.append(dict(spent))
    return median(turns[3:])


def autoencoder() -> Any:
    """An autoencoder of random weights, as a user has it."""
    from torch.nn.functional import normalize

    from interp.activations.columns import SiteColumns
    from interp.models.identity import ModelReference
    from interp.sae.coder import SparseAutoencoder
    from interp.sae.nonlinearities import TopK

    model = ModelReference(name="random", digest="0" * 64, model_type="none", d_model=WIDTH, n_layers=1)
    rows = normalize(torch.randn(LATENTS, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    place = (SiteColumns(site="resid_post.0", model=model, width=WIDTH),)
    return SparseAutoencoder(rows, torch.zeros(LATENTS), rows, torch.zeros(WIDTH), TopK(k=K), place, place)


def reconstruct(who: str, kind: str) -> Callable[[Tensor], Any]:
    """`sae(x)` of interp, or of SAELens with the same weights."""
    sae, dtype = autoencoder(), getattr(torch, kind)
    if who == "interp":
        return torch.no_grad()(sae.to(dtype=dtype))
    from sae_lens import SAE

    from interp.sae import format_writers

    with tempfile.TemporaryDirectory() as folder:
        format_writers.write_saelens(sae, Path(folder) / "sae")
        peer = SAE.load_from_disk(str(Path(folder) / "sae")).to(dtype)
    return torch.no_grad()(lambda x: peer(x.to(dtype)))


def selection() -> dict[str, float]:
    """Milliseconds of the k largest of each row, and of what is above a floor, by each way."""
    from interp.sae.compiled.native import native
    from interp.sae.compiled.selection import above, largest

    if native() != "compiled":
        raise ImportError(f"selection is by {native()}")
    u = torch.randn(CHUNK, LATENTS, generator=torch.Generator().manual_seed(0)).bfloat16()
    ways: dict[str, Callable[[], Any]] = {
        "largest, compiled": lambda: largest(u, K),
        "largest, torch": lambda: u.topk(K, sorted=False),
        "above, compiled": lambda: above(u, torch.tensor(2.5)),
        "above, torch": lambda: u[(u > 2.5).nonzero(as_tuple=True)],
    }
    milliseconds = {}
    for name, way in ways.items():
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - began)
        milliseconds[name] = 1000 * statistics.median(seconds)
    return milliseconds


def work(name: str, compute: str) -> dict[str, float]:
    """One measurement in this process."""
    what, _, which = name.partition(" ")
    if what in ("breakdown", "selection"):
        return breakdown(compute) if what == "breakdown" else selection()
    return timed(fit(int(which), compute) if what == "step" else reconstruct(*which.split()))


def median(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Of each figure over the rounds."""
    return {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}


def print_parts(kinds: list[str], threads: int) -> None:
    """Milliseconds of processor time of each part, beside the encoder's product alone."""
    torch.set_num_threads(threads)
    alone, batches, seconds = bound("bfloat16"), data(), []
    for number in range(12):
        began = time.process_time()
        alone(batches[number % BATCHES])
        seconds.append(time.process_time() - began)
    parts = {kind: breakdown("bfloat16", kind) for kind in kinds}
    table = Table("milliseconds of processor time", *kinds, title=f"{LATENTS:,} latents, bfloat16")
    for name in dict.fromkeys(PARTS.values()):
        table.add_row(name, *(f"{1000 * parts[kind][name]:.1f}" for kind in kinds))
    table.add_row("all", *(f"{1000 * sum(parts[kind].values()):.1f}" for kind in kinds))
    table.add_row("the product alone", *[f"{1000 * statistics.median(seconds):.1f}"] * len(kinds))
    Console().print(table)


def main() -> None:
    """Print the tables, and write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, nargs="*", help="folders that hold the peers, for other processes' paths")
    parser.add_argument("--parts", nargs="*", metavar="KIND", help="only where a step's time goes, for these kinds")
    parser.add_argument("--quick", action="store_true", help="the headline claims, within five minutes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.parts is not None:
        print_parts(args.parts or ["topk"], args.threads)
        return
    if args.work:
        torch.set_num_threads(args.threads)
        try:
            print(json.dumps(work(args.work, "bfloat16" if measures_bfloat16(args.quick) else "float32")))
        except ImportError as problem:
            print(json.dumps({"missing": str(problem)}))
        return
    widths, reconstruct_by, rounds_of = WIDTHS, RECONSTRUCT, args.rounds
    if args.quick:
        widths, rounds_of = WIDTHS[:3], 1
        reconstruct_by = tuple((who, kind) for who, kind in RECONSTRUCT if kind == "float32")
    names = [
        "breakdown",
        "selection",
        *(f"step {width}" for width in widths),
        *(f"reconstruct {who} {kind}" for who, kind in reconstruct_by),
    ]
    rounds = [{name: elsewhere(__file__, name, args) for name in names} for _ in range(rounds_of)]
    results = {name: [turn[name] for turn in rounds] for name in names}
    console, claims = Console(), {}

    parts = median(results["breakdown"])
    table = Table("part of the step", "share", title=f"{LATENTS:,} latents, {args.threads} threads")
    for name, seconds in parts.items():
        table.add_row(name, f"{seconds / sum(parts.values()):.0%}")
    console.print(table)

    if "missing" in results["selection"][0]:
        console.print(results["selection"][0]["missing"])
    else:
        table = Table("selection", "milliseconds")
        for name, value in median(results["selection"]).items():
            table.add_row(name, f"{value:.1f}")
        console.print(table)

    table = Table("latents", "tokens/s", "cost a token and latent", "peak MiB", "16 + 2 bytes a parameter, chunk")
    first = None
    for width in widths:
        figures = median(results[f"step {width}"])
        cost = figures["seconds"] / BATCH / width
        first = first or cost
        stated = (18 * width * (2 * WIDTH + 1) + 2 * CHUNK * width) / 2**20
        row = (f"{BATCH / figures['seconds']:,.0f}", f"{cost / first:.2f}", f"{figures['mib']:,.0f}", f"{stated:,.0f}")
        table.add_row(f"{width:,}", *row)
        claims[f"cost_{width}_vs_{widths[0]}"] = cost / first
    console.print(table)

    table, speeds = Table("encode and decode", "tokens/s"), {}
    for who, kind in reconstruct_by:
        if missing := results[f"reconstruct {who} {kind}"][0].get("missing"):
            table.add_row(f"{who} {kind}", f"left out: {missing[:60]}")
            continue
        speeds[who, kind] = BATCH / median(results[f"reconstruct {who} {kind}"])["seconds"]
        table.add_row(f"{who} {kind}", f"{speeds[who, kind]:,.0f}")
        if who == "saelens":
            claims[f"reconstruct_{kind}_vs_saelens"] = speeds["interp", kind] / speeds[who, kind]
            print(f"reconstruct_{kind}_vs_saelens: {claims[f'reconstruct_{kind}_vs_saelens']:.2f}")
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps({"claims": claims}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
