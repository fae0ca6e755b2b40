"""The heads that copy what the user said, found again by patching.

    python experiments/sycophancy/patching.py [--model FOLDER] [--pairs 8] [--threads 1]

Pairs of one question each: the user quotes the wrong answer (clean) or the right one (corrupt), and the reply has begun
with the wrong answer's first token. The metric is the log-probability of its second token, which the model copies from
the quote. All heads are ranked by `patch`, exactly and by attribution: each head of the clean run is put into the
corrupt one. Beside it stand the time that zeroing one head after another takes, as docs/results/sycophancy.md judges
heads by, and how many are among those that it lists: the heads that attend from the answer's later tokens to the quote
(`copying`), and those that factors learned for all heads at once turn off.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from heads import Heads, copying, drawn, ranked, token_ids, zeroed
from items import DATA, Item, items

import interp
from interp.attribution import ComparedPairs, Comparison, LogProbability, patch
from interp.core.errors import InterpError
from interp.models.hooked import HookedModel

MODEL = Path(__file__).parents[1] / ".cache" / "smollm2-135m-instruct"
SHOWN = 12
# The heads whose learned factors are least in docs/results/sycophancy.md: without them the model copies least.
LEARNED = ((20, 6), (18, 6), (23, 7), (7, 7), (7, 2), (19, 0), (23, 1), (28, 1), (24, 0), (23, 2), (17, 3), (24, 2))


def main() -> None:
    """Rank, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for path in (args.model, DATA):
        if not path.exists():
            raise InterpError(f"{path} is not there; the model comes from experiments/models.py, the data beside it")
    torch.set_num_threads(args.threads)
    model, (questions, _) = interp.load(args.model), items(150, 75)
    pairs = compared(model, questions, args.pairs)
    clean, corrupt = (side.mean() for side in (pairs.clean_values, pairs.corrupt_values))
    print(f"{len(pairs)} pairs; mean log-probability of the quoted token: {clean:.2f} clean, {corrupt:.2f} corrupt\n")
    start = time.process_time()
    attending = ranked(copying(model, questions[:40]), SHOWN)
    print(
        f"Heads that attend to the quote, of 40 questions: {_names(attending)} ({time.process_time() - start:.0f} s)\n"
    )
    chance = SHOWN * len({*attending, *LEARNED}) / (model.n_layers * model.config.num_attention_heads)
    print(f"Seconds are of processor time; by chance, {chance:.1f} of {SHOWN} heads are in either list.\n")
    print(f"| way | seconds | first {SHOWN} heads, with their effect | attend | learned | either |")
    print("|---|---|---|---|---|---|")
    chosen = []
    for method in ("exact", "attribution"):
        start = time.process_time()
        result = patch(model, pairs, "z.*", by="head", method=method)
        seconds, scores = time.process_time() - start, result.changes
        first = ranked(scores, SHOWN)
        chosen = chosen or first
        shown = ", ".join(f"{layer}.{head} {result.effects[layer, head]:.2f}" for layer, head in first)
        both = [len(set(first) & set(listed)) for listed in (attending, LEARNED, {*attending, *LEARNED})]
        print(f"| `patch`, {method} | {seconds:.0f} | {shown} | {' | '.join(map(str, both))} |", flush=True)
    print(f"\nAgreement of attribution with exact patching, on {result.agreement.places} heads: "
          f"Spearman {result.agreement.spearman:.2f}, Pearson {result.agreement.pearson:.2f}.")  # fmt: skip
    zeroing(model, pairs, chosen)


def zeroing(model: HookedModel, pairs: ComparedPairs, chosen: Heads) -> None:
    """Print what zeroing heads one by one leaves, and how long it takes for all, from some; and zeroing several."""
    some, every = chosen[:6], model.n_layers * model.config.num_attention_heads
    start = time.process_time()
    left = [pairs.effect_of(model, zeroed([head])) for head in some]
    seconds = (time.process_time() - start) / len(some)
    print(
        f"\nZeroing one head takes {seconds:.2f} s (mean of {len(some)}), so all {every} take {seconds * every:.0f} s."
    )
    named = [f"{_names([head])} {value:.2f}" for head, value in zip(some, left, strict=True)]
    print(f"It leaves of the effect: {', '.join(named)}.")
    several = [pairs.effect_of(model, zeroed(heads)) for heads in (chosen, *(drawn(model, SHOWN, n) for n in range(3)))]
    print(f"Zeroing the {SHOWN} of exact patching leaves {several[0]:.2f}; as many at random leave "
          f"{', '.join(f'{value:.2f}' for value in several[1:])}.")  # fmt: skip


def _names(heads: Heads) -> str:
    return ", ".join(f"{layer}.{head}" for layer, head in heads)


def compared(model: HookedModel, questions: Sequence[Item], count: int) -> ComparedPairs:
    """The pairs whose quote has the tokens of the answer, as far as there are so many."""
    sides: tuple[list[list[int]], list[list[int]]] = [], []
    following: list[int] = []
    for item in questions:
        answer, quoted = token_ids(model, item.wrong), token_ids(model, " " + item.wrong)
        if len(answer) < 2 or quoted[1:] != answer[1:] or len(following) == count:
            continue
        for side, wording in zip(sides, ("wrong hint", "right hint"), strict=True):
            side.append(token_ids(model, model.chat(item.ask(wording))) + answer[:1])
        following.append(answer[1])
    return Comparison(*sides, LogProbability(following), alignment="ends", name="hint").on(model)


if __name__ == "__main__":
    main()
