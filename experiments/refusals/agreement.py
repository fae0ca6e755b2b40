"""How well `Refuses` agrees with two independent labellings of replies, and these with each other.

    python experiments/refusals/agreement.py [--replies experiments/.cache/refusals.jsonl]

`replies.py` writes the replies. `labels.jsonl` holds, for each reply, the SHA-256 of prompt and reply and two labels,
given by two readers who did not see each other's. Each reader labelled every reply as one that declines the request in
its words, or not. The rules were written on the prompts whose id hashes to the half "develop"; the other half was not
read. Truth is the label on which both readers agree. PyRIT's 92 labelled replies come last; their authors also count a
reply to another question as a refusal, which a rule on words does not.

Intervals are of 95 %: Wilson's for precision and recall, the percentile bootstrap over prompts for Cohen's kappa.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp.auditing.scoring.refusals import Refuses
from interp.auditing.statistics.intervals import Z, wilson

LABELS = Path(__file__).with_name("labels.jsonl")
PYRIT = Path(__file__).parents[3] / "shared" / "data" / "pyrit_refusal_labels" / "refusal_labels.jsonl"
REPLIES = Path(__file__).parents[1] / ".cache" / "refusals.jsonl"


HALVES = {"develop": True, "unseen": False}


def digest(prompt: str, reply: str) -> str:
    """What stands for a prompt and its reply in the labels."""
    return hashlib.sha256(f"{prompt}\0{reply}".encode()).hexdigest()[:16]


def is_seen(prompt_id: str) -> bool:
    """Whether rules were written with this prompt's replies in view."""
    return int(hashlib.sha256(prompt_id.encode()).hexdigest(), 16) % 2 == 0


def kappa(pairs: np.ndarray) -> float:
    """Cohen's kappa (1960) of two columns of 0 and 1."""
    observed = (pairs[:, 0] == pairs[:, 1]).mean()
    first, second = pairs.mean(0)
    expected = first * second + (1 - first) * (1 - second)
    return float((observed - expected) / (1 - expected)) if expected < 1 else 1.0


def kappa_text(pairs: Sequence[tuple[int, int]], groups: Sequence[str], resamples: int = 2000) -> str:
    """Kappa with its interval."""
    table = np.array(pairs)
    members = [np.flatnonzero(np.array(groups) == group) for group in dict.fromkeys(groups)]
    draws = np.random.default_rng(0).integers(len(members), size=(resamples, len(members)))
    values = [kappa(table[np.concatenate([members[k] for k in draw])]) for draw in draws]
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{kappa(table):.3f} [{low:.3f}, {high:.3f}]"


def share(hits: int, of: int) -> str:
    """A rate with its interval."""
    low, high = wilson(hits / of, of, Z) if of else (0.0, 1.0)
    return f"{hits / max(1, of):.3f} [{low:.3f}, {high:.3f}]"


def row_of(name: str, truth: Sequence[int], rule: Sequence[int], groups: Sequence[str]) -> None:
    """One row of the table."""
    pairs = list(zip(truth, rule, strict=True))
    yes, found, hits = sum(truth), sum(rule), pairs.count((1, 1))
    cells = [len(pairs), yes, pairs.count((1, 0)), pairs.count((0, 1)), share(hits, found), share(hits, yes)]
    print(f"| {name} | {' | '.join(map(str, cells))} | {kappa_text(pairs, groups)} |")


def _of(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=Path, default=REPLIES)
    options = parser.parse_args()
    labels = [json.loads(row) for row in LABELS.read_text(encoding="utf-8").splitlines()]
    first, second = ([row[name] for row in labels] for name in ("first", "second"))
    ids = [row["id"] for row in labels]
    between = kappa_text(list(zip(first, second, strict=True)), ids)
    print(f"{len(labels)} replies; the two labellings agree with kappa {between}\n")
    results: dict[str, Any] = {}
    grade = Refuses()
    if options.replies.is_file():
        replies = [json.loads(row) for row in options.replies.read_text(encoding="utf-8").splitlines()]
        rule = {digest(row["prompt"], row["reply"]): int(grade(row["prompt"], row["reply"])) for row in replies}
        kept = [row for row in labels if row["sha256"] in rule and row["first"] == row["second"]]
        parts = [(name, [row for row in kept if is_seen(row["id"]) == half]) for name, half in HALVES.items()]
        unseen = parts[-1][1]
        arms = sorted(set(_of(unseen, "arm")))
        parts += [(f"unseen: {arm}", [row for row in unseen if row["arm"] == arm]) for arm in arms]
        for name, rows in parts:
            verdicts = [rule[sha256] for sha256 in _of(rows, "sha256")]
            results[name] = (_of(rows, "first"), verdicts, _of(rows, "id"))
        print(f"Labelled replies that are not in the file: {sum(row['sha256'] not in rule for row in labels)}.\n")
    if PYRIT.is_file():
        rows = [json.loads(row) for row in PYRIT.read_text(encoding="utf-8").splitlines()]
        for name, half in HALVES.items():
            part = [row for row in rows if is_seen(row["objective"]) == half]
            verdicts = [int(grade(row["objective"], row["response"])) for row in part]
            results[f"PyRIT, {name}"] = ([int(r["is_refusal"]) for r in part], verdicts, _of(part, "objective"))
        both = [results[name] for name in ("unseen", "PyRIT, unseen") if name in results]
        results["unseen, both"] = tuple([value for part in both for value in part[k]] for k in range(3))
    print("| replies | n | refusals | missed | false hits | precision | recall | kappa |")
    print("|---|---|---|---|---|---|---|---|")
    for name, columns in results.items():
        row_of(name, *columns)


if __name__ == "__main__":
    main()
