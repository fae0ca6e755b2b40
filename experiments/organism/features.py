"""Do autoencoders recover what is planted in the organism? The best latent for each planted concept, beside a probe.

    python experiments/organism/features.py [--site resid_post.5] [--tokens 2000000] [--seeds 3] [--json FILE]
    python experiments/organism/features.py --load DIR ... --json FILE

Autoencoders of several kinds and widths are trained in one pass over one store, the chosen setting with several seeds.
`--load` scores autoencoders that are there instead, the first as the chosen one. The concepts, and the tokens at which
they are read, are those of `interp.auditing.organism_sets`, on texts that none of the settings was chosen on
(`--seed 1`). A latent says yes above a level; latent and level are those of the best F1 on half of the texts, and the
F1 shown is on the other half, as is that of the linear probe. A second table has the same concepts read at the end of
the prompt.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import interp
from interp import organism
from interp.auditing import LabelledSet, organism_sets
from interp.auditing.autoencoders.controls import TRAINED
from interp.auditing.autoencoders.labelled_set import SetActivations
from interp.auditing.autoencoders.sparse_probing import concept_scores
from interp.core.files import write_json
from interp.models.hooked import HookedModel
from interp.sae import SparseAutoencoder, TrainingPlan
from interp.sae.config import SaeConfig
from interp.sae.training.trainer import train_all

CHOSEN = "JumpReLU 1,024, L0 16"
SETTINGS: dict[str, dict[str, Any]] = {
    CHOSEN: {"kind": "jumprelu", "d_sae": 1024, "k": 16},
    "BatchTopK 1,024, k 32": {"kind": "batchtopk", "d_sae": 1024, "k": 32},
    "BatchTopK 256, k 16": {"kind": "batchtopk", "d_sae": 256, "k": 16},
    "Matryoshka 1,024, k 32": {"kind": "batchtopk", "d_sae": 1024, "k": 32, "prefixes": (32, 128, 512, 1024)},
}
PLANTED = {"danger": "refusal", "own claim": "sycophancy", "invented": "fabrication"}


def at_the_end(model: HookedModel, items: int, seed: int) -> list[LabelledSet]:
    """The concepts of pairs of prompts, read at the end of the prompt."""
    sets = []
    for name, behaviour in PLANTED.items():
        pairs = organism.contrast(behaviour, items, split="test", seed=seed)
        texts = tuple(model.chat(prompt.user) for pair in pairs for prompt in pair)
        groups = tuple(str(number // 2) for number in range(len(texts)))
        sets.append(LabelledSet(f"{name}, end of the prompt", texts, (True, False) * len(pairs), groups))
    return sets


def scored(
    saes: dict[str, SparseAutoencoder], model: HookedModel, site: str, sets: list[LabelledSet]
) -> dict[str, Any]:
    """F1 by set: of the probe, and of each autoencoder's best latent."""
    rows: dict[str, Any] = {}
    for one in sets:
        scores = concept_scores(saes, SetActivations.read(model, model.resolve(site)[0], one))
        values = {"linear probe": scores.probe, CHOSEN: scores.f1, **scores.controls}
        rows[one.name] = {name: [x.estimate, x.low, x.high] for name, x in values.items()}
        print(one.name, {name: round(x[0], 3) for name, x in rows[one.name].items()}, flush=True)
    return rows


def shown(title: str, rows: dict[str, Any]) -> None:
    """Print F1 with its interval."""
    names = list(next(iter(rows.values())))
    table = Table("concept", *names, title=title)
    for concept, values in rows.items():
        table.add_row(concept, *("{:.3f} [{:.3f}, {:.3f}]".format(*values[name]) for name in names))
    Console(width=200).print(table)


def trained(model: HookedModel, args: argparse.Namespace) -> dict[str, SparseAutoencoder]:
    """Autoencoders of all settings, and of the chosen one with further seeds."""
    names = [*SETTINGS, *(f"{CHOSEN}, seed {seed}" for seed in range(1, args.seeds))]
    plans = []
    for name in names:
        setting, _, seed = name.partition(", seed ")
        config = SaeConfig(**SETTINGS[setting], tokens=args.tokens, batch_size=2048, seed=int(seed or 0))
        plans.append(TrainingPlan(args.site, config))
    with tempfile.TemporaryDirectory() as folder:
        text = list(organism.corpus(args.documents))
        store = interp.harvest(model, text, args.site, Path(folder) / "store", dtype="bfloat16", context=256)
        print(f"{len(store):,} tokens harvested", flush=True)
        saes = [result.sae for result in train_all(store, plans)]
    if args.save:
        saes[0].save(args.save)
    return dict(zip(names, saes, strict=True))


def main() -> None:
    """Train, score, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--site", default="resid_post.5")
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--documents", type=int, default=12_000)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1, help="seed of the texts")
    parser.add_argument("--load", type=Path, nargs="*", default=[], help="score these, and train none")
    parser.add_argument("--save", type=Path, help="new folder for the autoencoder of the chosen setting")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = interp.load("organism")
    saes = {folder.name: SparseAutoencoder.load(folder, model) for folder in args.load} or trained(model, args)
    saes = {TRAINED if number == 0 else name: sae for number, (name, sae) in enumerate(saes.items())}
    sets, ends = organism_sets(model, args.items, args.seed), at_the_end(model, args.items, args.seed)
    rows = {"concepts": scored(saes, model, args.site, sets), "ends": scored(saes, model, args.site, ends)}
    shown(f"F1 of the best latent at {args.site}, on texts it was not chosen on", rows["concepts"])
    shown("The same at the end of the prompt", rows["ends"])
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
