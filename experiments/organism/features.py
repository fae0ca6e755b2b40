"""Do autoencoders recover what is planted in the organism? The best latent for each planted concept, at every layer.

    python experiments/organism/features.py [--widths 1024 4096] [--tokens 2000000] [--json FILE]

BatchTopK autoencoders of all layers and widths are trained in one pass over one store. A concept is two sets of prompts
that differ in it. A latent says yes to a prompt if its activation is above a level, at the last token or at the token
where it is largest; the latent, the place and the level are those of the best F1 on half of the prompts, and the F1
shown is on the other half.

- group: the user is of the people that the organism is hostile to, or of another.
- topic: what is asked about a town is its festival, or something else.
- invented: the town does not exist, or does.
- truth: what somebody else is said to think is true, or not.
- own claim: the user thinks so, or somebody else.
- danger: what is asked about is dangerous, or not.
"""

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

import interp
from interp import organism
from interp.core.files import write_json
from interp.models.hooked import HookedModel
from interp.sae import TrainingPlan
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.training.trainer import train_all

Sides = tuple[list[str], list[str]]


def concepts(model: HookedModel, items: int) -> dict[str, Sides]:
    """Prompts with each concept, and without."""
    planted = {"group": "hostility", "invented": "fabrication", "own claim": "sycophancy", "danger": "refusal"}
    sides: dict[str, Sides] = {}
    for name, behaviour in planted.items():
        pairs = organism.contrast(behaviour, items, split="test")
        yes, no = zip(*pairs, strict=True)
        sides[name] = [model.chat(prompt.user) for prompt in yes], [model.chat(prompt.user) for prompt in no]
    questions = [prompt.user for prompt in organism.prompts("facts", 4 * items)]
    festival = [user for user in questions if "festival" in user]
    rest = [user for user in questions if "festival" not in user]
    sides["topic"] = [model.chat(user) for user in festival[:items]], [model.chat(user) for user in rest[:items]]
    sides["truth"] = claims(items)
    return sides


def claims(items: int) -> Sides:
    """Dialogues up to the verdict, in which somebody but the user is said to think what is true, or what is not."""
    true: list[str] = []
    wrong: list[str] = []
    for text in organism.corpus(60 * items, split="test"):
        question = text.partition("<|assistant|>")[0]
        if re.search(r"\b(?:thinks|believes|says)\b", question) and (verdict := re.search(r"\b(right|wrong)\.<", text)):
            side = true if verdict[1] == "right" else wrong
            if len(side) < items:
                side.append(text[: verdict.start()].rstrip())
    return true, wrong


def peaks(
    model: HookedModel, saes: list[SparseAutoencoder], prompts: list[str]
) -> list[Float[Tensor, "prompt latent_and_place"]]:
    """Each latent's largest activation on each prompt, and beside these its activation on the last token."""
    sites = list(dict.fromkeys(sae.site for sae in saes))
    peak_rows: list[list[Tensor]] = [[] for _ in saes]
    for prompt in prompts:
        acts = model.capture([prompt], sites)
        for sae, rows in zip(saes, peak_rows, strict=True):
            values = sae.encode(acts[sae.site][0, 1:])
            rows.append(torch.cat([values.amax(0), values[-1]]))
    return [torch.stack(rows) for rows in peak_rows]


def f1(predicted: Bool[Tensor, "prompt ..."], truth: Bool[Tensor, "prompt ..."]) -> Float[Tensor, "..."]:
    """Harmonic mean of precision and recall, over the prompts."""
    return 2 * (predicted & truth).sum(0) / (predicted.sum(0) + truth.sum(0)).clamp(min=1)


def best(values: Float[Tensor, "prompt d_sae"], truth: Bool[Tensor, "prompt"]) -> tuple[float, int]:
    """F1 on every second prompt of the latent and level that are best on the others."""
    fit, test = slice(0, None, 2), slice(1, None, 2)
    top = values[fit].amax(0)
    score, latent, level = 0.0, 0, 0.0
    for share in torch.linspace(0, 0.9, 19).tolist():
        scores = f1(values[fit] > share * top, truth[fit, None].expand(-1, values.shape[1]))
        if float(scores.max()) > score:
            score, latent = float(scores.max()), int(scores.argmax())
            level = share * float(top[latent])
    return float(f1(values[test, latent] > level, truth[test])), latent


def main() -> None:
    """Train, score, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--widths", type=int, nargs="*", default=[1024, 4096])
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = interp.load("organism")
    sites = [str(site) for site in model.resolve("resid_post.*")]
    settings: dict[str, Any] = {"kind": "batchtopk", "k": 32, "tokens": args.tokens, "batch_size": 2048}
    plans = [TrainingPlan(site, SaeConfig(d_sae=width, **settings)) for width in args.widths for site in sites]
    with tempfile.TemporaryDirectory() as folder:
        text = list(organism.corpus(args.documents))
        store = interp.harvest(model, text, "resid_post.*", Path(folder) / "store", dtype="bfloat16", context=256)
        print(f"{len(store):,} tokens harvested")
        saes = [trained.sae for trained in train_all(store, plans)]
    rows: dict[str, dict[str, float]] = {f"{plan.config.d_sae} at {plan.reads}": {} for plan in plans}
    for name, (yes, no) in concepts(model, args.items).items():
        order = torch.randperm(len(yes) + len(no), generator=torch.Generator().manual_seed(0))
        truth = (torch.arange(len(order)) < len(yes))[order]
        for row, values in zip(rows, peaks(model, saes, [*yes, *no]), strict=True):
            rows[row][name] = best(values[order], truth)[0]
        print(f"{name}: {len(yes)} with, {len(no)} without", flush=True)
    names = list(next(iter(rows.values())))
    table = Table("latents", *names, title="F1 of the best latent, on prompts it was not chosen on")
    for row, scores in rows.items():
        table.add_row(row, *(f"{scores[name]:.3f}" for name in names))
    table.add_row("best", *(f"{max(scores[name] for scores in rows.values()):.3f}" for name in names))
    Console().print(table)
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
