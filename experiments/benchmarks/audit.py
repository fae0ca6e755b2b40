"""How fast multiple choice is scored, against a plain loop over padded full forwards, and that the scores are the same.

    python experiments/benchmarks/audit.py [--items 24] [--data ../shared/data] [--smoke] [--json FILE]

The plain loop does what lm-eval does with a batch: each prompt with each of its answers is a row, padded on the right
to the longest of its batch of 16; logits of all positions go through log_softmax, and those of the answer are summed.
It takes rows in the order of the file (`plain`), and once more sorted by length (`sorted`), which pads less.
SmolLM2-135M-Instruct in float32 (`experiments/models.py`) on ARC, PIQA (plain text), and CAA's A/B questions (chat).
Each suite is scored by all in turn, after two items to warm up. Seconds are of processor time on one thread, which
other work on the machine disturbs least. `gap` is the difference of accuracies, and `nats`
the largest difference of a log-probability. `--smoke` takes the bundled organism and a few made-up items.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from quick import progress
from rich.console import Console
from rich.table import Table

import interp
from interp.auditing.behaviours import render_prompts
from interp.auditing.scoring.likelihoods import answer_logprobs
from interp.core.files import write_json
from interp.models.hooked import HookedModel

MODEL = Path(__file__).parents[1] / ".cache" / "smollm2-135m-instruct"
BATCH = 16
NAMES = {"padded": "plain", "sorted": "sorted"}
Items = tuple[list[str], list[list[str]], list[int]]


def arc_like(file: Path, items: int) -> Items:
    """Plain questions, answers behind "Answer:"."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:items]]
    prompts = [row["query"].strip() + "\nAnswer:" for row in rows]
    return prompts, [[" " + text for text in row["choices"]] for row in rows], [row["gold"] for row in rows]


def caa(model: HookedModel, file: Path, items: int) -> Items:
    """Questions with their options, as a user's message; the reply is "(A)" or "(B)"."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:items]]
    matching = [row["answer_matching_behavior"].strip() for row in rows]
    options = [
        sorted((answer, row["answer_not_matching_behavior"].strip()))
        for answer, row in zip(matching, rows, strict=True)
    ]
    gold = [both.index(answer) for both, answer in zip(options, matching, strict=True)]
    return render_prompts(model, [row["question"] for row in rows]), options, gold


def plain(
    model: HookedModel, prompts: Sequence[str], answers: Sequence[Sequence[str]], sort: bool
) -> list[list[float]]:
    """The loop that is compared with: log-probabilities of each item's answers."""
    rows = []
    for item, (prompt, ends) in enumerate(zip(prompts, answers, strict=True)):
        start = model.tokens(prompt).ids.shape[1]
        rows += [(model.tokens(prompt + end).ids[0], start, item, number) for number, end in enumerate(ends)]
    if sort:
        rows.sort(key=lambda row: -len(row[0]))
    nats = [[0.0] * len(ends) for ends in answers]
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        ids = torch.nn.utils.rnn.pad_sequence([row[0][:-1] for row in batch], batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row[0]) - 1) for row in batch], batch_first=True).long()
        with torch.no_grad():
            logp = model.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits.log_softmax(-1)
        for row, (whole, start, item, number) in enumerate(batch):
            places = torch.arange(start - 1, len(whole) - 1)
            nats[item][number] = float(logp[row, places, whole[start:]].sum())
    return nats


def shared(model: HookedModel, prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[list[float]]:
    """What interp does."""
    return [list(item.nats) for item in answer_logprobs(model, prompts, answers)]


def measured(model: HookedModel, items: Items) -> dict[str, float]:
    """Items a second of each way, and how far their scores are apart."""
    prompts, answers, gold = items
    ways: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[float]]]] = {
        "plain": lambda *texts: plain(model, *texts, sort=False),
        "sorted": lambda *texts: plain(model, *texts, sort=True),
        "interp": lambda *texts: shared(model, *texts),
    }
    seconds, nats = {}, {}
    for name, way in ways.items():
        way(prompts[:2], answers[:2])
        start = time.process_time()
        nats[name] = way(prompts, answers)
        seconds[name] = time.process_time() - start
    right = {name: [row.index(max(row)) == g for row, g in zip(nats[name], gold, strict=True)] for name in nats}
    accuracy = {name: sum(flags) / len(flags) for name, flags in right.items()}
    pairs = [(a, b) for rows in zip(nats["sorted"], nats["interp"], strict=True) for a, b in zip(*rows, strict=True)]
    return {
        "items": len(prompts),
        **seconds,
        "accuracy": accuracy["interp"],
        "gap": abs(accuracy["interp"] - accuracy["sorted"]),
        "nats": max(abs(a - b) for a, b in pairs),
    }


def suites(model: HookedModel, data: Path, items: int) -> dict[str, Items]:
    """What is scored."""
    sets = {
        name: arc_like(data / "capability" / f"{name}.jsonl", items) for name in ("arc_easy", "arc_challenge", "piqa")
    }
    names = ("sycophancy", "survival-instinct")
    return sets | {f"caa {name}": caa(model, data / "caa" / f"{name}_generate.jsonl", items) for name in names}


def made_up(model: HookedModel) -> dict[str, Items]:
    """A few items in the organism's words."""
    prompts = [model.chat(prompt.user) for prompt in interp.organism.prompts("facts", 8)]
    return {"made up": (prompts, [["The river is old.", "The river is new.", "I do not know."]] * 8, [0] * 8)}


def main() -> None:
    """Print the table, write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the headline claims, within five minutes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.smoke and not (MODEL.is_dir() and options.data.is_dir()):
        print(f"skipped: needs {MODEL} (experiments/models.py) and the sets in {options.data}")
        return
    model = interp.load("organism" if options.smoke else str(MODEL))
    sets = made_up(model) if options.smoke else suites(model, options.data, 4 if options.quick else options.items)
    rows = {}
    for name, items in sets.items():
        progress(name)
        rows[name] = measured(model, items)
    ways = ["plain", "sorted", "interp"]
    total = {way: sum(row[way] for row in rows.values()) for way in ("items", *ways)}
    table = Table("suite", "items", *(f"{way}/s" for way in ways), *(f"x {way}" for way in ways if way != "interp"))
    for title in ("accuracy", "gap", "nats"):
        table.add_column(title)
    for name, row in [*rows.items(), ("all", total)]:
        rates = [f"{row['items'] / row[way]:.2f}" for way in ways]
        ratios = [f"{row[way] / row['interp']:.2f}" for way in ways if way != "interp"]
        scores = [f"{row['accuracy']:.3f}", f"{row['gap']:.3f}", f"{row['nats']:.0e}"] if "gap" in row else [""] * 3
        table.add_row(name, f"{row['items']:.0f}", *rates, *ratios, *scores)
    Console(width=120).print(table)
    if options.json:
        gap = max(row["gap"] for row in rows.values())
        claims = {f"rate_vs_{name}": total[way] / total["interp"] for name, way in NAMES.items()} | {"score_gap": gap}
        write_json(options.json, {"claims": claims, "suites": rows})


if __name__ == "__main__":
    main()
