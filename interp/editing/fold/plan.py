"""Plan: what an edit does to a checkpoint, tensor by tensor, and how exactly, before anything of it is read or written.

    exact         the weights compute what the hooks compute, up to rounding
    scale         exact up to one factor a token, behind a norm; nothing is left along what was removed
    approximate   another edit than the hooks', which was asked for by name
    refused       not folded, with the reason

A plan is applied one tensor at a time, or one piece of a tensor at a time, in any order: it holds all that it needs of
other tensors (gains of norms, and what ablated inputs wrote on average).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from interp.core.display import html_table
from interp.editing.fold.affine_maps import MapChange
from interp.editing.fold.rounding import SIXTEEN_BITS
from interp.editing.fold.transcoder_neurons import Growth
from interp.editing.options import FoldOptions

Status = Literal["exact", "scale", "approximate", "refused"]
_ROOM = 8.0  # by how much rounding may exceed one unit of a whole vector (`interp.editing.fold.rounding`)
STATUSES: tuple[Status, ...] = ("exact", "scale", "approximate", "refused")
MEANS = {
    "exact": "exact",
    "scale": "exact up to a per-token scale (post-norm)",
    "approximate": "approximate",
    "refused": "refused",
}


@dataclass(frozen=True)
class PlannedEdit:
    """How one op folds at some of its sites, and why if not exactly."""

    op: str
    sites: tuple[str, ...]
    status: Status
    reason: str = ""

    def __str__(self) -> str:
        where = ", ".join(self.sites[:4]) + (f" and {len(self.sites) - 4} more" if len(self.sites) > 4 else "")
        return f"{self.op} at {where}: {MEANS[self.status]}{f' ({self.reason})' if self.reason else ''}"


@dataclass(frozen=True)
class Plan:
    """Changes of tensors by name, and what has to be written with them.

    `untie` names the table to be copied to `unembedding` first, where the checkpoint has none of its own. `created` are
    biases that the checkpoint lacks, each with the weight whose outputs it is added to. `config` has the keys of
    config.json to set. `grown` says what is appended to tensors, behind their change if they have one.
    """

    changes: Mapping[str, MapChange]
    untie: str | None = None
    unembedding: str = "lm_head.weight"
    created: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[PlannedEdit, ...] = ()
    grown: Mapping[str, Growth] = field(default_factory=dict)

    def apply(self, name: str, tensor: Tensor, start: int = 0, out: Tensor | None = None) -> Tensor:
        """A tensor after the edit, in its own type; one not in the plan comes back as it is.

        A piece of a tensor will do, cut along `axis` from `start`. With `out` the result is written there: to the
        tensor itself, so that no second one of its size is needed, or to one of another type. A tensor that grows has
        to be whole, and comes back as a new one.
        """
        edited = self.changes[name].apply(tensor, start, out) if name in self.changes else tensor
        return self.grown[name].apply(edited) if name in self.grown else edited

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what becomes of a tensor of a shape."""
        return self.grown[name].shape(shape) if name in self.grown else shape

    def rounding_reach(self, name: str, base: Tensor, expected: Tensor, dtype: torch.dtype) -> Tensor | float:
        """By how much another order of summation may move entries of an edited tensor, in the type computed in."""
        change = self.changes.get(name)
        if change is None or not dtype.is_floating_point:
            return 0.0
        eps = torch.finfo(torch.float32 if dtype in SIXTEEN_BITS else torch.float64).eps
        return _ROOM * eps * change.magnitude(expected if name in self.grown else base)

    def allowed_units(self, name: str) -> float:
        """How many rounding units two machines may be apart: compensation first shifts an entry by half a unit."""
        return 2.0 if name in self.changes and self.changes[name].compensate else 1.0

    @property
    def status(self) -> Status:
        """The least exact of its items'."""
        return max((item.status for item in self.items), key=STATUSES.index, default="exact")

    def barred(self, options: FoldOptions) -> list[PlannedEdit]:
        """The items that these options do not allow."""
        allowed = ("exact", "scale", "approximate") if options.approximate else ("exact",)
        return [item for item in self.items if item.status not in allowed]

    def __str__(self) -> str:
        lines = [str(item) for item in self.items]
        lines.append(f"{len(self.changes)} tensors change, {len(self.created)} of which are new biases")
        if self.grown:
            lines.append(f"{len(self.grown)} tensors grow, by neurons of which those of other layers are zero")
        if self.untie:
            lines.append(f"the unembedding is untied from {self.untie} and stays as it was")
        if self.config:
            lines.append("config.json: " + ", ".join(f"{key} = {value!r}" for key, value in self.config.items()))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [[i.op, ", ".join(i.sites), MEANS[i.status], i.reason] for i in self.items]
        return html_table("Fold plan", ["op", "sites", "fold", "why"], [list(row) for row in rows])
