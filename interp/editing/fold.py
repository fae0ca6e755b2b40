"""Fold a recipe into the tensors that write the residual stream: exactly, or refused with the reason.

An op with an affine form x -> x - (x readᵀ) write + bias at a writer's site is the same map on the rows of that writer:

    nn.Linear (out, in)      W - writeᵀ (read W)
    Conv1D (in, out), tables W - (W readᵀ) write
    a writer's bias b        b - (b readᵀ) write + bias
    a table (one row a token)  the bias too, in each row

A model that multiplies what its writers compute before adding it (Granite) has the multiplier divided out of the bias.

Hook and weights then agree for every prompt and position. A tied unembedding is untied first, since it reads the stream
and must stay as it was. What is refused: ops without an affine form, sites that no single tensor writes (residual
sites), norms behind a writer, and a constant where the writer has no bias to hold it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from interp.core.display import table
from interp.core.errors import InterpError
from interp.interventions.ops import Affine, Op
from interp.interventions.recipe import Recipe
from interp.models.architectures import Writer, writers
from interp.models.sites import WRITERS, Site, resolve

UNEMBEDDING = "lm_head.weight"


@dataclass(frozen=True)
class Plan:
    """Which tensors change and by which maps, in order; `untie` names the table to copy to the unembedding first."""

    changes: dict[str, tuple[tuple[Writer, Affine], ...]]
    untie: str | None = None

    def apply(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor after the edit, in its own type, computed in float64; one not in the plan comes back as it is."""
        if name not in self.changes:
            return tensor
        wide = tensor.double()
        for writer, affine in self.changes[name]:
            wide = _mapped(wide, writer, affine)
        return wide.to(tensor.dtype)

    def _repr_html_(self) -> str:
        rows = [[name, len(maps), maps[0][0].layout] for name, maps in self.changes.items()]
        return table(
            "Fold plan" + (f" (unties {self.untie})" if self.untie else ""), ["tensor", "maps", "layout"], rows
        )


def fold(recipe: Recipe, config: Any, names: Iterable[str], tied: bool) -> Plan:
    """Plan a recipe's fold into a checkpoint with these tensor names.

    `config` is the Hugging Face config. Raises InterpError with the reason where the fold would not be exact.
    """
    present = set(names)
    written = writers(config)
    known = list(dict.fromkeys(writer.site for writer in written))
    _all_present(written, present)
    changes: dict[str, list[tuple[Writer, Affine]]] = {}
    for edit in recipe.edits:
        affine = _affine(edit.op)
        for site in resolve([_foldable(pattern) for pattern in edit.sites], known):
            own = [writer for writer in written if writer.site == site and writer.tensor in present]
            _holds_constant(own, site, affine)
            for writer in own:
                changes.setdefault(writer.tensor, []).append((writer, affine))
    table_name = next(writer.tensor for writer in written if writer.site == Site("embed"))
    untie = table_name if tied and table_name in changes else None
    return Plan({name: tuple(maps) for name, maps in changes.items()}, untie)


def _mapped(wide: Tensor, writer: Writer, affine: Affine) -> Tensor:
    read, write, bias = (x.to(wide) for x in (affine.read, affine.write, affine.bias))
    if writer.layout == "out_in":
        return wide - write.T @ (read @ wide)
    changed = wide - (wide @ read.T) @ write
    return changed + bias / writer.scale if writer.layout == "rows" else changed


def _affine(op: Op) -> Affine:
    affine = op.affine()
    if affine is None:
        raise InterpError(
            f"{type(op).__name__} is not an affine function of the activations, so it has no exact fold into "
            "weights; project "
            "its direction instead (Project), or run it with hooks (model.hooked(recipe))"
        )
    return affine


def _foldable(pattern: str) -> str:
    kind = pattern.partition(".")[0]
    if pattern != "writers" and kind not in WRITERS and not pattern.startswith(("blocks.", "hook_")):
        raise InterpError(
            f"an op at {pattern!r} can't be folded: no single tensor writes that site; declare it at writers "
            f"({', '.join(WRITERS)}; or all of them: 'writers')"
        )
    return pattern


def _all_present(written: Iterable[Writer], present: set[str]) -> None:
    missing = [w.tensor for w in written if w.tensor.endswith(".weight") and w.tensor not in present]
    if missing:
        raise InterpError(
            f"the checkpoint has no tensor {missing[0]!r} ({len(missing)} missing), so the fold would be partial"
        )


def _holds_constant(own: list[Writer], site: Site, affine: Affine) -> None:
    if affine.bias.any() and not any(writer.layout == "rows" for writer in own):
        raise InterpError(
            f"adding a vector at {site} needs a bias on its writer, and this architecture has none there; run the "
            "recipe with "
            "hooks (model.hooked(recipe)), or project instead of adding"
        )
