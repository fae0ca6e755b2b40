"""Probes: the tokens that an export is measured on, saved with it, so that it can be measured on them again."""

from collections.abc import Sequence
from pathlib import Path

import torch

from interp.core.errors import InterpError
from interp.core.files import read_tensors, write_tensors
from interp.editing.certificate.manifest import PROBES
from interp.models import HookedModel, Tokens


def random_probes(model: HookedModel, prompts: Sequence[str] = (), instead: Sequence[Tokens] = ()) -> list[Tokens]:
    """Eight sequences of 32 random tokens, then the prompts; in small batches, since all logits are held at once.

    `instead` replaces the random ones: what was learnt from texts holds on texts.
    """
    length = min(32, model.context or 32)
    ids = torch.randint(model.config.vocab_size, (8, length), generator=torch.Generator().manual_seed(0))
    batches = [*instead] or [Tokens(ids, torch.ones_like(ids, dtype=torch.bool))]
    if prompts:
        batches += model.tokens(list(prompts)).batches(4)
    return batches


def write_probes(folder: Path, probes: list[Tokens]) -> None:
    """Save the tokens that an export was measured on."""
    named = {f"{number}.{name}": getattr(p, name) for number, p in enumerate(probes) for name in ("ids", "mask")}
    write_tensors(folder / PROBES, {name: x.contiguous() for name, x in named.items()})


def read_probes(folder: Path) -> list[Tokens]:
    """The inverse of `write_probes`."""
    named = read_tensors(folder / PROBES)
    try:
        return [Tokens(named[f"{number}.ids"], named[f"{number}.mask"]) for number in range(len(named) // 2)]
    except KeyError as problem:
        raise InterpError(f"{folder / PROBES}: no tensor {problem}; export again") from None
