"""How interp keeps up on an accelerator: one prepared script, for a machine that is lent for some minutes.

    python experiments/benchmarks/gpu.py [--device cuda] [--model DIR] [--json FILE]

1. The step of an autoencoder's training (TopK, width 4,096, 65,536 latents, k 64, 8,192 activations, bfloat16), as a
   share of the encoder's product alone.
2. A harvest with its store, against the plain model cut behind that layer, on the same rows.
3. Generation with a hook at every layer, and under a projection at every writer, against the plain model's.
4. Multiple choice, questions a second.
5. Against the CPU, in float32: the residual stream of every layer, the loss after ten steps of training, and the
   answers' scores.

Contenders take turns after one warm-up, the device is synchronised around each, and figures are medians. `--device cpu
--smoke` runs the same on the bundled organism with small sizes, which shows that the script works and nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from quick import progress
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import linear

import interp
from interp import organism
from interp.activations.token_rows import pack_rows
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae.config import SaeConfig
from interp.sae.training.state import TrainingState

MODEL = Path(__file__).parents[1] / ".cache" / "qwen2.5-coder-0.5b-instruct"
STEPS = 10


def turns(device: str, contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, work in contenders.items():
            synchronise(device)
            began = time.perf_counter()
            work()
            synchronise(device)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronise(device: str) -> None:
    """Wait for what the device has to do."""
    if device != "cpu":
        torch.accelerator.synchronize(device)


def training(device: str, compute: str, width: int, latents: int, batch: int) -> TrainingState:
    """A trainer in its first state."""
    settings = SaeConfig(kind="topk", d_sae=latents, k=64 if latents > 4096 else 8, batch_size=batch, compute=compute,
                         tokens=batch * 100, seed=0)  # fmt: skip
    return TrainingState(settings, width, device=device)


def activations(width: int, batch: int) -> list[Tensor]:
    """Batches on the CPU, which are the same for every device."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, width, generator=generator) for _ in range(4)]


def sae_step(device: str, smoke: bool) -> dict[str, Callable[[], Any]]:
    """The step, and the encoder's product."""
    width, latents, batch = (64, 512, 128) if smoke else (4096, 65_536, 8192)
    fit = training(device, "bfloat16", width, latents, batch)
    batches = [each.to(device) for each in activations(width, batch)]
    rows = torch.randn(latents, width, device=device, dtype=torch.bfloat16)
    return {
        "encoder's product": lambda: [linear(each.to(rows.dtype), rows) for each in batches],
        "training step": lambda: [fit.update(each, 100) for each in batches],
    }


def harvest(model: HookedModel, folder: Path, texts: list[str]) -> dict[str, Callable[[], Any]]:
    """A harvest with its store, and the bare forward passes as far as its layer."""
    site, names = f"resid_post.{model.n_layers // 2}", iter(range(1000))
    rows = pack_rows(model, texts, 128)

    @torch.no_grad()
    def bare() -> None:
        for batch in rows.batches(16):
            model.forward_to([Site("resid_post", model.n_layers // 2)], batch.model_inputs(model.device))

    return {"bare": bare, "harvest": lambda: interp.harvest(model, texts, site, folder / str(next(names)))}


def generation(model: HookedModel, tokens: int) -> dict[str, Callable[[], Any]]:
    """Greedy replies of one length."""
    prompts = [model.render(f"Tell me about the number {number}.") for number in range(16)]
    batch = model.tokens(prompts)
    inputs = {
        name: x.to(model.device) for name, x in {"input_ids": batch.ids, "attention_mask": batch.mask.long()}.items()
    }
    length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    recipe = interp.Recipe([("writers", interp.Project(torch.randn(1, model.d_model)))])
    hooks = [(f"resid_post.{layer}", lambda x: None) for layer in range(model.n_layers)]
    return {
        "plain": torch.no_grad()(lambda: model.hf.generate(**inputs, do_sample=False, **length)),
        "a hook at every layer": lambda: model.generate(prompts, hooks, **length),
        "projections at every writer": lambda: model.generate(prompts, recipe, **length),
    }


def questions(count: int) -> tuple[list[str], list[list[str]], list[int]]:
    """Sums with four answers."""
    asked = [(number % 17, number % 13) for number in range(count)]
    answers = [[f" {x + y + more}." for more in range(4)] for x, y in asked]
    return [f"The sum of {x} and {y} is" for x, y in asked], answers, [0] * count


def sums(count: int) -> interp.auditing.Behaviour:
    """Multiple choice of sums."""
    prompts, answers, gold = questions(count)
    statement = "the right sum is the likeliest answer"
    return interp.auditing.choice("sums", "capability", statement, prompts, answers, gold, unit="margin", chat=False)


def gaps(folder: str, device: str, model: HookedModel) -> dict[str, float]:
    """The largest differences from the CPU, each over the largest value there."""
    plain, sites = interp.load(folder, dtype="float32"), [f"resid_post.{n}" for n in range(model.n_layers)]
    moved = interp.load(folder, dtype="float32", device=device)
    texts = ["The river runs past the old mill.", "Seven and five is twelve."]
    here, there = (each.capture(texts, sites, chat=False) for each in (plain, moved))
    found = {"residual stream": max(relative(here[site], there[site]) for site in sites)}
    losses = []
    for place in ("cpu", device):
        fit = training(place, "float32", 64, 512, 128)
        batches = [each.to(place) for each in activations(64, 128)]
        losses.append(torch.tensor([float(fit.update(batches[n % 4], 100).loss) for n in range(STEPS)]))
    found["loss of training"] = relative(*losses)
    scored = (torch.tensor(sums(32).scores(each).values) for each in (plain, moved))
    return found | {"scores of answers": relative(*scored)}


def relative(x: Tensor, y: Tensor) -> float:
    """The largest difference over the largest value."""
    return float((x.cpu() - y.cpu()).abs().max() / x.abs().max())


def main() -> None:
    """Print the table, and write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="the bundled organism and small sizes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder, repeats = ("organism", 1) if args.smoke else (str(args.model), args.repeats)
    dtype = "float32" if args.smoke else "bfloat16"
    table, claims = Table("what", "who", "seconds", "ratio"), {}

    def compared(name: str, contenders: dict[str, Callable[[], Any]]) -> None:
        progress(name)
        times = turns(args.device, contenders, repeats)
        limit, *others = times
        table.add_row(name, limit, f"{times[limit]:.4f}", "")
        for who in others:
            claims[f"{name}, {who}"] = times[limit] / times[who]
            table.add_row(name, who, f"{times[who]:.4f}", f"{times[limit] / times[who]:.2f}")

    compared("autoencoder", sae_step(args.device, args.smoke))
    progress("the model is loaded")
    model = interp.load(folder, dtype=dtype, device=args.device)
    texts = list(organism.corpus(64 if args.smoke else 2000))
    with tempfile.TemporaryDirectory() as scratch:
        compared("harvest", harvest(model, Path(scratch), texts))
    compared("generation", generation(model, 8 if args.smoke else 64))
    progress("multiple choice")
    asked = sums(32 if args.smoke else 512)
    seconds = turns(args.device, {"sums": lambda: asked.scores(model)}, repeats)["sums"]
    claims["questions a second"] = len(asked) / seconds
    table.add_row("multiple choice", f"{claims['questions a second']:.0f} questions a second", f"{seconds:.4f}", "")
    progress("against the CPU")
    for name, gap in gaps(folder, args.device, model).items():
        claims[f"gap, {name}"] = gap
        table.add_row("against the CPU", name, "", f"{gap:.1e}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"claims": claims}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
