"""The time and memory of a scan of all latents of an autoencoder of the organism, and of a plain loop beside it.

    python experiments/benchmarks/features.py [--tokens 1000000] [--latents 1000] [--k 32] [--smoke] [--json FILE]

The autoencoder has random rows: the cost depends on how many latents fire, not on what they mean. The scan reads the
model's stream. `scan_seconds_1k` is wall time, so that it needs a core without other work; processor time stands beside
it. Memory is the highest resident size of the process, less what it had when all was loaded.

The plain loop stands for SAEDashboard, which does not install beside this package (0.2.0 needs datasets below 3). It
makes less than a scan does, in the way of such tools: for each 256 latents it passes over all tokens, holds their dense
values, and finds density, histogram, top and stratified examples with context, and promoted tokens. It reads a
twentieth of the tokens, and its time grows with them. Densities of both on the same tokens have to be equal.

Claims: `scan_seconds_1k` below 120 for 1,000 latents and a million tokens, `peak_mb` below 1,500, `vs_sae_dashboard`
(times that the plain loop takes) above 1. Exit code 1 if a claim does not hold. `--smoke` reads a few tokens, and only
the densities count.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet  # noqa: F401  # what is imported counts before
import torch
from torch.nn.functional import normalize

import interp
from interp.activations import SiteColumns, pack_rows
from interp.features import Book, ScanOptions, scan
from interp.models.architectures.unembedding import logit_effect
from interp.pipeline.materials import corpus_source
from interp.sae import TopK

SECONDS, MEMORY, TOGETHER, SHARE = 120.0, 1500.0, 256, 20
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="tokens of the organism's text")
    parser.add_argument("--latents", type=int, default=1000, help="width of the autoencoder")
    parser.add_argument("--k", type=int, default=32, help="latents that fire on a token")
    parser.add_argument("--smoke", action="store_true", help="few tokens and latents, without claims of speed")
    parser.add_argument("--json", type=Path, help="new file for the figures")
    args = parser.parse_args()
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
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    slow = seconds >= SECONDS or peak >= MEMORY or loop <= processor
    sys.exit(figures["largest_gap_of_densities"] > 1e-6 or (slow and not args.smoke))


if __name__ == "__main__":
    main()
