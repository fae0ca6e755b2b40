"""A model's figures on the public suite: every behaviour's score with its interval, its metric and what a coin gets.

    python experiments/public_suite.py [--model FOLDER] [--data FOLDER] [--items 200] [--smoke] [--check] [--all NAME]

Scores are kept in `--cache`, as by `interp audit MODEL --suite public --cache FOLDER`: what one measured the other
reads, and a run that was stopped goes on. `--check` compares the items drawn with a plain
loop in place of the suite's engine: each answer alone, unpadded, whole logits, no cache. `--all` scores every item that
a set has instead of a draw, for published figures. Needs the sets (docs/results/public_suite.md) and a model
(experiments/models.py); without either it says so and stops.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import interp
from interp.auditing.behaviours import Behaviour, render_prompts
from interp.auditing.conditions import ModelCondition, ScoreCache
from interp.auditing.public._rows import data_folder
from interp.auditing.public.suite import ITEMS, PUBLIC_SETS, public_suite
from interp.auditing.statistics.comparison import mean_interval
from interp.core.errors import InterpError
from interp.models.hooked import HookedModel
from interp.models.tokens import common_length

FOLDER = Path(__file__).parent / ".cache" / "smollm2-135m-instruct"
KEPT = Path(__file__).parent / ".cache" / "public_suite"
WHOLE = 100_000
COLUMNS = ("behaviour", "kind", "metric", "score [95 %]", "items (groups)", "chance")
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--data", type=Path, help="folder of the sets")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=KEPT)
    parser.add_argument("--only", nargs="*", default=[], help="behaviours by name")
    parser.add_argument("--all", nargs="*", default=[], help="behaviours on every item of their set")
    parser.add_argument("--check", action="store_true", help="against a plain loop")
    parser.add_argument("--smoke", action="store_true", help="a few items of a few behaviours")
    options = parser.parse_args()
    try:
        data_folder(options.data, [])
    except InterpError as problem:
        raise SystemExit(f"skipped: {problem}") from None
    if not options.model.exists():
        raise SystemExit(f"skipped: {options.model} is not there; make it by experiments/models.py")
    if options.smoke:
        options.items, options.only = (
            8,
            ["sycophancy_caa", "arc_easy", "bbq_ambig_bias", "crows_pairs", "refusal_xstest"],
        )
    run(options)


def run(options: argparse.Namespace) -> None:
    """Measure what was asked for, and print it."""
    items, names = (WHOLE, options.all) if options.all else (options.items, options.only)
    model, kept = interp.load(options.model), ScoreCache(options.cache)
    behaviours = public_suite(items, options.seed, options.data, names)
    # What is quick first; writing takes longest.
    behaviours.sort(key=lambda behaviour: ("max_new_tokens" in behaviour.spec, sum(map(len, behaviour.prompts))))
    if options.check:
        check(model, behaviours)
        return
    print(HEADER)
    for behaviour in behaviours:
        print(row(ModelCondition(model), behaviour, kept), flush=True)


def row(condition: ModelCondition, behaviour: Behaviour, kept: ScoreCache) -> str:
    """A line of the table."""
    scores = kept.scores(condition, behaviour)
    estimate = mean_interval(scores.values, groups=behaviour.groups, unit=behaviour.unit)
    groups = f" ({len(set(behaviour.groups))})" if behaviour.groups else ""
    chance = "" if behaviour.chance is None else f"{behaviour.chance:.2f}"
    note = " (constant)" if scores.constant else ""
    metric = PUBLIC_SETS[behaviour.name].metric
    count = f"{len(behaviour)}{groups}"
    return f"| {behaviour.name} | {behaviour.kind} | {metric} | {estimate}{note} | {count} | {chance} |"


def check(model: HookedModel, behaviours: Sequence[Behaviour]) -> None:
    """The mean of choices and pairs by the engine and by a plain loop, and on how many items they differ."""
    print("| behaviour | engine | plain loop | items that differ |\n|---|---|---|---|")
    for behaviour in behaviours:
        if "gold" in behaviour.spec:
            slow, fast = slow_choice(model, behaviour), behaviour.scores(model)
            differ = sum(abs(a - b) > 1e-3 for a, b in zip(slow, fast.values, strict=True))
            print(f"| {behaviour.name} | {fast.mean:.4f} | {sum(slow) / len(slow):.4f} | {differ} |", flush=True)


def slow_choice(model: HookedModel, behaviour: Behaviour) -> list[float]:
    """Scores of a choice, the plain way."""
    spec = behaviour.spec
    scores = []
    prompts = render_prompts(model, behaviour.prompts, chat=spec["chat"])
    for prompt, answers, gold in zip(prompts, spec["answers"], spec["gold"], strict=True):
        values = torch.tensor(plain(model, prompt, answers, spec["normalise"]))
        best = values == values.max()
        share = values.double().softmax(0) if spec["mass"] else best / best.sum()
        scores.append(float(share[list(gold)].sum()))
    return scores


@torch.no_grad()
def plain(model: HookedModel, prompt: str, answers: Sequence[str], by: str) -> list[float]:
    """log p(answer | prompt) of each answer, from one whole forward pass over both."""
    assert model.tokenizer is not None
    texts = (prompt, *(prompt + answer for answer in answers))
    alone, *rows = (model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    start = common_length([alone, *rows])
    values = []
    for ids, answer in zip(rows, answers, strict=True):
        logp = model.hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total = float(sum(logp[place - 1, ids[place]] for place in range(start, len(ids))))
        values.append(total / {"none": 1, "token": len(ids) - start, "acc_norm": len(answer.lstrip())}[by])
    return values


if __name__ == "__main__":
    main()
