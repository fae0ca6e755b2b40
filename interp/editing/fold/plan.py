"""The plan of a fold: what it does to a checkpoint, tensor by tensor, and how exactly. It is made before any writing.

    exact         the weights compute what the hooks compute, up to rounding
    approximate   a different edit from the hooks'
    refused       not folded, with the reason

`FoldOptions(approximate=True)` has to allow what is approximate. Exports of older versions can have the status "scale":
exact up to a factor per token, where a norm followed the writer.

A plan is applied to one tensor, or one piece of a tensor, at a time and in any order. It holds everything that it needs
of other tensors (gains of norms, and what ablated inputs wrote on average).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError
from interp.editing.fold.affine_maps import MapChange
from interp.editing.fold.rounding import SIXTEEN_BITS, rounding_units_of
from interp.editing.fold.transcoder_neurons import Growth
from interp.editing.options import FoldOptions

Status = Literal["exact", "scale", "approximate", "refused"]
_SHOWN = 4  # edits in the text of a plan
_ROOM = 8.0  # by how much rounding may exceed one unit of a whole vector (`interp.editing.fold.rounding`)
STATUSES: tuple[Status, ...] = ("exact", "scale", "approximate", "refused")
MEANS: dict[str, str] = {**{each: each for each in STATUSES}, "scale": "exact up to a per-token scale (older version)"}


@dataclass(frozen=True)
class PlannedEdit(Displayed):
    """How one op folds at some of its sites.

    Attributes:
        op: Name of the op's class.
        sites: The sites, as text.
        status: "exact", "approximate" or "refused".
        reason: Why it is not exact; empty if it is.

    Example:
        >>> from interp.editing.fold import PlannedEdit
        >>> print(PlannedEdit("Project", ("mlp_out.1",), "exact"))
        Project at mlp_out.1: exact
    """

    op: str
    sites: tuple[str, ...]
    status: Status
    reason: str = ""

    @property
    def where(self) -> str:
        """The first sites, and how many more there are."""
        return ", ".join(self.sites[:4]) + (f" and {len(self.sites) - 4} more" if len(self.sites) > 4 else "")

    @property
    def exactness(self) -> str:
        """The status in words, with the reason."""
        return MEANS[self.status] + (f" ({self.reason})" if self.reason else "")

    def __str__(self) -> str:
        return f"{self.op} at {self.where}: {self.exactness}"


@dataclass(frozen=True)
class Plan(Displayed):
    """Changes of tensors by name, and what has to be written with them.

    Attributes:
        changes: What is done to each tensor that changes.
        untie: The token table that is first copied to `unembedding`, where the checkpoint has no unembedding of its
            own; None where nothing is untied.
        unembedding: The name that the file gives the unembedding.
        created: Biases that the checkpoint lacks, each with the weight to whose output it is added.
        config: Keys of config.json to set.
        items: How each op folds, in the order of the recipe.
        grown: What is appended to tensors, after their change if they have one.
        warning: What other programs would make of the checkpoint; empty if there is nothing to say.
        notes: What else is to be known of the tensors that are written, such as types that change.

    Example:
        >>> from interp.editing import dry_run
        >>> recipe = interp.Recipe([("mlp_out.0", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> print(dry_run(recipe, model)[0])
        Project at mlp_out.0: exact
        1 tensor changes, 0 of which are new biases
    """

    changes: Mapping[str, MapChange]
    untie: str | None = None
    unembedding: str = "lm_head.weight"
    created: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[PlannedEdit, ...] = ()
    grown: Mapping[str, Growth] = field(default_factory=dict)
    warning: str = ""
    notes: tuple[str, ...] = ()

    def apply(self, name: str, tensor: Tensor, start: int = 0, out: Tensor | None = None) -> Tensor:
        """A tensor after the edit, in its own type; one that is not in the plan is returned unchanged.

        Args:
            name: The tensor's name.
            tensor: The tensor, or a piece of it cut along `MapChange.axis`. A tensor that grows has to be whole.
            start: Where the piece begins.
            out: Where the result is written: the tensor itself, so that no second one of its size is needed, or a
                tensor of another type. A tensor that grows is always returned as a new one.
        """
        edited = self.changes[name].apply(tensor, start, out) if name in self.changes else tensor
        return self.grown[name].apply(edited) if name in self.grown else edited

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an edited tensor, given its shape before."""
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

    def gap(
        self, name: str, held: Tensor, expected: Tensor, base: Callable[[], Tensor], dtype: torch.dtype, where: str = ""
    ) -> float | None:
        """How far a tensor is from what the plan makes of the base's, in rounding units; None where no bit differs.

        Raises where that is more than another machine's rounding explains.
        """
        if torch.equal(held, expected):
            return None
        units = rounding_units_of(held, expected, dtype, self.rounding_reach(name, base(), expected, dtype))
        if not units <= self.allowed_units(name):
            off = f"off by {units:.3g} rounding units"
            raise InterpError(f"{where}{name} is not what the recipe makes of the base ({off})")
        return units

    @property
    def status(self) -> Status:
        """The status of the least exact item."""
        return max((item.status for item in self.items), key=STATUSES.index, default="exact")

    def barred(self, options: FoldOptions) -> list[PlannedEdit]:
        """The items that these options do not allow."""
        allowed = ("exact", "approximate") if options.approximate else ("exact",)
        return [item for item in self.items if item.status not in allowed]

    @property
    def lines(self) -> list[str]:
        """How each op folds, and what changes in the checkpoint, in words."""
        lines = [str(item) for item in self.items]
        changes = plural(len(self.changes), "tensor changes", "tensors change")
        lines.append(f"{changes}, {len(self.created)} of which are new biases")
        if self.grown:
            grown = plural(len(self.grown), "tensor grows", "tensors grow")
            lines.append(f"{grown} by neurons, which are zero in the other layers")
        if self.untie:
            lines.append(f"the unembedding is untied from {self.untie} and does not change")
        if self.config:
            lines.append("config.json: " + ", ".join(f"{key} = {value!r}" for key, value in self.config.items()))
        lines += self.notes
        return [*lines, f"warning: {self.warning}"] if self.warning else lines

    def __str__(self) -> str:
        lines, more = self.lines, len(self.items) - _SHOWN
        if more > 0:
            lines[_SHOWN : len(self.items)] = [f"and {plural(more, 'more edit')}"]
        return "\n".join(lines)

    def _card(self) -> Card:
        tensors = f"{MEANS[self.status]}, {plural(len(self.changes), 'tensor')} to change"
        return tensors, [(item.op, item.where, item.exactness) for item in self.items]
