"""Transcoders for every layer of a model, trained in one pass over its text, and how well they stand in for the MLPs.

    python experiments/transcoders.py organism --out DIR [--tokens 1500000] [--json FILE]
    python experiments/transcoders.py MODEL --text '../shared/data/text_corpus/*.jsonl' --out DIR [--d-sae 2304]

One transcoder a layer reads the input of the MLP after its norm and writes what the MLP adds to the stream, so that DIR
is what `interp graph MODEL --transcoders DIR` takes. Training continues where it was stopped (DIR/run).

The table gives for each layer, on every tenth document, which was not trained on: the unexplained variance, the latents
that fire per token, and the model's loss with this MLP replaced. Its last row gives the loss with all MLPs replaced at
once. First tokens of documents keep their MLPs.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import interp
from interp import organism
from interp.activations import Stream, pack_rows
from interp.data import texts
from interp.models.losses import next_token_losses
from interp.sae import SaeConfig, SaeMetrics, SparseAutoencoder, TrainingPlan, evaluate, train_all

CONTEXT = 128


def documents(args: argparse.Namespace, held_out: bool) -> list[str]:
    """Every tenth document by its hash, or the others, in a fixed random order."""
    source = organism.corpus(args.tokens // 20) if args.model == "organism" else texts(args.text)
    part = [text for text in source if (int(sha256(text.encode()).hexdigest(), 16) % 10 == 0) == held_out]
    random.Random(0).shuffle(part)
    return part


@contextmanager
def replaced(model: interp.HookedModel, transcoders: Sequence[SparseAutoencoder], inner: Tensor) -> Iterator[None]:
    """A block in which each MLP's output is its transcoder's, but at first tokens."""
    inputs: dict[str, Tensor] = {}

    def read(name: str, x: Tensor) -> None:
        inputs[name] = x

    def write(coder: SparseAutoencoder, x: Tensor) -> Tensor:
        rows = inputs[coder.reads[0].site][inner]
        whole = x.clone()
        whole[inner] = coder(rows).to(x.dtype)
        return whole

    reads = [(coder.reads[0].site, partial(read, coder.reads[0].site)) for coder in transcoders]
    with model.hooked([*reads, *((coder.writes[0].site, partial(write, coder)) for coder in transcoders)]):
        yield


@torch.no_grad()
def replaced_loss(
    model: interp.HookedModel, transcoders: Sequence[SparseAutoencoder], held_out: list[str], tokens: int
) -> float:
    """Mean next-token loss, in nats, with all MLPs replaced at once."""
    packed, total = pack_rows(model, held_out, CONTEXT, tokens), 0.0
    for batch in packed.batches(16):
        with replaced(model, transcoders, batch.inner.to(model.device)):
            logits = model.hf(**batch.model_inputs(model.device), use_cache=False).logits
        total += float(next_token_losses(logits, batch.ids, batch.predicted).sum())
    return total / int(packed.predicted.sum())


def table(metrics: Sequence[SaeMetrics], all_replaced: float, seconds: float) -> Table:
    """One row a layer, and one for all layers."""
    shown = Table("layer", "FVU", "latents per token", "dead", "loss", "loss with the MLP replaced", "with zeros")
    for layer, row in enumerate(metrics):
        losses = (row.loss_clean, row.loss_reconstructed, row.loss_zero)
        cells = (f"{row.fvu:.3f}", f"{row.l0:.1f}", f"{row.dead_share:.1%}", *(f"{loss:.3f}" for loss in losses))
        shown.add_row(str(layer), *cells)
    shown.add_row("all", "", "", "", f"{metrics[0].loss_clean:.3f}", f"{all_replaced:.3f}", "")
    shown.caption = f"trained in {seconds:,.0f} s"
    return shown


def main() -> None:
    """Train, save, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model to load, or organism")
    parser.add_argument("--out", type=Path, required=True, help="folder for layer-0, layer-1 … and the run")
    parser.add_argument("--text", help="corpus to train on; the organism has its own")
    parser.add_argument("--tokens", type=int, default=1_500_000, help="tokens to train on")
    parser.add_argument("--held-out", type=int, default=20_000, help="tokens to measure on")
    parser.add_argument("--d-sae", type=int, default=1024, help="latents per layer")
    parser.add_argument("--k", type=int, default=16, help="latents that fire per token, on average")
    parser.add_argument("--batch-size", type=int, default=1024, help="tokens per step")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    model = interp.load(args.model)
    layers = range(model.cfg.n_layers)
    sites = [f"{kind}.{layer}" for layer in layers for kind in ("mlp_input", "mlp_out")]
    stream = Stream(model, documents(args, held_out=False), sites, context=CONTEXT, pool_tokens=16 * args.batch_size)
    config = SaeConfig(kind="batchtopk", d_sae=args.d_sae, k=args.k, tokens=args.tokens, batch_size=args.batch_size)
    plans = [TrainingPlan(f"mlp_input.{layer}", config, writes=f"mlp_out.{layer}") for layer in layers]
    start = time.monotonic()
    trained = [result.sae for result in train_all(stream, plans, args.out / "run", checkpoint_every=100)]
    seconds = time.monotonic() - start
    held_out = documents(args, held_out=True)
    metrics = [evaluate(sae, model, held_out, tokens=args.held_out, context=CONTEXT) for sae in trained]
    for layer, (sae, row) in enumerate(zip(trained, metrics, strict=True)):
        replace(sae, metrics=row).save(args.out / f"layer-{layer}", overwrite=True)
    all_replaced = replaced_loss(model, trained, held_out, args.held_out)
    Console().print(table(metrics, all_replaced, seconds))
    if args.json:
        figures = {"layers": [row.model_dump() for row in metrics], "all_replaced": all_replaced, "seconds": seconds}
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
