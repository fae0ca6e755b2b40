"""The time and memory of a scan of all latents of an autoencoder of the organism, and of a plain loop beside it.

    python experiments/benchmarks/features.py [--tokens 1000000] [--latents 1000] [--k 32] [--smoke] [--json FILE]
    python experiments/benchmarks/features.py --text 'DIR/*.jsonl' --latents 9216 [--workers 1]

The autoencoder has random rows: the cost depends on how many latents fire, not on what they mean. The scan reads the
model's stream. `scan_seconds_1k` is wall time, so that it needs a core without other work; processor time stands beside
it. Memory is the highest resident size of the process, less what it had when all was loaded.

The plain loop stands for SAEDashboard, which does not install beside this package (0.2.0 needs datasets below 3). It
makes less than a scan does, in the way of such tools: for each 256 latents it passes over all tokens, holds their dense
values, and finds density, histogram, top and stratified examples with context, and promoted tokens. It reads a
twentieth of the tokens, and its time grows with them. Densities of both on the same tokens have to be equal.

With `--text`, a corpus, all latents of an autoencoder of SmolLM2-135M-Instruct are scanned on the tokens of a store: of
the residual stream behind layer 15 of 30, in rows of 256 (`sae_smollm2.py`). Store and autoencoder (BatchTopK, k 32, 40
steps of 4,096 tokens) are kept under `--work` and made where they are missing, which does not count. No loop is beside.

Claims: `scan_seconds_1k` below 120 for 1,000 latents and a million tokens, `peak_mb` below 1,500, `vs_sae_dashboard`
(times that the plain loop takes) above 1; with `--text`, `scan_seconds_9k` below 600 for 9,216. Exit code 1 if a claim
does not hold. `--smoke` reads a few tokens, and only the densities count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet  # noqa: F401  # what is imported counts before
import torch
from torch.nn.functional import normalize

import interp
from interp.activations import SiteColumns, Store, pack_rows
from interp.features import Book, ScanOptions, scan
from interp.models import HookedModel
from interp.models.architectures.unembedding import logit_effect
from interp.pipeline.materials import corpus_source
from interp.sae import TopK

SECONDS, MEMORY, TOGETHER, SHARE, SECONDS_9K = 120.0, 1500.0, 256, 20, 600.0
STEPS = 40
CACHE = Path(__file__).parents[1] / ".cache"
BEFORE, AFTER, TOP, STRATUM = 24, 8, 12, 6


def scanned(sae: interp.SparseAutoencoder, model: interp.HookedModel, tokens: int, folder: str) -> Book:
    """The book of a scan of so many tokens."""
    texts = corpus_source("organism", tokens)
    return scan(sae, model, Path(folder) / f"book{tokens}", ScanOptions(tokens=tokens), texts=texts)


@torch.no_grad()
def plain_loop(sae: interp.SparseAutoencoder, model: interp.HookedModel, tokens: int) -> torch.Tensor:
    """The density of each latent, found with all else that a page needs, some latents at a time."""
    packed, site = pack_rows(model, corpus_source("organism", tokens), 128, tokens), sae.site
    densities = []
    for latents in torch.arange(sae.d_sae).split(TOGETHER):
        parts = []
        for batch in packed.batches(16):
            x = model.forward_to([site], batch.model_inputs(model.device))[site]
            parts.append(sae.encode(x[batch.inner])[:, latents])
        values, ids, effects = torch.cat(parts), packed.ids[packed.inner], logit_effect(model, sae.W_dec[latents])
        for column, effect in zip(values.T, effects, strict=True):
            fires = (column > 0).nonzero().flatten()
            densities.append(len(fires) / len(column))
            if not len(fires):
                continue
            torch.histc(column[fires], 100)
            examples = [column.topk(min(TOP, len(fires))).indices]
            for stratum in column[fires].argsort().tensor_split(4):
                examples.append(fires[stratum[torch.randperm(len(stratum))[:STRATUM]]])
            around = (torch.cat(examples)[:, None] + torch.arange(-BEFORE, AFTER + 1)).clamp(0, len(column) - 1)
            list(map(model.tokenizer.decode, ids[around].tolist()))
            effect.topk(10), effect.topk(10, largest=False)
    return torch.tensor(densities)


def smollm2(text: str, work: Path, tokens: int, latents: int) -> tuple[interp.SparseAutoencoder, HookedModel, Store]:
    """An autoencoder of SmolLM2, with its model and store; what is missing is made."""
    from sae_smollm2 import BATCH, RATE, SITE, Size, model_and_store

    model, store = model_and_store(text, work, Size(tokens=tokens))
    if not (folder := work / f"latents-{latents}").exists():
        config = interp.SaeConfig(
            kind="batchtopk", d_sae=latents, k=32, tokens=STEPS * BATCH, batch_size=BATCH, lr=RATE
        )
        interp.train(store, SITE, config).sae.save(folder)
    return interp.SparseAutoencoder.load(folder, model), model, store


def scan_smollm2(args: argparse.Namespace) -> None:
    """The time and memory of a scan of a store."""
    sae, model, store = smollm2(args.text, args.work, args.tokens, args.latents)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        began, processor = time.perf_counter(), os.times()
        options = ScanOptions(tokens=args.tokens)
        book = scan(sae, store, Path(folder) / "book", options, model=model, workers=args.workers)
        seconds, ended = time.perf_counter() - began, os.times()
        silent = book.query("SELECT count(*) AS n FROM latents WHERE count = 0")[0]["n"]
    figures = {
        "tokens": min(args.tokens, len(store)),
        "tokens_that_count": book.card.tokens,
        "latents": sae.d_sae,
        "silent": silent,
        "workers": args.workers,
        "scan_seconds_9k": round(seconds, 1),
        "scan_processor_seconds": round(sum(ended[:4]) - sum(processor[:4]), 1),
        "peak_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
    }
    report(figures, args.json, seconds < SECONDS_9K)


def report(figures: dict[str, float], file: Path | None, holds: bool) -> None:
    """Print the figures, write them, and end."""
    print(json.dumps(figures, indent=2))
    if file:
        file.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(not holds)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="tokens of the organism's text")
    parser.add_argument("--latents", type=int, default=1000, help="width of the autoencoder")
    parser.add_argument("--k", type=int, default=32, help="latents that fire on a token")
    parser.add_argument("--smoke", action="store_true", help="few tokens and latents, without claims of speed")
    parser.add_argument("--json", type=Path, help="new file for the figures")
    parser.add_argument("--text", help="a corpus: scan an autoencoder of SmolLM2 in place of the organism's")
    parser.add_argument("--work", type=Path, default=CACHE / "scan-smollm2", help="where its store and itself are kept")
    parser.add_argument("--workers", type=int, default=1, help="processes that read and encode, with --text")
    args = parser.parse_args()
    if args.text:
        scan_smollm2(args)
    tokens, latents = (8_000, 100) if args.smoke else (args.tokens, args.latents)
    model = interp.load("organism")
    rows = normalize(torch.randn(latents, 192, generator=torch.Generator().manual_seed(0)), dim=1)
    place = (SiteColumns(site="resid_post.3", model=model.reference, width=192),)
    zero = torch.zeros(latents)
    sae = interp.SparseAutoencoder(rows, zero, rows, torch.zeros(192), TopK(k=args.k), place, place)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        began, processor = time.perf_counter(), time.process_time()
        book = scanned(sae, model, tokens, folder)
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        part = scanned(sae, model, tokens // SHARE, folder)
        began_loop = time.process_time()
        densities = plain_loop(sae, model, tokens // SHARE)
        loop = (time.process_time() - began_loop) * SHARE
        scanned_densities = torch.tensor([row["density"] for row in part.latents()])
    figures = {
        "tokens": tokens,
        "tokens_that_count": book.card.tokens,
        "latents": latents,
        "k": args.k,
        "scan_seconds_1k": round(seconds, 1),
        "scan_processor_seconds": round(processor, 1),
        "peak_mb": round(peak),
        "plain_loop_processor_seconds": round(loop, 1),
        "vs_sae_dashboard": round(loop / processor, 2),
        "largest_gap_of_densities": float((scanned_densities - densities).abs().max()),
    }
    slow = seconds >= SECONDS or peak >= MEMORY or loop <= processor
    report(figures, args.json, figures["largest_gap_of_densities"] <= 1e-6 and (args.smoke or not slow))


if __name__ == "__main__":
    main()
