"""Autoencoders of a real model beside SAELens', trained on the very same activations in the same order.

    PYTHONPATH=DIR python experiments/benchmarks/sae_smollm2.py --text '../shared/data/text_corpus/*.jsonl' \
        [--work experiments/.cache/sae-smollm2] [--only NAME ...] [--json FILE]

SmolLM2-135M-Instruct (`experiments/models.py`), residual stream behind layer 15 of 30, one epoch over 2.1 million
tokens in batches of 4,096; 4,608 latents, k 32. Every tenth document is held out and measures what was learned: L0,
variance unexplained, and the loss of the model with the reconstruction put in.

Learning rates are 3e-3 for ours, which has 510 steps only, and 1e-3 for SAELens', whose decoder rows start with a norm
of 0.1 and so turn faster at the same rate. Neither was searched for more than roughly.

Both are given standardised activations (ours makes them itself); SAELens trains in float32, its default, ours with
products that may be bfloat16. SAELens' JumpReLU has no target for L0: what fires at its penalty is far from k here.
The store and SAELens' autoencoders are kept under --work, and made where they are missing. Needs sae-lens for its rows.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from quick import measures_bfloat16, progress
from rich.console import Console
from rich.table import Table
from sae_quality import on_raw
from torch import Tensor

import interp
from interp.activations.store import Store
from interp.core.files import read_json, write_json
from interp.data.corpora import texts
from interp.models.hooked import HookedModel
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.metrics import evaluate
from interp.sae.training.standardisation import Standardisation
from interp.sae.training.trainer import train

SITE, BATCH, LATENTS, K = "resid_post.15", 4096, 4608, 32
KINDS = ("topk", "batchtopk", "jumprelu")
# SAELens' penalty of JumpReLU.
COEFFICIENT = 5.0
RATE, THEIR_RATE = 3e-3, 1e-3
MODEL = Path(__file__).parents[1] / ".cache" / "smollm2-135m-instruct"


@dataclass(frozen=True)
class Size:
    """How much is harvested, trained and measured, and in which type."""

    tokens: int = 2_100_000
    steps: int = 510
    held_out: int = 40_000
    dtype: str = "bfloat16"
    kinds: tuple[str, ...] = KINDS

    @classmethod
    def quick(cls) -> Size:
        """One kind, a few steps: who is ahead, not by how much."""
        dtype = "bfloat16" if measures_bfloat16(quick=True) else "float32"
        return cls(tokens=16_384, steps=40, held_out=2_000, dtype=dtype, kinds=KINDS[:1])


def documents(pattern: str, held_out: bool) -> list[str]:
    """Every tenth document by its hash, or the others, in a fixed random order."""
    part = [text for text in texts(pattern) if (int(sha256(text.encode()).hexdigest(), 16) % 10 == 0) == held_out]
    random.Random(0).shuffle(part)
    return part


def batches(store: Store) -> Iterator[Tensor]:
    """What everybody trains on."""
    return store.batches(SITE, BATCH, seed=0, first_tokens=False)


def ours(kind: str, store: Store, size: Size) -> SparseAutoencoder:
    """interp's, with its own schedule."""
    settings: dict[str, Any] = {"d_sae": LATENTS, "k": K, "batch_size": BATCH, "lr": RATE}
    settings |= {"tokens": size.steps * BATCH, "compute": size.dtype}
    return train(store, SITE, SaeConfig(kind=kind, **settings)).sae


def saelens(kind: str, store: Store, size: Size) -> SparseAutoencoder:
    """SAELens', by its trainer."""
    from sae_lens import saes
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    scaling = Standardisation.of(islice(batches(store), 16))
    options = {"l0_coefficient": COEFFICIENT} if kind == "jumprelu" else {"k": K}
    name = {"topk": "TopK", "batchtopk": "BatchTopK", "jumprelu": "JumpReLU"}[kind]
    width = store.width(SITE)
    sae = getattr(saes, f"{name}TrainingSAE")(
        getattr(saes, f"{name}TrainingSAEConfig")(d_in=width, d_sae=LATENTS, **options)
    )
    settings = SAETrainerConfig(
        total_training_samples=size.steps * BATCH,
        train_batch_size_samples=BATCH,
        lr=THEIR_RATE,
        lr_end=1e-4,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(settings, sae, map(scaling, batches(store))).fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return on_raw(SparseAutoencoder.load(folder, store.model, SITE), scaling)


def trained(who: str, kind: str, store: Store, work: Path, size: Size) -> tuple[SparseAutoencoder, float]:
    """An autoencoder and the seconds it took; SAELens' are kept."""
    folder = work / f"{who}-{kind}"
    if folder.exists():
        return SparseAutoencoder.load(folder), read_json(work / f"{who}-{kind}.json")
    began = time.perf_counter()
    sae = {"interp": ours, "SAELens": saelens}[who](kind, store, size)
    seconds = time.perf_counter() - began
    if who == "SAELens":
        sae.save(folder)
        write_json(work / f"{who}-{kind}.json", seconds)
    return sae, seconds


def model_and_store(pattern: str, work: Path, size: Size) -> tuple[HookedModel, Store]:
    """The model, and its activations."""
    model = interp.load(MODEL, dtype=size.dtype)
    settings: dict[str, Any] = {"tokens": size.tokens, "context": 256, "batch_size": 16, "dtype": size.dtype}
    return model, interp.harvest(model, documents(pattern, False), [SITE], work / "store", **settings)


def main() -> None:
    """Train what is missing, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="a corpus of 3 million tokens or so")
    parser.add_argument("--work", type=Path, default=MODEL.parent / "sae-smollm2")
    parser.add_argument("--only", nargs="*", default=[], help="contenders whose name begins so")
    parser.add_argument("--tokens", type=int, help="held-out tokens to measure on (default: 40,000)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the headline claims, within five minutes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size, folder = (Size.quick(), args.work / "quick") if args.quick else (Size(), args.work)
    progress("the harvest, made where it is missing")
    model, store = model_and_store(args.text, folder, size)
    held_out, rows = documents(args.text, True), {}
    for who in ("interp", "SAELens"):
        for kind in size.kinds:
            if args.only and not f"{who} {kind}".startswith(tuple(args.only)):
                continue
            progress(f"{who} {kind}")
            sae, seconds = trained(who, kind, store, folder, size)
            metrics = evaluate(sae, model, held_out, tokens=args.tokens or size.held_out, context=256)
            rows[f"{who} {kind}"] = {
                "L0": metrics.l0,
                "FVU": metrics.fvu,
                "loss recovered": metrics.loss_recovered,
                "dead": metrics.dead_share,
                "seconds": seconds,
            }
            print(f"{who} {kind}", json.dumps(rows[f"{who} {kind}"]), flush=True)
    table = Table("who", "L0", "FVU", "loss recovered", "dead", "seconds", title=f"{LATENTS} latents at {SITE}")
    for name, row in rows.items():
        shown = (f"{row['L0']:.1f}", f"{row['FVU']:.3f}", f"{row['loss recovered']:.4f}", f"{row['dead']:.1%}")
        table.add_row(name, *shown, f"{row['seconds']:,.0f}")
    Console().print(table)
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
