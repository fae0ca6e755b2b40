"""How fast autoencoders train, against SAELens, sparsify, dictionary_learning and the encoder's product alone.

    python experiments/benchmarks/sae_train.py [--threads 2] [--rounds 3] [--peers DIR] [--json FILE]

Width 576, 9,216 latents, k 32, batches of 4,096 activations that are in memory. Each contender trains in a process of
its own, and processes take turns, so that noise of the machine falls on all; figures are medians over the rounds of
each process's median step. Memory is the peak over what the process held before the trainer was made, data included.

Peers run their own trainers with their defaults: SAELens its SAETrainer (float32, and with autocast to bfloat16),
dictionary_learning its trainers' `update`, sparsify its coder under the loss and the optimiser of its trainer (signum).
They are imported from --peers, a folder made with `pip install --no-deps --target DIR sae-lens eai-sparsify
dictionary-learning` and what they ask for, where their pins clash with ours; those that can't be imported are left out,
and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from quick import measures_bfloat16, progress
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import linear, normalize

WIDTH, LATENTS, K, BATCH = 576, 9216, 32, 4096
BATCHES, WARM_UP, STEPS = 4, 2, 4

CONTENDERS = (
    "bound bfloat16",
    "bound float32",
    "interp topk bfloat16",
    "interp topk float32",
    "interp batchtopk bfloat16",
    "interp jumprelu bfloat16",
    "interp standard bfloat16",
    "interp gated bfloat16",
    "saelens topk float32",
    "saelens topk autocast",
    "saelens batchtopk float32",
    "saelens jumprelu float32",
    "saelens standard float32",
    "saelens gated float32",
    "dictionary_learning topk float32",
    "sparsify topk float32",
)
# Each claim: ours, theirs.
CLAIMS = {
    "topk_bf16_vs_saelens": ("interp topk bfloat16", "saelens topk float32"),
    "topk_bf16_vs_saelens_autocast": ("interp topk bfloat16", "saelens topk autocast"),
    "topk_fp32_vs_saelens": ("interp topk float32", "saelens topk float32"),
    "batchtopk_vs_saelens": ("interp batchtopk bfloat16", "saelens batchtopk float32"),
    "jumprelu_vs_saelens": ("interp jumprelu bfloat16", "saelens jumprelu float32"),
    "standard_vs_saelens": ("interp standard bfloat16", "saelens standard float32"),
    "gated_vs_saelens": ("interp gated bfloat16", "saelens gated float32"),
    "vs_dictionary_learning": ("interp topk bfloat16", "dictionary_learning topk float32"),
    "vs_sparsify": ("interp topk bfloat16", "sparsify topk float32"),
    "of_gemm_bound": ("interp topk bfloat16", "bound bfloat16"),
}

Trainer = Callable[[Tensor], Any]


def data() -> list[Tensor]:
    """Batches of sparse sums of random directions, standardised."""
    generator = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(4000, WIDTH, generator=generator), dim=1)
    batches = []
    for _ in range(BATCHES):
        active = torch.randint(0, 4000, (BATCH, 40), generator=generator)
        x = torch.zeros(BATCH, 4000).scatter_(1, active, torch.rand(BATCH, 40, generator=generator) + 0.5) @ features
        batches.append((x - x.mean(0)) / x.std())
    return batches


def bound(kind: str) -> Trainer:
    """The encoder's product alone, in chunks that fit the cache."""
    rows = normalize(torch.randn(LATENTS, WIDTH), dim=1).to(getattr(torch, kind))

    def step(x: Tensor) -> None:
        for part in x.to(rows.dtype).split(512):
            linear(part, rows)

    return step


def ours(kind: str, compute: str) -> Trainer:
    """interp's step, as `train` takes it, dead latents' loss and statistics included."""
    from interp.sae.config import SaeConfig
    from interp.sae.training.state import TrainingState

    fit = TrainingState(
        SaeConfig(kind=kind, d_sae=LATENTS, k=K, batch_size=BATCH, tokens=BATCH * 100, compute=compute), WIDTH
    )
    return lambda x: fit.update(x, 100)


