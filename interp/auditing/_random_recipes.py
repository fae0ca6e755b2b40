"""Random recipes: random contents of the same shapes and norms at the same sites, since any edit does something.

- Vectors of the residual stream (Project, Add, Erase, LowRank) are rotated: the span of all edits of a recipe is mapped
  onto a random subspace of the same dimension. Norms, angles and equal rows are preserved.
- Factors of heads or neurons (Scale) are permuted among the units of their site.
- Ablated units (Replace, Resample) and latents (Clamp) are replaced by as many others at the same site: none of the
  edit's own, unless these are more than half of all.
- Where and when an op acts (At, Schedule, Gate's condition) stays the same.

Limitations: other ops have no random counterpart here.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.interventions.op import Op, op_class
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.sites import Site

_TURNED = {"Project": ("rows",), "Add": ("vector",), "Erase": ("read", "write"), "LowRank": ("rows", "weight")}
_TRIES = 20
_RANK = 1e-6  # a share of the largest singular value


def randomise(recipe: Recipe, model: HookedModel, seed: int = 0) -> Recipe:
    """The recipe with random contents; see the module.

    Raises for an op that has no random counterpart, and if every draw equals the edit itself (such as factors that are
    all equal).
    """
    draw = torch.Generator().manual_seed(seed)
    for _ in range(_TRIES):
        randomised = _drawn(recipe, model, draw, seed)
        if any(_differ(old.op, new.op) for old, new in zip(recipe.edits, randomised.edits, strict=True)):
            return randomised
    raise InterpError(
        "chance gives nothing but the recipe itself, so it has no random counterpart; leave the random baseline out "
        "(--baselines prompt)"
    )


def _differ(old: Op, new: Op) -> bool:
    """Whether two ops of a kind have other contents, whatever they were fitted on."""
    unfitted, tensors = {"direction": None}, new.tensors()
    moved = any(not torch.equal(x, tensors[name]) for name, x in old.tensors().items())
    return moved or old.settings() | unfitted != new.settings() | unfitted


def _drawn(recipe: Recipe, model: HookedModel, draw: torch.Generator, seed: int) -> Recipe:
    parts = [_Parts(type(e.op).__name__, dict(e.op.settings()), dict(e.op.tensors())) for e in recipe.edits]
    innermost = [part.innermost() for part in parts]
    _turn([part for part in innermost if part.op in _TURNED], draw)
    for part, edit in zip(innermost, recipe.edits, strict=True):
        if part.op not in _TURNED:
            _redraw(part, model.resolve(edit.sites), model, draw)
    ops = [op_class(part.op).restore(part.settings, part.tensors) for part in parts]
    edits = [replace(edit, op=op, named=()) for edit, op in zip(recipe.edits, ops, strict=True)]
    return Recipe(edits, recipe.model, f"random, seed {seed}: {recipe.note}")


@dataclass
class _Parts:
    """An op as it is saved. The tensors of a nested op are accessed by their own names."""

    op: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    prefix: str = ""

    def innermost(self) -> "_Parts":
        """The op that acts, whose settings and tensors are changed in place of the outer ones."""
        part = self
        while isinstance(part.settings.get("op"), str):
            part.settings["settings"] = dict(part.settings["settings"])
            part = _Parts(part.settings["op"], part.settings["settings"], part.tensors, part.prefix + "op.")
        return part

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        self.tensors[self.prefix + name] = tensor


def _turn(parts: list[_Parts], draw: torch.Generator) -> None:
    """Lay the span of all rows onto a random subspace."""
    places = [(part, name) for part in parts for name in _TURNED[part.op]]
    if not places:
        return
    rows = [torch.atleast_2d(part[name]) for part, name in places]
    turned = _turned(torch.cat(rows).double(), draw).float().split(list(map(len, rows)))
    for (part, name), vectors in zip(places, turned, strict=True):
        part[name] = vectors.reshape(part[name].shape).clone()
        if "direction" in part.settings:
            part.settings["direction"] = None  # the random vector was not fitted as the original was


def _turned(rows: Float[Tensor, "k d_model"], draw: torch.Generator) -> Float[Tensor, "k d_model"]:
    """Rows with the same norms and angles in a random subspace."""
    left, size, _ = torch.linalg.svd(rows, full_matrices=False)
    rank = int((size > _RANK * size[0]).sum())
    basis = torch.linalg.qr(torch.randn(rows.shape[1], rank, generator=draw, dtype=rows.dtype)).Q
    return (left[:, :rank] * size[:rank]) @ basis.T


def _redraw(part: _Parts, sites: list[Site], model: HookedModel, draw: torch.Generator) -> None:
    """Other factors, units or latents. If all units are replaced, the coordinates of their values are permuted."""
    values = {"Replace": "value", "Resample": "values"}.get(part.op)
    if part.op == "Scale":
        part["factors"] = _permuted(part["factors"], draw)
    elif part.op == "Clamp":
        part.settings["latents"] = _others(part.settings["latents"], part["W_dec"].shape[-2], draw)
    elif values and part.settings["units"] is not None:
        part.settings["units"] = sorted(_others(part.settings["units"], _count(sites, model), draw))
    elif values and part.prefix + values in part.tensors:
        part[values] = _permuted(part[values], draw)
    else:
        raise InterpError(
            f"{part.op} at {', '.join(map(str, sites))} has no random counterpart; leave the random baseline out "
            "(--baselines prompt)"
        )


def _permuted(values: Tensor, draw: torch.Generator) -> Tensor:
    return values[..., torch.randperm(values.shape[-1], generator=draw)]


def _count(sites: list[Site], model: HookedModel) -> int:
    """The least number of units at the sites: heads, or coordinates."""
    activations = model.capture("a", sites, chat=False)
    return min(activations[site].shape[2] for site in sites)


def _others(taken: list[int], count: int, draw: torch.Generator) -> list[int]:
    """As many numbers under `count`, none of them taken if there are enough."""
    free = sorted(set(range(count)) - set(taken)) if 2 * len(taken) <= count else list(range(count))
    return [free[number] for number in torch.randperm(len(free), generator=draw)[: len(taken)].tolist()]
