"""Activation patching against TransformerLens on its bridge: the same numbers, and how much sooner.

    python experiments/benchmarks/patching.py [--threads 2] [--rounds 1] [--cells 0] [--json FILE]

SmolLM2-135M-Instruct (`experiments/models.py smollm2`) in float32, 16 pairs of one length that differ in a name. Every
layer and position of the residual stream, and every head at all positions. TransformerLens runs the whole model once
per place; with `--cells N` it runs N places, drawn at random, and its time is scaled up. The pairs differ first at the
end of the first quarter of their tokens, and no place is left out for being equal in both runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from quick import progress
from rich.console import Console
from rich.table import Table
from transformer_lens import patching

import interp
from interp.attribution import ComparedPairs, Comparison, LogitDifference, patch
from interp.core.files import write_json
from interp.models.hooked import HookedModel

MODEL = Path(__file__).parents[1] / ".cache" / "smollm2-135m-instruct"
NAMES = (
    "Mary",
    "John",
    "Tom",
    "James",
    "Anna",
    "Paul",
    "Sarah",
    "Peter",
    "Mark",
    "Jane",
    "David",
    "Emma",
    "Jack",
    "Kate",
)
TEXT = "On Sunday in town, {0} and {1} went to the old store in the middle of it, and {1} gave a bottle of milk to"


def pairs_of(model: HookedModel, count: int = 16) -> ComparedPairs:
    """Pairs in which the name of who is given something differs, and with it the answer."""
    short = [name for name in NAMES if model.tokens(f" {name}").ids.shape == model.tokens(" the").ids.shape]
    size = len(short)
    triples = [[short[(n * step + shift) % size] for shift in (0, 1, 3)] for step in (1, 3) for n in range(size)][
        :count
    ]
    clean, corrupt = ([TEXT.format(triple[side], triple[1]) for triple in triples] for side in (0, 2))
    metric = LogitDifference([f" {triple[0]}" for triple in triples], [f" {triple[2]}" for triple in triples])
    return Comparison(clean, corrupt, metric).on(model)


def theirs(model: HookedModel, pairs: ComparedPairs, kind: str, cells: list[tuple[int, int]]) -> torch.Tensor:
    """TransformerLens' values of some places, (place, batch)."""
    values = []

    def metric(logits: torch.Tensor) -> torch.Tensor:
        values.append(pairs.metric(logits[None, :, -1])[0])
        return values[-1].mean()

    setter, name, axis = {
        "resid": (patching.layer_pos_patch_setter, "resid_pre", "pos"),
        "heads": (patching.layer_head_vector_patch_setter, "z", "head"),
    }[kind]
    index = pd.DataFrame(cells, columns=["layer", axis])
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(pairs.clean.ids, names_filter=lambda hook: hook.endswith(f"hook_{name}"))
        patching.generic_activation_patch(model.bridge, pairs.corrupt.ids, cache, metric, setter, name, index_df=index)
    return torch.stack(values[-len(cells) :])


def ours(model: HookedModel, pairs: ComparedPairs, kind: str) -> torch.Tensor:
    """The values of all places, (layer, place, batch)."""
    sites, by = {"resid": ("resid_pre.*", "position"), "heads": ("z.*", "head")}[kind]
    return patch(model, pairs, sites, by=by).values


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Of one call, and what it returns."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cells", type=int, default=0, help="places that TransformerLens runs; 0 for all")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    model = interp.load(args.model, dtype="float32")
    pairs, claims, gaps = pairs_of(model), {}, []
    first = int((pairs.clean.ids != pairs.corrupt.ids).any(0).int().argmax())
    width = pairs.clean.ids.shape[1]
    table = Table("places", "TransformerLens, s", "interp, s", "ratio", "largest difference")
    for kind, places in (("resid", width), ("heads", model.config.num_attention_heads)):
        every = [(layer, place) for layer in range(model.n_layers) for place in range(places)]
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[: args.cells or len(every)]
        cells = [every[int(number)] for number in order]
        theirs(model, pairs, kind, cells[:1])
        times, found = [], torch.empty(0)
        for number in range(args.rounds):
            progress(f"{kind}, round {number + 1}")
            fast, values = seconds(lambda kind=kind: ours(model, pairs, kind))
            slow, found = seconds(lambda kind=kind, cells=cells: theirs(model, pairs, kind, cells))
            times.append((slow * len(every) / len(cells), fast))
        gaps.append(float((found - torch.stack([values[cell] for cell in cells])).abs().max()))
        ratio = statistics.median(slow / fast for slow, fast in times)
        claims[f"{kind}_vs_tl"] = ratio
        middle = [f"{statistics.median(column):.1f}" for column in zip(*times, strict=True)]
        table.add_row(
            f"{kind}, {len(every)} ({len(cells)} by TransformerLens)", *middle, f"{ratio:.2f}", f"{gaps[-1]:.1e}"
        )
    estimate = patch(model, pairs, "resid_pre.*", method="integrated", steps=4)
    claims |= {
        "max_difference": max(gaps),
        "attribution_spearman": estimate.agreement.spearman if estimate.agreement else 0.0,
    }
    Console().print(table)
    print(f"{len(pairs)} pairs of {width} tokens, which differ first at token {first}; {estimate}")
    if args.json:
        write_json(args.json, {"claims": claims, "tokens": width, "first_difference": first, "threads": args.threads})


if __name__ == "__main__":
    main()