def saelens(kind: str, precision: str) -> Trainer:
    """SAELens' trainer, a step of it as its `fit` takes it."""
    from sae_lens import saes
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    named = {
        "topk": ("TopK", {"k": K}),
        "batchtopk": ("BatchTopK", {"k": K}),
        "jumprelu": ("JumpReLU", {}),
        "standard": ("Standard", {}),
        "gated": ("Gated", {}),
    }
    name, options = named[kind]
    config = getattr(saes, f"{name}TrainingSAEConfig")(d_in=WIDTH, d_sae=LATENTS, **options)
    settings = SAETrainerConfig(
        total_training_samples=BATCH * 100,
        train_batch_size_samples=BATCH,
        autocast=precision == "autocast",
        lr_end=3e-5,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(settings, getattr(saes, f"{name}TrainingSAE")(config), iter(()))

    def step(x: Tensor) -> None:
        trainer.maybe_reset_sparsity()
        trainer.step(x)
        trainer.n_training_steps += 1

    return step


def dictionary_learning(kind: str, precision: str) -> Trainer:
    """dictionary_learning's TopK trainer."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=100, activation_dim=WIDTH, dict_size=LATENTS, k=K, layer=0, lm_name="none", warmup_steps=5, device="cpu"
    )
    counter = iter(range(10**6))
    return lambda x: trainer.update(next(counter), x)


def sparsify(kind: str, precision: str) -> Trainer:
    """sparsify's coder under its trainer's loss, optimiser (signum) and bookkeeping of dead latents."""
    from sparsify import SparseCoder, SparseCoderConfig
    from sparsify.sign_sgd import SignSGD

    coder = SparseCoder(WIDTH, SparseCoderConfig(num_latents=LATENTS, k=K), dtype=torch.float32)
    optimiser = SignSGD(coder.parameters(), lr=5e-3 / (LATENTS / 2**14) ** 0.5)
    silent = torch.zeros(LATENTS, dtype=torch.long)

    def step(x: Tensor) -> None:
        out = coder(x, dead_mask=silent > 10_000_000)
        out.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        coder.set_decoder_norm_to_unit_norm()
        silent.add_(len(x))
        silent[out.latent_indices.flatten()] = 0

    return step


MAKERS = {
    "interp": ours,
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
}


def peak_mib() -> float:
    """Most memory this process has held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(name: str, threads: int) -> dict[str, Any]:
    """One contender in this process: median seconds of a step, and peak memory over what was there before it."""
    torch.set_num_threads(threads)
    batches = data()
    who, kind, *precision = name.split()
    try:
        trainer = bound(kind) if who == "bound" else MAKERS[who](kind, *precision)
    except ImportError as problem:
        return {"missing": str(problem)}
    before, seconds = peak_mib(), []
    for number in range(WARM_UP + STEPS):
        began = time.perf_counter()
        trainer(batches[number % BATCHES])
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds[WARM_UP:]), "mib": peak_mib() - before}


def elsewhere(script: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """What a script finds for one contender, in a process of its own."""
    # Triton kernels, which sparsify takes where Triton is installed, need a GPU.
    settings = {"OMP_NUM_THREADS": str(args.threads), "WANDB_MODE": "disabled", "SPARSIFY_DISABLE_TRITON": "1"}
    environment = os.environ | settings
    if args.peers and "interp" not in name:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, args.peers))
    progress(name)
    command = [sys.executable, script, "--work", name, "--threads", str(args.threads)]
    command += ["--quick"] if args.quick else []
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    if process.returncode:
        return {"missing": process.stderr.strip().splitlines()[-1]}
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Print the table, and write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, nargs="*", help="folders that hold the peers, for other processes' paths")
    parser.add_argument("--only", nargs="*", default=[], help="contenders whose name begins so")
    parser.add_argument("--quick", action="store_true", help="the headline claims, within five minutes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(work(args.work, args.threads)))
        return
    names = [name for name in CONTENDERS if not args.only or name.startswith(tuple(args.only))]
    if args.quick:
        args.rounds, names = 1, [name for name in names if name.split()[0] == "bound" or name.split()[1] == "topk"]
    if not measures_bfloat16(args.quick):
        names = [name for name in names if not name.endswith(("bfloat16", "autocast"))]
    rounds = [{name: elsewhere(__file__, name, args) for name in names} for _ in range(args.rounds)]
    table = Table("who", "tokens/s", "of its bound", "peak MiB", title=f"{LATENTS} latents, {args.threads} threads")
    speeds: dict[str, float] = {}
    for name in names:
        figures = [turn[name] for turn in rounds]
        if missing := figures[0].get("missing"):
            table.add_row(name, f"left out: {missing[:60]}", "", "")
            continue
        speeds[name] = BATCH / statistics.median(row["seconds"] for row in figures)
        memory = statistics.median(row["mib"] for row in figures)
        kind = "bfloat16" if "bfloat16" in name or "autocast" in name else "float32"
        share = speeds[name] / speeds.get(f"bound {kind}", float("nan"))
        table.add_row(name, f"{speeds[name]:,.0f}", f"{share:.2f}", f"{memory:,.0f}")
    Console().print(table)
    claims = {
        claim: speeds[ours] / speeds[theirs]
        for claim, (ours, theirs) in CLAIMS.items()
        if ours in speeds and theirs in speeds
    }
    for claim, ratio in claims.items():
        print(f"{claim}: {ratio:.2f}")
    if args.json:
        args.json.write_text(json.dumps({"claims": claims}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
