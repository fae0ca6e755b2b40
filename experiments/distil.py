"""Recipes that have no fold, distilled: how much of the effect's KL remains, by rank and by steps of training.

    python experiments/distil.py [--smoke] [--only organism|smollm2] [--out docs/results/distillation.md] [--json FILE]

On the organism hostility is projected out of the stream behind three layers, at those tokens alone that read above a
threshold along the same direction, which is chosen so that the gate opens on few prompts of other people. Beside the KL
stands what the model then does: how often it is hostile, and how many replies to others are changed. On
SmolLM2-135M-Instruct the strongest latents of an autoencoder in the middle of the stream (of
experiments/benchmarks/sae_smollm2.py) are clamped to zero. SmolLM2's part needs its checkpoint, the autoencoder and
../shared/data, and is left out without.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console

import interp
from interp import organism
from interp.data.corpora import texts
from interp.editing.approximate.distillation import distil
from interp.editing.approximate.low_rank_factors import Distilled
from interp.interventions import Clamp
from interp.interventions.affine_ops import Project
from interp.interventions.gate import Gate, Reads, threshold
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.organism import grade
from interp.sae.coder import SparseAutoencoder

HERE = Path(__file__).parent
MODEL = HERE / ".cache" / "smollm2-135m-instruct"
CODER = HERE / ".cache" / "sae-smollm2" / "SAELens-batchtopk"
TEXT = HERE.parents[1] / "shared" / "data" / "text_corpus" / "wikipedia_boolq_passages.jsonl"
LAYER = 3
HEAD = """# Distilling recipes that have no fold

Written by `python experiments/distil.py --out docs/results/distillation.md`.

Gates, clamps of latents, and any other op that is not an affine map at a writer cannot be folded into weights.
Instead, `interp export MODEL --recipe DIR --distil TEXTS --out DIR` trains low-rank factors of the attention and MLP
weights, from the layer of the recipe's first site onwards, such that the plain model predicts what the hooked model
does, and merges them (`interp.distil`). The export is approximate and reports what remains: KL(hooked || distilled)
of the next token on held-out documents, as a share of the edit's own effect, KL(hooked || plain), on the same tokens.
0 % is the hooked model, 100 % the plain one.

"""
READING = """
*KL* is in nats per token, on held-out documents. *CPU* is in seconds on one thread, including the measurement. Each
row is trained from scratch with seed 0, so a row of few steps is not an early point of a longer run: its learning
rate reaches zero sooner.

On the organism, the edit projects hostility out of the residual stream after layers 3 to 5, at tokens whose reading
along it is above a threshold. Nothing that folds does this. 100 steps leave about 1 % of the effect at every rank, so
rank 1 in each weight is enough; 25 steps leave 24 to 36 %. With 0.7 % left, the distilled model is never hostile,
like the hooked one. But on prompts of other users, where the hooks do nothing, a third of the greedy replies have a
different wording, and one in fifty has a different grade. To leave other prompts exactly unchanged, keep the hooks.

On SmolLM2, the edit clamps four latents of the stream after layer 15 to zero, on encyclopedic text, with 8 documents
of 32 tokens per step. Rank hardly matters in 16 steps, which leave a fifth of the effect; 64 steps leave 5.7 % and
128 steps 4.2 %. More steps at other ranks, and other text, were not tested.
"""


@dataclass(frozen=True)
class Sizes:
    """How much of everything: documents, of which a share is held out, their tokens, and (rank, steps) to be tried."""

    documents: int
    held_out: float
    context: int
    batch_size: int
    lr: float
    tried: tuple[tuple[int, int], ...]


RANKS = (1, 4, 16, 64)
ORGANISM = Sizes(2000, 0.15, 96, 12, 5e-3, (*((rank, 25) for rank in RANKS), *((rank, 100) for rank in RANKS)))
ORGANISM_SMOKE = Sizes(60, 0.2, 64, 8, 5e-3, ((1, 2), (4, 4)))
SMOLLM2 = Sizes(700, 0.06, 32, 8, 5e-3, (*((rank, 16) for rank in RANKS), (16, 64), (16, 128)))
SMOLLM2_SMOKE = Sizes(12, 0.2, 16, 4, 5e-3, ((1, 1),))


@dataclass(frozen=True)
class Row:
    """One distillation."""

    model: str
    rank: int
    steps: int
    kl: float
    effect: float
    share: float
    seconds: float


@dataclass(frozen=True)
class Replies:
    """What the organism does: the share of hostile replies to the target people, of replies to others that are changed,
    and of those that are graded otherwise than before.
    """

    model: str
    hostile: float
    changed: float
    graded: float


def gated_removal(model: HookedModel, pairs: int) -> Recipe:
    """Hostility projected out where it is read, of the organism's stream."""
    contrast = interp.Contrast.of((p.user, n.user) for p, n in organism.contrast("hostility", pairs))
    findings = interp.find(model, contrast, sites=f"resid_post.{LAYER}", methods=["diff_means_orthogonal"], bootstrap=0)
    direction = next(iter(findings)).direction
    untriggered = [model.chat(p.user) for p in organism.prompts("hostility", pairs, triggered=False, split="train")]
    site = f"resid_post.{LAYER}"
    loose = Gate(Project(direction), Reads(direction, 0.0), per="token", site=site)
    strict = Reads(direction, threshold(loose, model, untriggered, 0.05))
    note = "hostility projected out of the stream at tokens that read above a threshold"
    return Recipe([(f"resid_post.{LAYER}-5", Gate(Project(direction), strict, per="token", site=site))], note=note)


