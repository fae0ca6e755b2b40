"""Autoencoders of a real model beside SAELens', trained on the very same activations in the same order.

    PYTHONPATH=DIR python experiments/benchmarks/sae_smollm2.py --text '../shared/data/text_corpus/*.jsonl' \
        [--work experiments/.cache/sae-smollm2] [--only NAME ...] [--curves] [--json FILE]

SmolLM2-135M-Instruct (`experiments/models.py`), residual stream after layer 15 of 30, 1,048,576 tokens once in batches
of 2,048; 4,096 latents, k 32. The text is textbooks, novels, Python's enhancement proposals, presidential addresses and
passages of an encyclopaedia. Every tenth document is held out and measures what was learned, as the reconstruction part
of `interp sae bench` does: L0, variance unexplained, and the loss of the model with the reconstruction put in, between
that of the plain model and that with zeros, or with the mean, in its place.

`--curves` trains BatchTopK alone, at three widths and three k, on 3,145,728 tokens once: nearly all the text there is.

Learning rates are 3e-3 for ours (at 4,096 latents; by the inverse root of the width at others), which has few steps,
and 1e-3 for SAELens', whose decoder rows start with a norm of 0.1 and so turn faster at the same rate. Neither was
searched for more than roughly. SAELens' JumpReLU has its quadratic penalty with the same target of L0.

Both are given standardised activations (ours makes them itself). Products may be in bfloat16 in both (SAELens'
autocast). The store and the autoencoders are kept under --work, and made where they are missing; figures are added to
those in the JSON file. Needs sae-lens for its rows.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from quick import progress
from rich.console import Console
from rich.table import Table
from sae_quality import on_raw
from torch import Tensor

import interp
from interp.activations import pack_rows
from interp.activations.store import Store
from interp.auditing.autoencoders.reconstruction import reconstruction_measures
from interp.core.files import read_json, write_json
from interp.data.corpora import texts
from interp.models.hooked import HookedModel
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.training.bundle import TrainingPlan
from interp.sae.training.standardisation import Standardisation
from interp.sae.training.trainer import train_all

SITE, BATCH, LATENTS, K = "resid_post.15", 2048, 4096, 32
PREFIXES = (256, 512, 1024, 2048, LATENTS)
KINDS = ("batchtopk", "matryoshka", "jumprelu", "topk")
WIDTHS, KS = (2048, 4096, 9216), (16, 32, 64)
RATE, THEIR_RATE = 3e-3, 1e-3
MODEL = Path(__file__).parents[1] / ".cache" / "smollm2-135m-instruct"


@dataclass(frozen=True)
class Size:
    """How much is harvested, trained and measured."""

    tokens: int = 3_200_000
    steps: int = 512
    curve_steps: int = 1_536
    held_out: int = 3_000
    kinds: tuple[str, ...] = KINDS

    @classmethod
    def quick(cls) -> Size:
        """One kind, a few steps: who is ahead, not by how much."""
        return cls(tokens=16_384, steps=40, held_out=2_000, kinds=KINDS[:1])


def documents(pattern: str, held_out: bool) -> list[str]:
    """Every tenth document by its hash, or the others, in a fixed random order."""
    part = [text for text in texts(pattern) if (int(sha256(text.encode()).hexdigest(), 16) % 10 == 0) == held_out]
    random.Random(0).shuffle(part)
    return part


def batches(store: Store) -> Iterator[Tensor]:
    """What everybody trains on."""
    return store.batches(SITE, BATCH, seed=0, first_tokens=False)


def ours(kind: str, size: Size, latents: int = LATENTS, k: int = K) -> TrainingPlan:
    """interp's, with its own schedule."""
    settings: dict[str, Any] = {"d_sae": latents, "k": k, "batch_size": BATCH, "lr": RATE * (LATENTS / latents) ** 0.5}
    settings |= {"tokens": size.steps * BATCH, "compute": "bfloat16"}
    more = {"kind": "batchtopk", "prefixes": PREFIXES} if kind == "matryoshka" else {"kind": kind}
    return TrainingPlan(SITE, SaeConfig(**settings, **more))


def curve(size: Size, latents: int, k: int) -> TrainingPlan:
    """BatchTopK on nearly all the text."""
    return ours("batchtopk", replace(size, steps=size.curve_steps), latents, k)


