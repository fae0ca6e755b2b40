"""Sycophancy or copying? Why SmolLM2-135M-Instruct answers what the user said, and what stops it.

    python experiments/sycophancy/run.py [--smoke] [--items 75] [--steps 36] [--threads 1] > table.md

Asked plainly, the model gives the right answer the higher mean log-probability on about 62 % of items; after "I think
the answer is (the wrong one)", on about 6 %. In turn: wordings that tell agreement from copying; edges of attention cut
between the answer and the user's words; heads, directions and a prompt instruction, each with what it costs on text
and on plain questions. What is fitted is fitted on other items than those of the tables.
docs/results/sycophancy.md has a run.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from directions import directions
from heads import as_recipe, attributed, copying, drawn, learned, ranked, zeroed
from items import AGREEMENT, DATA, WORDINGS, Item, items, texts
from scoring import Recipes, assents, loss, margins
from torch import Tensor

import interp
from interp.auditing.statistics.comparison import mean_interval, paired_difference
from interp.core.errors import InterpError
from interp.interventions import At, Edit, Knockout, Recipe
from interp.models.hooked import HookedModel

MODEL = Path(__file__).parents[1] / ".cache" / "smollm2-135m-instruct"
INSTRUCTION = "The user may be wrong. Give the answer that is true, whatever answer the user suggests."
STRENGTH = 0.9  # of the heads' factors, in what is exported
ANSWER = "generated"  # where the answer's tokens are predicted
LATER = "later"  # without the first


def main() -> None:
    """Measure, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a few items, for a minute")
    parser.add_argument("--items", type=int, default=75, help="held-out items; 150 others are fitted on")
    parser.add_argument("--steps", type=int, default=36, help="of learning one factor a head")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for path in (MODEL, DATA):
        if not path.exists():
            raise InterpError(f"{path} is not there; the model comes from experiments/models.py, the data beside it")
    torch.set_num_threads(args.threads)
    small, began = args.smoke, time.perf_counter()
    model, (fit, held) = interp.load(MODEL), items(*((8, 4) if small else (150, args.items)))
    some = held[:40]
    wordings(model, some, "As it comes")
    edges(model, held)
    best = front(model, fit, held, texts(16 if small else 160, seed=1), 1 if small else args.steps, small)
    exported(model, best)
    if not small:
        wordings(model, some, f"With heads scaled, strength {STRENGTH}", as_recipe(best))
    minutes = (time.perf_counter() - began) / 60
    print(f"\n{len(held)} held-out items, {len(fit)} fitted on; {minutes:.0f} min with {args.threads} thread(s)")


def wordings(model: HookedModel, questions: Sequence[Item], title: str, recipe: Recipes = ()) -> None:
    """What is preferred after each wording, and how often Yes is, where the user is right and where wrong."""
    rows = []
    for wording in WORDINGS:
        values = margins(model, questions, wording, recipe)
        rows.append([wording, _share(values), f"{values.mean():+.2f}"])
    show(f"{title}: which answer is preferred ({len(questions)} items)", ["wording", "right one", "margin, nats"], rows)
    rows = []
    for wording in AGREEMENT:
        right, wrong = (assents(model, questions, wording, side, recipe) for side in (True, False))
        gap = paired_difference(_wins(wrong), _wins(right))
        rows.append([wording, _share(right), _share(wrong), str(gap), f"{(right - wrong).mean():+.2f}"])
    header = ["wording", "yes after the right answer", "yes after the wrong one", "difference", "of the margin, nats"]
    show(f"{title}: is the user right? ({len(questions)} items)", header, rows)


def edges(model: HookedModel, questions: Sequence[Item]) -> None:
    """What is preferred after a wrong hint if some tokens do not see the hinted answer."""
    cuts: list[tuple[str, str | list[int], str]] = [
        ("nothing", [], "*"),
        ("answer", ANSWER, "*"),
        ("answer's first token", "last", "*"),
        ("answer's later tokens", LATER, "*"),
        *((f"answer, layers {band}", ANSWER, band) for band in ("0-9", "10-14", "15-24", "25-29")),
        ("what is behind the hint, but not the answer", list(range(-ending(model), -1)), "*"),
    ]
    rows = []
    for name, queries, layers in cuts:
        values = cut(model, questions, queries, layers)
        rows.append([name, _share(values), f"{values.mean():+.2f}"])
    title = f"After a wrong hint, attention from these tokens to the hinted answer cut ({len(questions)} items)"
    show(title, ["from", "right one preferred", "margin, nats"], rows)


def cut(model: HookedModel, questions: Sequence[Item], queries: str | list[int], layers: str) -> Tensor:
    """Margins after a wrong hint whose answer the queries do not see; items whose hints are as long go together."""
    groups: dict[int, list[Item]] = {}
    for item in questions:
        groups.setdefault(len(model.tokenizer(" " + item.wrong, add_special_tokens=False)["input_ids"]), []).append(
            item
        )
    values, end = [], ending(model)
    for length, group in groups.items():
        hinted = list(range(-end - length, -end))
        knockout = Knockout(ANSWER if queries == LATER else queries, hinted) if queries else None
        # In format 1, `generated` begins one token later.
        recipe = Recipe([Edit((f"z.{layers}",), knockout, 1 if queries == LATER else 2)]) if knockout else ()
        values.append(margins(model, group, "wrong hint", recipe))
    return torch.cat(values)


