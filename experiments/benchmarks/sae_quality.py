"""How much of a known truth autoencoders find, beside SAELens and dictionary_learning on the same activations.

    PYTHONPATH=DIR python experiments/benchmarks/sae_quality.py [--seeds 3] [--only NAME ...] [--json FILE]

The world is SAELens' own: its SynthSAEBench generator (https://arxiv.org/abs/2602.14687), scaled to 2,048 features in
128 dimensions that fire by a Zipf law, in a hierarchy of depth 3 with exclusive children, and correlated. Autoencoders
have 512 latents, k 8, batches of 1,024, and a learning rate of 1e-3, SAELens' constant as in its recipe, ours with our
schedule's warm-up and decay left out; `default` is ours with our own rate and schedule. Batches come to all in the same
order. SAELens has no target for L0, so the weights of its penalties are set here to fire about k latents, and since its
penalties and thresholds suppose inputs of unit size, those kinds of it are given standardised ones. Needs sae-lens,
dictionary-learning and scipy. Figures are added to those in the JSON file, so that a table can be made in several runs;
a contender that is in it already for a seed is not run again.

`--published` has the world's size, width, k and learning rate of SynthSAEBench-16k. Its 200 million samples are more
than a processor trains on in a day: --samples and --steps say how many, and the published figures are of all.

- MCC: mean cosine of decoder rows with features, paired by the Hungarian method.
- F1: of each latent's firing for that of the feature nearest to its decoder row, averaged over latents.
- EV: share of the held-out variance explained. Never judge by it alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from quick import progress
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from interp.activations.columns import SiteColumns
from interp.core.files import read_json, write_json
from interp.models.identity import ModelReference
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.training.standardisation import Standardisation
from interp.sae.training.state import TrainingState

BATCH, SAMPLES = 1024, 600_000


@dataclass(frozen=True)
class Size:
    """How large the world is, and what learns it."""

    width: int = 128
    features: int = 2048
    roots: int = 16
    latents: int = 512
    k: int = 8
    lr: float = 1e-3
    lr_end: float = 1e-4
    held_out: int = 50_000

    @classmethod
    def published(cls) -> Size:
        """SynthSAEBench-16k, whose features are made nearly orthogonal beforehand: 100 dense steps, left out here."""
        return cls(768, 16_384, 128, 4096, 25, 3e-4, 3e-4, 10_000)

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Matryoshka's."""
        return tuple(self.latents // share for share in (8, 4, 2, 1))

    @property
    def place(self) -> SiteColumns:
        """The site of a model that is none."""
        digest = "0" * 64
        model = ModelReference(name="synthetic", digest=digest, model_type="none", d_model=self.width, n_layers=1)
        return SiteColumns(site="resid_post.0", model=model, width=self.width)


# SAELens' penalties that make about k latents fire in this world.
PENALTIES: dict[str, dict[str, Any]] = {
    "jumprelu": {"l0_coefficient": 1.0},
    "standard": {"l1_coefficient": 3.7},
    "gated": {"l1_coefficient": 4.0},
}
KINDS = ("topk", "batchtopk", "matryoshka", "jumprelu", "standard", "gated")


class World:
    """Activations to train on and to judge by, which features made the latter, and the features."""

    def __init__(self, samples: int, seed: int, size: Size):
        from sae_lens import synthetic as s

        config = s.SyntheticModelConfig(
            num_features=size.features,
            hidden_dim=size.width,
            firing_probability=s.ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.4, min_prob=5e-4),
            hierarchy=s.HierarchyConfig(
                total_root_nodes=size.roots,
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
        self.size, rows = size, 20_480_000 // size.features
        with torch.no_grad():
            parts = [model.feature_dict(model.activation_generator(rows)) for _ in range(samples // rows)]
            fired = torch.cat([model.activation_generator(rows) for _ in range(size.held_out // rows)])
            self.train, self.test = torch.cat(parts), model.feature_dict(fired)
            self.fired, self.features = fired > 0, normalize(model.feature_dict.feature_vectors, dim=1)

    def batch(self, step: int) -> Tensor:
        """The same batches for everybody."""
        start = step * BATCH % (len(self.train) - BATCH)
        return self.train[start : start + BATCH]


def ours(kind: str, world: World, steps: int, seed: int, default: bool = False) -> SparseAutoencoder:
    """interp's training step on the world's batches."""
    size = world.size
    plain: dict[str, Any] = {} if default else {"lr": size.lr, "warm_up": 0.0, "decay": 0.0}
    prefixes = {"kind": "batchtopk", "prefixes": size.prefixes} if kind == "matryoshka" else {"kind": kind}
    config = SaeConfig(
        d_sae=size.latents, k=size.k, batch_size=BATCH, tokens=steps * BATCH, seed=seed, **plain, **prefixes
    )
    scaling, fit = Standardisation.of(world.train[: 50 * BATCH].split(BATCH)), TrainingState(config, size.width)
    for step in range(steps):
        fit.update(scaling(world.batch(step)), steps)
    tensors, nonlinearity = fit.folded(scaling, scaling)
    place = (size.place,)
    return SparseAutoencoder(**tensors, nonlinearity=nonlinearity, reads=place, writes=place)


def saelens(kind: str, world: World, steps: int, seed: int, **penalty: float) -> SparseAutoencoder:
    """SAELens' trainer on the same batches, its autoencoder read from the files that it saves."""
    size = world.size
    from sae_lens import saes
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    scaling = Standardisation.of(world.train[: 50 * BATCH].split(BATCH)) if kind in PENALTIES else None
    batches = (world.batch(step) for step in range(steps))
    name, options = {
        "topk": ("TopK", {"k": size.k}),
        "batchtopk": ("BatchTopK", {"k": size.k}),
        "matryoshka": ("MatryoshkaBatchTopK", {"k": size.k, "matryoshka_widths": list(size.prefixes)}),
        "jumprelu": ("JumpReLU", PENALTIES["jumprelu"] | penalty),
        "standard": ("Standard", PENALTIES["standard"] | penalty),
        "gated": ("Gated", PENALTIES["gated"] | penalty),
    }[kind]
    sae = getattr(saes, f"{name}TrainingSAE")(
        getattr(saes, f"{name}TrainingSAEConfig")(d_in=size.width, d_sae=size.latents, **options)
    )
    settings = SAETrainerConfig(
        total_training_samples=steps * BATCH,
        train_batch_size_samples=BATCH,
        lr=size.lr,
        lr_end=size.lr_end,
        logger=LoggingConfig(log_to_wandb=False),
    )
    inputs = batches if scaling is None else map(scaling, batches)
    SAETrainer(settings, sae, inputs).fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        coder = SparseAutoencoder.load(folder, size.place.model, "resid_post.0")
    return coder if scaling is None else on_raw(coder, scaling)


def on_raw(sae: SparseAutoencoder, scaling: Standardisation) -> SparseAutoencoder:
    """An autoencoder of standardised activations as one of raw ones, latents unchanged."""
    W_enc = sae.W_enc * scaling.scale
    tensors = {
        "W_enc": W_enc,
        "b_enc": sae.b_enc - W_enc @ scaling.mean,
        "W_dec": sae.W_dec / scaling.scale,
        "b_dec": sae.b_dec / scaling.scale + scaling.mean,
    }
    return replace(sae, **tensors)


def dictionary_learning(kind: str, world: World, steps: int, seed: int) -> SparseAutoencoder:
    """dictionary_learning's trainer on the same batches, its autoencoder read from the files that it saves."""
    size = world.size
    from dictionary_learning import trainers
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer

    trainer_type = {
        "topk": trainers.top_k.TopKTrainer,
        "batchtopk": trainers.batch_top_k.BatchTopKTrainer,
        "matryoshka": MatryoshkaBatchTopKTrainer,
    }[kind]
    sizes = [end - begin for begin, end in pairwise((0, *size.prefixes))]
    groups = {"group_fractions": [part / size.latents for part in sizes]} if kind == "matryoshka" else {}
    options = {
        "activation_dim": size.width,
        "dict_size": size.latents,
        "k": size.k,
        "layer": 0,
        "lm_name": "none",
        "device": "cpu",
    }
    schedule = {"steps": steps, "lr": size.lr, "warmup_steps": 0, "decay_start": None, "seed": seed}
    trainer = trainer_type(**options, **schedule, **groups)
    for step in range(steps):
        trainer.update(step, world.batch(step))
    with tempfile.TemporaryDirectory() as folder:
        torch.save(trainer.ae.state_dict(), Path(folder) / "ae.pt")
        write_json(Path(folder) / "config.json", {"trainer": {"dict_class": type(trainer.ae).__name__}})
        return SparseAutoencoder.load(folder, size.place.model, "resid_post.0")


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


Contender = Callable[[World, int, int], SparseAutoencoder]
CONTENDERS: dict[str, Contender] = {}
for _kind in KINDS:
    CONTENDERS[f"interp {_kind}"] = partial(ours, _kind)
    CONTENDERS[f"interp {_kind}, default"] = partial(ours, _kind, default=True)
    CONTENDERS[f"SAELens {_kind}"] = partial(saelens, _kind)
    if _kind in KINDS[:3]:
        CONTENDERS[f"dictionary_learning {_kind}"] = partial(dictionary_learning, _kind)


def main() -> None:
    """Print the table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="contenders whose name begins so")
    parser.add_argument("--published", action="store_true", help="the world and learning rate of SynthSAEBench-16k")
    parser.add_argument("--quick", action="store_true", help="the headline claims, within five minutes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.seeds, args.steps, args.samples = 1, 400, 100_000
        args.only = args.only or ["interp topk", "SAELens topk", "dictionary_learning topk"]
    names = [name for name in CONTENDERS if not args.only or name.startswith(tuple(args.only))]
    figures: dict[str, dict[str, dict[str, float]]] = read_json(args.json) if args.json and args.json.exists() else {}
    for seed in range(args.seeds):
        missing = [name for name in names if str(seed) not in figures.get(name, {})]
        world = World(args.samples, seed, Size.published() if args.published else Size()) if missing else None
        for name in missing:
            assert world is not None
            progress(f"seed {seed}: {name}")
            began = time.perf_counter()
            sae = CONTENDERS[name](world, args.steps, seed)
            row = {"seconds": time.perf_counter() - began, **judged(sae, world)}
            figures.setdefault(name, {})[str(seed)] = row
            print(seed, name, {key: round(value, 3) for key, value in row.items()}, flush=True)
            if args.json:
                write_json(args.json, figures)
    table = Table("who", "MCC", "F1", "EV", "L0", "dead", "seconds", title=f"{args.seeds} seeds, mean (deviation)")
    for name in CONTENDERS:
        if name not in figures:
            continue
        runs, cells = figures[name].values(), []
        for key, digits in (("MCC", 3), ("F1", 3), ("EV", 3), ("L0", 1), ("dead", 0), ("seconds", 0)):
            values = [run[key] for run in runs]
            spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}")
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