def saelens(kind: str, store: Store, size: Size) -> SparseAutoencoder:
    """SAELens', by its trainer."""
    from sae_lens import saes
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    scaling = Standardisation.of(islice(batches(store), 16))
    name, options = {
        "topk": ("TopK", {"k": K}),
        "batchtopk": ("BatchTopK", {"k": K}),
        "matryoshka": ("MatryoshkaBatchTopK", {"k": K, "matryoshka_widths": list(PREFIXES)}),
        "jumprelu": ("JumpReLU", {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": K}),
    }[kind]
    width = store.width(SITE)
    sae = getattr(saes, f"{name}TrainingSAE")(
        getattr(saes, f"{name}TrainingSAEConfig")(d_in=width, d_sae=LATENTS, **options)
    )
    settings = SAETrainerConfig(
        total_training_samples=size.steps * BATCH,
        train_batch_size_samples=BATCH,
        lr=THEIR_RATE,
        lr_end=1e-4,
        autocast=True,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(settings, sae, map(scaling, batches(store))).fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return on_raw(SparseAutoencoder.load(folder, store.model, SITE), scaling)


def trained(names: list[str], store: Store, work: Path, size: Size) -> dict[str, SparseAutoencoder]:
    """Autoencoders by name; those that are under the folder are read."""
    folders = {name: work / name.replace(" ", "-") for name in names}
    missing = [name for name in names if not folders[name].exists()]
    plans = {name: PLANS[name](size) for name in missing if name in PLANS}
    if plans:
        progress(f"training {', '.join(plans)} in one pass")
        for name, result in zip(plans, train_all(store, list(plans.values())), strict=True):
            print(name, "L0 in training", [round(point.l0, 1) for point in result.history[-3:]], flush=True)
            result.sae.save(folders[name])
    for name in (name for name in missing if name not in PLANS):
        progress(name)
        saelens(name.split()[1], store, size).save(folders[name])
    return {name: SparseAutoencoder.load(folder) for name, folder in folders.items()}


PLANS: dict[str, Callable[[Size], TrainingPlan]] = {f"interp {kind}": partial(ours, kind) for kind in KINDS}
PLANS |= {f"interp batchtopk {width} k {k}": partial(curve, latents=width, k=k) for width in WIDTHS for k in KS}


def model_and_store(pattern: str, work: Path, size: Size) -> tuple[HookedModel, Store]:
    """The model, and its activations."""
    model = interp.load(MODEL, dtype="bfloat16")
    settings: dict[str, Any] = {"tokens": size.tokens, "context": 256, "batch_size": 16, "dtype": "bfloat16"}
    return model, interp.harvest(model, documents(pattern, False), [SITE], work / "store", **settings)


def main() -> None:
    """Train what is missing, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="a corpus of a million tokens or more")
    parser.add_argument("--work", type=Path, default=MODEL.parent / "sae-smollm2")
    parser.add_argument("--curves", action="store_true", help="BatchTopK at three widths and three k")
    parser.add_argument("--only", nargs="*", default=[], help="contenders whose name begins so")
    parser.add_argument("--tokens", type=int, help="held-out tokens to measure on (default: 4,000)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the headline claims, within five minutes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size, folder = (Size.quick(), args.work / "quick") if args.quick else (Size(), args.work)
    progress("the harvest, made where it is missing")
    model, store = model_and_store(args.text, folder, size)
    names = [f"{who} {kind}" for who in ("interp", "SAELens") for kind in size.kinds]
    names = [name for name in PLANS if name not in names] if args.curves else names
    names = [name for name in names if not args.only or name.startswith(tuple(args.only))]
    figures: dict[str, dict[str, float]] = read_json(args.json) if args.json and args.json.exists() else {}
    if missing := [name for name in names if name not in figures]:
        saes = trained(missing, store, folder, size)
        progress("held-out text")
        rows = pack_rows(model, documents(args.text, True), 256, args.tokens or size.held_out)
        for name, scores in reconstruction_measures(saes, model, rows).items():
            figures[name] = {key: sum(values) / len(values) for key, values in scores.items()}
            print(name, json.dumps(figures[name]), flush=True)
    if args.json:
        write_json(args.json, figures)
    keys = list(next(iter(figures.values())))
    steps = size.curve_steps if args.curves else size.steps
    table = Table("who", *keys, title=f"SmolLM2, {SITE}, {steps * BATCH:,} tokens")
    for name in (name for name in names if name in figures):
        table.add_row(name, *(f"{figures[name][key]:.4f}" for key in keys))
    Console().print(table)


if __name__ == "__main__":
    main()