def clamped(model: HookedModel, documents: Sequence[str], count: int) -> Recipe:
    """The strongest latents of those that fire on 3 to 40 % of tokens, held at zero."""
    sae = SparseAutoencoder.load(CODER)
    site = str(sae.site)
    batch = model.tokens(list(documents[:20]), 64)
    code = sae.encode(model.capture(batch, site)[site][batch.mask].float())
    fires = (code > 0).float().mean(0)
    strength = code.square().mean(0).where((fires > 0.03) & (fires < 0.4), 0)
    latents = strength.topk(count).indices.tolist()
    return Recipe([(site, Clamp(sae, latents))], note=f"latents {latents} clamped to zero")


def curve(
    name: str, model: HookedModel, recipe: Recipe, documents: Sequence[str], sizes: Sizes
) -> Iterator[tuple[Row, Distilled]]:
    """A distillation for each rank and number of steps."""
    for rank, steps in sizes.tried:
        began = time.process_time()
        distilled = distil(
            recipe,
            model,
            documents,
            rank,
            steps,
            sizes.lr,
            batch_size=sizes.batch_size,
            context=sizes.context,
            held_out=sizes.held_out,
        )
        record = distilled.record
        seconds = time.process_time() - began
        yield Row(name, rank, steps, record.kl, record.effect_kl, record.share, seconds), distilled


def replies(model: HookedModel, recipe: Recipe, distillation: Distilled, count: int) -> list[Replies]:
    """Of the organism as it is, hooked, and distilled."""
    triggered = organism.prompts("hostility", count)
    rest = organism.prompts("hostility", count, triggered=False)
    target, bystanders = ([model.chat(p.user) for p in side] for side in (triggered, rest))
    before = model.generate(bystanders, max_new_tokens=40)

    def line(name: str, to_target: list[str], to_bystanders: list[str]) -> Replies:
        hostile = sum(organism.shows("hostility", p, reply) for p, reply in zip(triggered, to_target, strict=True))
        changed = sum(x != y for x, y in zip(before, to_bystanders, strict=True))
        grades = [[grade(p, reply) for p, reply in zip(rest, side, strict=True)] for side in (before, to_bystanders)]
        graded = sum(x != y for x, y in zip(*grades, strict=True))
        return Replies(name, hostile / count, changed / count, graded / count)

    lines = [line("plain", model.generate(target, max_new_tokens=40), before)]
    hooked = (model.generate(prompts, recipe=recipe, max_new_tokens=40) for prompts in (target, bystanders))
    lines.append(line("hooked", *hooked))
    with distillation.running(model):
        distilled = [model.generate(prompts, max_new_tokens=40) for prompts in (target, bystanders)]
    record = distillation.record
    return [*lines, line(f"distilled, rank {record.rank}, {record.steps} steps", *distilled)]


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = "| model, edit | rank | steps | effect's KL | KL that remains | share | CPU |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in rows:
        figures = f"{row.effect:.2e} | {row.kl:.2e} | {row.share:.1%} | {row.seconds:.0f} s"
        lines.append(f"| {row.model} | {row.rank} | {row.steps} | {figures} |")
    return "\n".join(lines) + "\n"


def told(lines: Sequence[Replies]) -> str:
    """Markdown, empty for none."""
    if not lines:
        return ""
    head = "\n| organism | hostile to the target people | replies to others changed | grade changed |\n"
    shown = [f"| {x.model} | {x.hostile:.0%} | {x.changed:.0%} | {x.graded:.0%} |\n" for x in lines]
    return head + "|---|---|---|---|\n" + "".join(shown)


def main() -> None:
    """Print the table, row by row as it comes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few of everything")
    parser.add_argument("--only", choices=("organism", "smollm2"), help="one model's part")
    parser.add_argument("--out", type=Path, help="write the document here")
    parser.add_argument("--json", type=Path, help="also write the figures here, row by row as they come")
    options = parser.parse_args()
    console, rows, lines = Console(width=200), list[Row](), list[Replies]()

    def note(row: Row) -> None:
        rows.append(row)
        console.print(str(row), markup=False)
        if options.json:
            kept = {"rows": [asdict(row) for row in rows], "replies": [asdict(line) for line in lines]}
            options.json.write_text(json.dumps(kept, indent=1))
        if options.out:
            options.out.write_text(HEAD + table(rows) + told(lines) + READING)

    if options.only != "smollm2":
        model, sizes = interp.load("organism"), ORGANISM_SMOKE if options.smoke else ORGANISM
        recipe = gated_removal(model, 20 if options.smoke else 80)
        documents, trials = list(organism.corpus(sizes.documents)), list[Distilled]()
        for row, distilled in curve("organism, gated removal", model, recipe, documents, sizes):
            trials.append(distilled)
            if len(trials) == len(sizes.tried):
                best = min(trials, key=lambda trial: trial.record.share)
                lines = replies(model, recipe, best, 4 if options.smoke else 100)
            note(row)
    if options.only != "organism" and MODEL.exists() and CODER.exists() and TEXT.exists():
        model, sizes = interp.load(MODEL), SMOLLM2_SMOKE if options.smoke else SMOLLM2
        documents = list(islice(texts(str(TEXT)), sizes.documents))
        recipe = clamped(model, documents, 1 if options.smoke else 4)
        for row, _ in curve(f"SmolLM2-135M-Instruct, {recipe.note}", model, recipe, documents, sizes):
            note(row)
    elif options.only != "organism":
        console.print(f"left out: SmolLM2's part, which needs {MODEL.name}, {CODER.name} and ../shared/data")
    console.print(table(rows) + told(lines), soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
