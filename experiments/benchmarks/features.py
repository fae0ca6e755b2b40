"""The time and memory of a scan of all latents of an autoencoder of the organism, and of a plain loop beside it.

    python experiments/benchmarks/features.py [--tokens 1000000] [--latents 1000] [--k 32] [--json FILE]

The autoencoder has random rows: the cost depends on how many latents fire, not on what they mean. The scan reads the
model's stream. Memory is the highest resident size of the process, less what it had when all was loaded. The plain
loop is one page after the other (`feature_page`) on a fiftieth of the tokens, for three latents: seconds per latent,
times the number of latents and 50.

Claims: `scan_seconds_1k` below 120 for 1,000 latents and a million tokens, `peak_mb` below 1,500. Exit code 1 if a
claim does not hold.
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
from interp.activations import SiteColumns
from interp.features import ScanOptions, scan
from interp.pipeline.materials import corpus_source
from interp.sae import TopK, feature_page

SECONDS, MEMORY = 120.0, 1500.0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="tokens of the organism's text")
    parser.add_argument("--latents", type=int, default=1000, help="width of the autoencoder")
    parser.add_argument("--k", type=int, default=32, help="latents that fire on a token")
    parser.add_argument("--json", type=Path, help="new file for the figures")
    args = parser.parse_args()
    model = interp.load("organism")
    rows = normalize(torch.randn(args.latents, 192, generator=torch.Generator().manual_seed(0)), dim=1)
    place = (SiteColumns(site="resid_post.3", model=model.reference, width=192),)
    zero = torch.zeros(args.latents)
    sae = interp.SparseAutoencoder(rows, zero, rows, torch.zeros(192), TopK(k=args.k), place, place)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        began, processor = time.perf_counter(), time.process_time()
        texts = corpus_source("organism", args.tokens)
        book = scan(sae, model, Path(folder) / "book", ScanOptions(tokens=args.tokens), texts=texts)
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    began = time.perf_counter()
    for latent in range(3):
        feature_page(sae, model, list(corpus_source("organism", 2000)), latent, tokens=args.tokens // 50)
    loop = (time.perf_counter() - began) / 3 * args.latents * 50
    figures = {
        "tokens": args.tokens,
        "tokens_that_count": book.card.tokens,
        "latents": args.latents,
        "k": args.k,
        "scan_seconds_1k": round(seconds, 1),
        "scan_processor_seconds": round(processor, 1),
        "peak_mb": round(peak),
        "plain_loop_seconds_estimated": round(loop),
    }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(seconds >= SECONDS or peak >= MEMORY)


if __name__ == "__main__":
    main()