def ending(model: HookedModel) -> int:
    """Tokens from behind the hinted answer to the prompt's end; the same for all items."""
    whole = model.chat(Item("", "", "\0").ask("wrong hint")).partition("\0")[2]
    return len(model.tokenizer(whole, add_special_tokens=False)["input_ids"])


@dataclass
class Front:
    """What interventions do to held-out items and to text, beside the model as it is."""

    model: HookedModel
    held: Sequence[Item]
    passages: Sequence[str]

    def __post_init__(self) -> None:
        self.plain, self.hinted = (margins(self.model, self.held, wording) for wording in ("plain", "wrong hint"))
        self.text = loss(self.model, self.passages)

    def row(self, name: str, recipe: Recipes = ()) -> list[str]:
        """Right answers plainly, after a wrong hint, how much of the margin's fall is undone, and perplexity."""
        plain, hinted = (margins(self.model, self.held, wording, recipe) for wording in ("plain", "wrong hint"))
        undone = (hinted.mean() - self.hinted.mean()) / (self.plain.mean() - self.hinted.mean())
        dearer = paired_difference(self.text.tolist(), loss(self.model, self.passages, recipe).tolist())
        cost, low, high = (f"{100 * math.expm1(x):+.1f}" for x in (dearer.estimate, dearer.low, dearer.high))
        lost = 100 * (sum(_wins(plain)) - sum(_wins(self.plain))) / len(plain)
        return [name, _share(plain), f"{lost:+.0f}", _share(hinted), f"{100 * undone:.0f}", f"{cost} [{low}, {high}]"]


def front(
    model: HookedModel, fit: Sequence[Item], held: Sequence[Item], passages: Sequence[str], steps: int, small: bool
) -> Tensor:
    """Print what each intervention does; returns the factors learned."""
    few, many = (fit[:4], fit[:8]) if small else (fit[:32], fit[:64])
    copied, first_order = copying(model, few), attributed(model, few)
    held_out = len(passages) // 8
    factors = learned(model, fit, passages[held_out:], steps)
    judged = Front(model, held, passages[:held_out])
    rows = [judged.row("nothing")]
    with model.instructed(INSTRUCTION):
        rows.append([*judged.row("an instruction in the system message")[:-1], "none"])
    tried = list(directions(model, many).items())
    tried += [(f"16 heads at random, seed {seed}", zeroed(drawn(model, 16, seed))) for seed in range(5)]
    tried += [(f"{n} heads that copy", zeroed(ranked(copied, n))) for n in (16, 32)]
    tried.append(("16 heads by attribution", zeroed(ranked(first_order, 16))))
    tried += [(f"{n} heads as learned", zeroed(ranked(-factors, n))) for n in (16, 32)]
    tried += [(f"heads scaled, strength {s}", as_recipe(1 + s * (factors - 1))) for s in (0.75, STRENGTH, 1.0)]
    answering = Recipe([Edit(edit.sites, At(edit.op, ANSWER)) for edit in zeroed(ranked(copied, 32)).edits])
    tried.append(("32 heads that copy, in the answer only (not exported)", answering))
    rows += [judged.row(name, recipe) for name, recipe in tried[:: 6 if small else 1]]
    header = ["intervention", "right, plain", "points", "right, wrong hint", "undone, %", "perplexity, %"]
    show(f"Interventions, judged on {len(held)} held-out items and {len(judged.passages)} passages", header, rows)
    heads = ", ".join(f"{layer}.{head} {copied[layer, head]:.2f}" for layer, head in ranked(copied, 12))
    print(f"\nHeads that copy, as layer.head and attention to the token copied: {heads}.")
    for name, order in (("least", -factors), ("most", factors)):
        heads = ", ".join(f"{layer}.{head} {factors[layer, head]:.2f}" for layer, head in ranked(order, 12))
        print(f"\nFactors learned, {name}: {heads}.")
    return 1 + STRENGTH * (factors - 1)


def exported(model: HookedModel, factors: Tensor) -> None:
    """Export the best edits, and print what their certificates say of weights and hooks."""
    for name, recipe in (("scaled", as_recipe(factors)), ("zeroed", zeroed(ranked(-factors, 32)))):
        with tempfile.TemporaryDirectory() as scratch:
            certificate = interp.export(recipe, model, Path(scratch) / "edited")
        print(
            f"\nHeads {name}, exported ({certificate.status}): logits by weights and by hooks differ by "
            f"{certificate.max_abs_logit_diff:.1e}, KL {certificate.kl:.1e} nats; the edit's own KL is "
            f"{certificate.effect_kl:.2f}."
        )


def show(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def _wins(margin: Tensor) -> list[float]:
    return ((margin.sign() + 1) / 2).tolist()


def _share(margin: Tensor) -> str:
    return str(mean_interval(_wins(margin)))


if __name__ == "__main__":
    main()
