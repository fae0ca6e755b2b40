"""How much of a known truth autoencoders find, beside SAELens on the same activations in the same order.

    PYTHONPATH=DIR python experiments/benchmarks/sae_quality.py [--seeds 1] [--steps 3000] [--json FILE]

The world is SAELens' own: its SynthSAEBench generator (https://arxiv.org/abs/2602.14687), scaled to 2,048 features in
128 dimensions that fire by a Zipf law, in a hierarchy of depth 3 with exclusive children, and correlated. Autoencoders
have 512 latents, k 8, batches of 1,024, and a learning rate of 1e-3, SAELens' constant as in its recipe, ours with our
schedule's warm-up and decay left out; `default` is ours with our own rate and schedule. Needs sae-lens and scipy.

- MCC: mean cosine of decoder rows with features, paired by the Hungarian method.
- F1: of each latent's firing for that of the feature nearest to its decoder row, averaged over latents.
- EV: share of the held-out variance explained. Never judge by it alone.
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
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from interp.models.reference import ModelReference
from interp.models.sites import Site
from interp.sae import interop
from interp.sae.coder import SparseAutoencoder
from interp.sae.records import SaeConfig
from interp.sae.train import Fit, Standardisation

WIDTH, FEATURES, LATENTS, K, BATCH, SAMPLES, HELD_OUT = 128, 2048, 512, 8, 1024, 600_000, 50_000
PREFIXES = (64, 128, 256, 512)
MODEL = ModelReference(name="synthetic", digest="0" * 64, model_type="none", d_model=WIDTH, n_layers=1)
KINDS = ("topk", "batchtopk", "matryoshka", "jumprelu", "standard", "gated")


class World:
    """Activations to train on and to judge by, which features made the latter, and the features."""

    def __init__(self, samples: int, seed: int):
        from sae_lens import synthetic as s

        config = s.SyntheticModelConfig(
            num_features=FEATURES,
            hidden_dim=WIDTH,
            firing_probability=s.ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.4, min_prob=5e-4),
            hierarchy=s.HierarchyConfig(
                total_root_nodes=16,
                branching_factor=4,
                max_depth=3,
                mutually_exclusive_portion=1.0,
                mutually_exclusive_min_depth=0,
                compensate_probabilities=True,
                scale_children_by_parent=True,
            ),
            correlation=s.LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
            mean_firing_magnitudes=s.LinearMagnitudeConfig(start=5.0, end=4.0),
            std_firing_magnitudes=s.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
            bias=0.5,
            seed=42,
        )
        model = s.SyntheticModel(config, device="cpu")
        torch.manual_seed(seed)
        with torch.no_grad():
            parts = [model.feature_dict(model.activation_generator(10_000)) for _ in range(samples // 10_000)]
            fired = model.activation_generator(HELD_OUT)
            self.train, self.test = torch.cat(parts), model.feature_dict(fired)
            self.fired, self.features = fired > 0, normalize(model.feature_dict.feature_vectors, dim=1)

    def batch(self, step: int) -> Tensor:
        """The same batches for everybody."""
        start = step * BATCH % (len(self.train) - BATCH)
        return self.train[start : start + BATCH]


def ours(kind: str, world: World, steps: int, seed: int, default: bool) -> SparseAutoencoder:
    """interp's training step on the world's batches."""
    plain: dict[str, Any] = {} if default else {"lr": 1e-3, "warm_up": 0.0, "decay": 0.0}
    prefixes = {"kind": "batchtopk", "prefixes": PREFIXES} if kind == "matryoshka" else {"kind": kind}
    config = SaeConfig(d_sae=LATENTS, k=K, batch_size=BATCH, tokens=steps * BATCH, seed=seed, **plain, **prefixes)
    scaling, fit = Standardisation.of(world.train[: 50 * BATCH].split(BATCH)), Fit(config, WIDTH)
    for step in range(steps):
        fit.update(scaling.standardise(world.batch(step)), steps)
    tensors, nonlinearity = fit.folded(scaling)
    return SparseAutoencoder(**tensors, nonlinearity=nonlinearity, site=Site("resid_post", 0), model=MODEL)


def saelens(kind: str, world: World, steps: int, seed: int) -> SparseAutoencoder:
    """SAELens' trainer on the same batches, its autoencoder read from the files that it saves."""
    from sae_lens import saes
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    name, options = {
        "topk": ("TopK", {"k": K}),
        "batchtopk": ("BatchTopK", {"k": K}),
        "matryoshka": ("MatryoshkaBatchTopK", {"k": K, "matryoshka_widths": list(PREFIXES)}),
    }[kind]
    sae = getattr(saes, f"{name}TrainingSAE")(
        getattr(saes, f"{name}TrainingSAEConfig")(d_in=WIDTH, d_sae=LATENTS, **options)
    )
    settings = SAETrainerConfig(
        total_training_samples=steps * BATCH,
        train_batch_size_samples=BATCH,
        lr=1e-3,
        lr_end=1e-4,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(settings, sae, (world.batch(step) for step in range(steps))).fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return interop.read(folder, MODEL, "resid_post.0")


@torch.no_grad()
def judged(sae: SparseAutoencoder, world: World) -> dict[str, float]:
    """The measures of the module's docstring on held-out activations."""
    from scipy.optimize import linear_sum_assignment

    cosines = normalize(sae.W_dec, dim=1) @ world.features.T
    latents, features = linear_sum_assignment(-cosines.abs().numpy())
    fires = sae.encode(world.test) > 0
    truth = world.fired[:, cosines.abs().argmax(1)]
    both = (fires & truth).sum(0)
    f1 = 2 * both / (fires.sum(0) + truth.sum(0)).clamp(min=1)
    error = (sae(world.test) - world.test).square().sum()
    return {
        "MCC": float(cosines.abs()[latents, features].mean()),
        "F1": float(f1.mean()),
        "EV": 1 - float(error / (world.test - world.test.mean(0)).square().sum()),
        "L0": float(fires.sum(1).float().mean()),
        "dead": float((~fires.any(0)).sum()),
    }


def main() -> None:
    """Print the table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    contenders: dict[str, Callable[[World, int], SparseAutoencoder]] = {}
    for kind in KINDS:
        contenders[f"interp {kind}"] = lambda world, seed, kind=kind: ours(kind, world, args.steps, seed, False)
        contenders[f"interp {kind}, default"] = lambda world, seed, kind=kind: ours(kind, world, args.steps, seed, True)
        if kind in ("topk", "batchtopk", "matryoshka"):
            contenders[f"SAELens {kind}"] = lambda world, seed, kind=kind: saelens(kind, world, args.steps, seed)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for seed in range(args.seeds):
        world = World(args.samples, seed)
        for name, trained in contenders.items():
            began = time.perf_counter()
            sae = trained(world, seed)
            found[name].append({"seconds": time.perf_counter() - began, **judged(sae, world)})
            print(seed, name, {key: round(value, 3) for key, value in found[name][-1].items()}, flush=True)
    table = Table("who", "MCC", "F1", "EV", "L0", "dead", "seconds", title=f"{args.seeds} seeds, mean (deviation)")
    for name, runs in found.items():
        cells = []
        for key, digits in (("MCC", 3), ("F1", 3), ("EV", 3), ("L0", 1), ("dead", 0), ("seconds", 0)):
            values = [run[key] for run in runs]
            spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}")
        table.add_row(name, *cells)
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
