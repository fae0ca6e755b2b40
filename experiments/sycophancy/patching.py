"""The heads that copy what the user said, found again by patching.

    python experiments/sycophancy/patching.py [--model FOLDER] [--pairs 16] [--threads 1]

Pairs of one question each: the user quotes the wrong answer (clean) or the right one (corrupt), and the reply has begun
with the wrong answer's first token. The metric is the log-probability of its second token, which the model copies from
the quote. Four ways to rank all heads of the model, with their time and the heads that come first:

- zeroing each head in the clean run, one hooked run a head;
- `patch`, each head of the clean run put into the corrupt one, exactly;
- `patch` by attribution, and by integrated gradients.

Compared with `copying`, the attention from where the answer's later tokens are predicted to the quote, by which
docs/results/sycophancy.md lists the heads. Zeroing the heads that patching names, against as many at random, says
whether they matter.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from heads import copying, drawn, ranked, token_ids, zeroed
from items import DATA, Item, items
from torch import Tensor

import interp
from interp.attribution import ComparedPairs, Comparison, LogProbability, patch
from interp.core.errors import InterpError
from interp.models.hooked import HookedModel

MODEL = Path(__file__).parents[1] / ".cache" / "smollm2-135m-instruct"
SHOWN = 6


def main() -> None:
    """Rank, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for path in (args.model, DATA):
        if not path.exists():
            raise InterpError(f"{path} is not there; the model comes from experiments/smollm2.py, the data beside it")
    torch.set_num_threads(args.threads)
    model, (questions, _) = interp.load(args.model), items(150, 75)
    pairs = compared(model, questions, args.pairs)
    clean, corrupt = (side.mean() for side in (pairs.clean_values, pairs.corrupt_values))
    print(f"{len(pairs)} pairs; mean log-probability of the quoted token: {clean:.2f} clean, {corrupt:.2f} corrupt\n")
    attending = ranked(copying(model, questions[:40]), SHOWN)
    ways: dict[str, Callable[[], Tensor]] = {
        "zeroing each head": lambda: 1 - zeroing(model, pairs),
        "`patch`, exact": lambda: patch(model, pairs, "z.*", by="head").effects,
        "`patch`, integrated": lambda: patch(model, pairs, "z.*", by="head", method="integrated", steps=4).effects,
        "`patch`, attribution": lambda: patch(model, pairs, "z.*", by="head", method="attribution").effects,
    }
    print(f"| way | seconds | first {SHOWN} heads, with their effect | of the {SHOWN} that attend to the quote |")
    print("|---|---|---|---|")
    for way, effects in ways.items():
        start = time.perf_counter()
        scores = effects()
        seconds, first = time.perf_counter() - start, ranked(scores, SHOWN)
        shown = ", ".join(f"{layer}.{head} {scores[layer, head]:.2f}" for layer, head in first)
        print(f"| {way} | {seconds:.1f} | {shown} | {len(set(first) & set(attending))} |", flush=True)
        if way == "`patch`, exact":
            chosen = first
    print(f"\nHeads that attend to the quote: {', '.join(f'{layer}.{head}' for layer, head in attending)}.")
    left = [effect(model, pairs, zeroed(heads)) for heads in (chosen, *(drawn(model, SHOWN, n) for n in range(5)))]
    print(
        f"\nEffect left in the clean run (1 is all of it) with {SHOWN} heads zeroed: {left[0]:.2f} for those of exact "
    )
    print(f"patching, {', '.join(f'{value:.2f}' for value in left[1:])} for as many at random.")


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


def effect(model: HookedModel, pairs: ComparedPairs, recipe: interp.Recipe) -> float:
    """What is left of the difference between clean and corrupt."""
    with model.hooked(recipe):
        return pairs.effect(pairs.metric(model.logits(pairs.clean, last=1)[None, :, 0])[0])


def zeroing(model: HookedModel, pairs: ComparedPairs) -> Tensor:
    """What is left with each head zeroed, (layer, head)."""
    width = model.config.num_attention_heads
    places = [(layer, head) for layer in range(model.n_layers) for head in range(width)]
    return torch.tensor([effect(model, pairs, zeroed([place])) for place in places]).view(-1, width)


if __name__ == "__main__":
    main()
