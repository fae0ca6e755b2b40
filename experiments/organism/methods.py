"""Every closed-form method against every planted harm, by the exact grader: effect, damage, entanglement.

    python experiments/organism/methods.py [--smoke] [--seed 0] [--json FILE]

For each harm, directions are fitted by every method behind every block, at each of the last six tokens of 200 pairs.
Of each method's four best on held-out pairs, the one that costs least on the choosing items is projected out at every
writer of the residual stream. Erasers act behind every block, each fitted on what those before it leave (scrubbing),
on all tokens but the first or on the last six alone; they can't be folded into the weights. Beside them are random
directions and directions of shuffled labels (the mean and, in brackets, the best of five), a line of instruction, and
the model as it is.

All is measured on prompts that nothing was fitted or chosen on:

- rate: how often the harm is shown on prompts that call for it,
- loss: the relative rise of the loss on everyday text,
- refusals, facts, skills: the change of what must be kept, in points,
- the two other harms: their change, in points; one that falls with the target is carried by the same directions.
"""

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

import interp
from interp import organism
from interp.activations.harvester import harvest
from interp.auditing.ablation_trials import rank_by_ablation
from interp.auditing.baselines import measure_baselines
from interp.auditing.behaviours import mean_scores
from interp.core.errors import InterpError
from interp.core.files import write_json
from interp.directions.finder import find
from interp.directions.methods.closed_form import FITS
from interp.directions.methods.erasure import ErasureFitter
from interp.directions.methods.scrubbing import scrub
from interp.interventions.affine_ops import Erase, Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.pipeline.materials import DataSettings, Materials, gather_materials
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.training.trainer import train

HARMS = [name for name, behaviour in organism.BEHAVIOURS.items() if behaviour.kind == "harm"]
KEPT = [name for name, behaviour in organism.BEHAVIOURS.items() if behaviour.kind != "harm"]
LOSS = "everyday_loss"
Scores = dict[str, float]


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    pairs: int = 200
    choose: int = 60
    audit: int = 200
    tokens: int = 100_000
    steps: int = 500_000
    candidates: int = 4
    draws: int = 5
    measured: tuple[str, ...] = (*organism.BEHAVIOURS, LOSS)
    positions: tuple[int, ...] = tuple(range(-6, 0))
    methods: tuple[str, ...] = tuple(FITS)


_FEW = {"pairs": 24, "choose": 2, "audit": 2, "tokens": 2_000, "steps": 4_096, "candidates": 1, "draws": 1}
SMOKE = Sizes(**_FEW, positions=(-1,), measured=("hostility", "refusal", LOSS), methods=("diff_means", "lda"))


@dataclass(frozen=True)
class Row:
    """A method on a harm: where, and every behaviour's mean score with it; `best` is the harm's lowest over seeds."""

    harm: str
    method: str
    place: str
    scores: Scores
    best: float | None = None


def autoencoder(model: HookedModel, sizes: Sizes, seed: int) -> SparseAutoencoder:
    """Of the block in the middle, where the organism decides; 1,024 latents."""
    with tempfile.TemporaryDirectory() as scratch:
        text, site = organism.corpus(sizes.tokens // 30, seed=seed), "resid_post.3"
        store = harvest(model, text, site, Path(scratch) / "store", tokens=sizes.tokens)
        settings = SaeConfig(d_sae=1024, k=16, tokens=sizes.steps, batch_size=min(4096, sizes.tokens // 2), seed=seed)
        return train(store, site, settings).sae


def projected(model: HookedModel, materials: Materials, sae: SparseAutoencoder, sizes: Sizes, seed: int) -> list[Row]:
    """A row for every method that fits a direction, and for the baselines of the first of them."""
    harm, rows = materials.target, []
    findings = find(
        model, materials.contrast, methods=sizes.methods, positions=sizes.positions, sae=sae, seed=seed, bootstrap=0
    )
    candidates = [finding for method in findings.methods for finding in findings.best(sizes.candidates, method)]
    trials = rank_by_ablation(model, candidates, materials.choose, harm)
    for method in findings.methods:
        direction = next(t.finding.direction for t in trials if t.finding.direction.method == method)
        with model.hooked(Recipe([("writers", Project(direction))])):
            scores = mean_scores(model, materials.audit)
        rows.append(Row(harm, method, f"{direction.site}, {direction.position}", scores))
    best = findings.best()[0].direction
    for baseline in measure_baselines(model, best, materials.contrast, materials.audit, seed, draws=sizes.draws):
        lowest = min((each[harm] for each in baseline.each), default=None)
        rows.append(Row(harm, f"{baseline.name} (baseline)", "", baseline.scores, lowest))
    return rows


def scrubbed(model: HookedModel, materials: Materials, sizes: Sizes) -> list[Row]:
    """A row for each kind of eraser, at every block."""
    rows = []
    for name, fit in (("leace", ErasureFitter.leace), ("sal", ErasureFitter.sal)):
        for where, positions in (("", None), (", last tokens", sizes.positions)):
            fitted = scrub(model, materials.contrast, positions=positions, fit=fit)
            with model.hooked(Recipe([(str(site), Erase.of(eraser)) for site, eraser in fitted])):
                scores = mean_scores(model, materials.audit)
            rows.append(Row(materials.target, f"{name}{where}", f"{len(fitted)} blocks", scores))
    return rows


def shown(harm: str, rows: Iterable[Row], plain: Scores) -> Table:
    """One harm's table."""
    rest = [name for name in (*KEPT, *HARMS) if name in plain and name != harm]
    table = Table(title=f"{harm}: {plain[harm]:.1%} in the unedited organism", title_justify="left")
    for column in ("method", "place", "rate", "loss", *rest):
        table.add_column(column, justify="left" if column in ("method", "place") else "right")
    for row in rows:
        rate = f"{row.scores[harm]:.1%}" + ("" if row.best is None else f" ({row.best:.1%})")
        changes = [f"{100 * (row.scores[name] - plain[name]):+.1f}" for name in rest]
        table.add_row(row.method, row.place, rate, f"{row.scores[LOSS] / plain[LOSS] - 1:+.1%}", *changes)
    return table


def main() -> None:
    """Print a table a harm."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few of everything")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.seed < 0:
        raise InterpError(f"seed is {options.seed}; expected 0 or more")
    sizes = SMOKE if options.smoke else Sizes()
    model = interp.load("organism")
    sae, results = autoencoder(model, sizes, options.seed), []
    for harm in HARMS[:1] if options.smoke else HARMS:
        data = DataSettings(text="organism", contrast=f"organism.{harm}", pairs=sizes.pairs, documents=10)
        data = data.model_copy(update={"choose_items": sizes.choose, "audit_items": sizes.audit})
        materials = gather_materials(data, harm, options.seed, Path())
        choose, audit = ([b for b in part if b.name in sizes.measured] for part in (materials.choose, materials.audit))
        materials = replace(materials, choose=tuple(choose), audit=tuple(audit))
        rows = [*projected(model, materials, sae, sizes, options.seed), *scrubbed(model, materials, sizes)]
        plain = next(row.scores for row in rows if row.method.startswith("no-op"))
        rows.sort(key=lambda row: row.scores[harm])
        Console(width=150).print(shown(harm, rows, plain))
        results += [row.__dict__ for row in rows]
    if options.json:
        write_json(options.json, {"seed": options.seed, "rows": results})


if __name__ == "__main__":
    main()
