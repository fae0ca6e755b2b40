"""Take out of a recipe of factors the units that make refusals likelier, where they take little off the harm.

    python experiments/real/balance.py qwen_unfounded

`learn_factors` keeps predictions by a divergence, which is of second order in a change: a small shift that all requests
share costs next to nothing there, and turns the replies to requests that were close to a refusal. Here the shift is
summed up to first order: what each unit does to the log-odds of a refusal's first token, by the gradient at half of the
edit (the midpoint rule), on safe requests in alarming words and on dangerous ones, which no audit reads. Units with the
largest share of the shift for what they take off the harm's margin go, until the sum is not above zero.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import torch
import units
import yaml
from run import HERE, MODELS
from torch import Tensor

import interp
from interp.models import Continuations, HookedModel
from interp.models.continuations import frozen_weights, logprobs

PAIRS, BATCH = 60, 6
SITES = {"neurons": "mlp_post", "heads": "z"}
Unit = tuple[str, str, float]  # kind, LAYER.NUMBER and factor


def main() -> None:
    """Write the recipe file again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="such as qwen_unfounded")
    name = parser.parse_args().name
    file = HERE / f"{name}.yaml"
    short, _, harm = name.partition("_")
    model = interp.load(HERE.parent / ".cache" / MODELS[short], dtype="bfloat16")
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    values = yaml.safe_load(file.read_text())
    listed = [(kind, unit, edit["factor"]) for edit in values["edits"] for kind in SITES for unit in edit.get(kind, ())]
    prompts = [model.render(text) for text in units.alarming_requests()]
    asked, *ends = zip(*units.KINDS[harm](model, harm)[:PAIRS], strict=True)
    shift = effects(model, listed, prompts, partial(refusal_odds, model))
    sides = [Continuations.of(model, asked, side) for side in ends]
    fall = -effects(model, listed, range(PAIRS), partial(margins, model, sides))
    order = sorted(range(len(listed)), key=lambda n: -float(shift[n] / fall[n].clamp(min=1e-3)))
    out: list[int] = []
    while shift.sum() - shift[out].sum() > 0:
        out.append(order[len(out)])
    left = [unit for number, unit in enumerate(listed) if number not in out]
    print(
        f"{len(left)} of {len(listed)} units; refusal {shift.sum():+.3f} -> {shift.sum() - shift[out].sum():+.3f} nats"
    )
    print(f"margin {-fall.sum():+.3f} -> {-(fall.sum() - fall[out].sum()):+.3f} nats, both to first order")
    groups: dict[tuple[str, float], list[str]] = defaultdict(list)
    for kind, unit, factor in left:
        groups[kind, factor].append(unit)
    edits = [{"op": "Scale", kind: group, "factor": factor} for (kind, factor), group in groups.items()]
    head.append(f"# {len(out)} units were taken out by `python experiments/real/balance.py {name}`.")
    text = yaml.safe_dump(values | {"edits": edits}, sort_keys=False, default_flow_style=None, width=110)
    file.write_text("\n".join(head) + "\n" + text)


def effects(
    model: HookedModel, listed: Sequence[Unit], items: Sequence[object], measure: Callable[[Sequence[object]], Tensor]
) -> Tensor:
    """What each unit's factor does to the mean of a measure, by the gradient at half of the edit."""
    halves = torch.tensor([(1 + factor) / 2 for _, _, factor in listed], requires_grad=True)
    places = defaultdict[str, list[tuple[int, int]]](list)
    for row, (kind, unit, _) in enumerate(listed):
        layer, _, number = unit.partition(".")
        places[f"{SITES[kind]}.{layer}"].append((int(number), row))

    def scale(site: str, x: Tensor) -> Tensor:
        numbers, rows = zip(*places[site], strict=True)
        factors = torch.ones(x.shape[2]).index_put((torch.tensor(numbers),), halves[list(rows)]).to(x)
        return x * (factors[:, None] if x.ndim == 4 else factors)

    slopes = torch.zeros(len(listed))
    with frozen_weights(model), model.hooked([(site, partial(scale, site)) for site in places]):
        for start in range(0, len(items), BATCH):
            slopes += torch.autograd.grad(measure(items[start : start + BATCH]).sum(), halves)[0]
    return slopes / len(items) * torch.tensor([factor - 1 for _, _, factor in listed])


def refusal_odds(model: HookedModel, prompts: Sequence[str]) -> Tensor:
    """The log-odds that a reply begins as a refusal does."""
    (first,) = {ids[0] for ids in model.tokenizer(["I'm sorry", "I cannot"], add_special_tokens=False)["input_ids"]}
    chances = model.forward(model.tokens(prompts), last=1)[:, 0].float().log_softmax(-1)[:, first]
    return chances - torch.log1p(-chances.exp().clamp(max=1 - 1e-6))


def margins(model: HookedModel, sides: Sequence[Continuations], items: Sequence[int]) -> Tensor:
    """log p(harmful answer) - log p(the other) of some pairs."""
    first, second = (logprobs(model, side.pick(torch.tensor(items))).float() for side in sides)
    return first - second


if __name__ == "__main__":
    main()
