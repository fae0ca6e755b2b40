"""What a recipe costs while a model writes: tokens a second with hooks against the plain model's.

    python experiments/benchmarks/generate.py [--threads 1] [--rounds 5] [--batch 1 8] [--dtype float32] [--json FILE]

SmolLM2-135M-Instruct (`experiments/models.py`), 61 writers; each recipe takes turns with the plain model, and the
median of the rounds' ratios is shown. Greedy, 32 new tokens behind prompts of different lengths.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from quick import progress
from rich.console import Console
from rich.table import Table

import interp
from interp.core.files import write_json
from interp.interventions import Add, At, Gate, Project, Reads, Recipe
from interp.models.hooked import HookedModel

MODEL = Path(__file__).parents[1] / ".cache" / "smollm2-135m-instruct"
NEW = 32
TEXT = "The river runs past the old mill and the town that grew around it over many years"


def recipes(model: HookedModel) -> dict[str, Recipe]:
    """What is measured."""
    row = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    middle = f"resid_post.{model.n_layers // 2}"
    gate = Gate(Add(row), Reads(row, 0.0), site=f"resid_post.{model.n_layers // 2 - 1}")
    return {
        "project at every writer": Recipe([("writers", Project(row))]),
        "add at one layer": Recipe([(middle, Add(row))]),
        "add to what is generated": Recipe([(middle, At(Add(row), "generated"))]),
        "gated by sequence": Recipe([(middle, gate)]),
    }


def seconds(model: HookedModel, prompts: list[str], recipe: Recipe | tuple[()]) -> float:
    """Of one generation."""
    began = time.perf_counter()
    model.generate(prompts, recipe, max_new_tokens=NEW, min_new_tokens=NEW)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--quick", action="store_true", help="the headline claims, within five minutes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.rounds, args.batch = 2, args.batch[:1]
    model, rows = interp.load(MODEL, dtype=args.dtype), {}
    table = Table("batch", "recipe", "tokens/s", "of the plain model's", title=f"Generation, {args.dtype}")
    for batch in args.batch:
        prompts = [" ".join(TEXT.split()[: 4 + number % 12]) for number in range(batch)]
        seconds(model, prompts, ())
        for name, recipe in recipes(model).items():
            progress(f"{name}, batch {batch}")
            times = [(seconds(model, prompts, ()), seconds(model, prompts, recipe)) for _ in range(args.rounds)]
            ratio = statistics.median(plain / hooked for plain, hooked in times)
            speed = batch * NEW / statistics.median(hooked for _, hooked in times)
            rows[f"{name}, batch {batch}"] = {"tokens_per_second": speed, "of_plain": ratio}
            table.add_row(str(batch), name, f"{speed:.0f}", f"{ratio:.3f}")
    Console().print(table)
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
