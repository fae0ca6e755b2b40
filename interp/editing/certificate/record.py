"""Certificate: what was measured between the hooked base model and the reloaded export.

Two questions, each with its own bars. Does the fold do what the hooks do? That is asked of the weights before they are
rounded to 16 bits, in float32, where only float32's own rounding is let pass; so an error far below a 16-bit unit is
seen. What did rounding do to it? Each weight is within a unit of the unrounded one, and the export has to be nearer to
the hooked model than the base is.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from interp.core.display import html_card
from interp.core.errors import InterpError
from interp.core.files import read_json
from interp.editing.fold.plan import MEANS, Status

# What float32 alone leaves, with room.
OFF, LEAK, LOGITS, SHARE = 1e-5, 1e-6, 1e-4, 0.01
_NO_KL = 1e-8  # nats that float32 makes of nothing


@dataclass(frozen=True)
class Fold:
    """What the fold does before its weights are rounded to 16 bits, all that its claims have to answer for.

    `off` is the largest gap of any writer's output (or of the stream) that claims to be exact, or, without the factor
    that each token may have, exact up to one; each read the stream that the hooked model has there. `leak` is the
    largest share left along what was removed, where the claim is not "approximate". `logit_diff` is the largest
    difference of logits, over their range, and `kl` in nats; these two of whole models, and claimed if all is exact.
    """

    off: float
    leak: float | None
    logit_diff: float
    kl: float

    def unmet(self, exact: bool, effect_kl: float) -> Iterator[str]:
        """Which bars of float32 are not met, in words."""
        if not self.off <= OFF:
            yield f"a writer is off by {self.off:.1e} of what it writes, limit {OFF:.0e}"
        if self.leak is not None and not self.leak <= LEAK:
            yield f"{self.leak:.1e} of what is written is left along what was removed, limit {LEAK:.0e}"
        if exact and not self.logit_diff <= LOGITS:
            yield f"logits are off by {self.logit_diff:.1e} of their range, limit {LOGITS:.0e}"
        if exact and not self.kl <= max(SHARE * effect_kl, _NO_KL):
            yield f"KL {self.kl:.1e} nats is more than {SHARE:.0%} of the edit's own {effect_kl:.1e}"


@dataclass(frozen=True)
class OpFigures:
    """What one op's fold claims to be at its sites, and what was measured there.

    `gap` is the largest difference of what is at one of the sites (for inputs of an output projection: of what that
    writes) between hooked and exported model, relative to what is there; `leak` the largest share of it that is left
    along what the op removes in full, None where that is nothing or another op follows.
    """

    op: str
    sites: tuple[str, ...]
    status: Status
    reason: str
    gap: float
    leak: float | None

    def __str__(self) -> str:
        where = ", ".join(self.sites[:4]) + (f" and {len(self.sites) - 4} more" if len(self.sites) > 4 else "")
        left = "" if self.leak is None else f", leak {self.leak:.1e}"
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.op} at {where}: {MEANS[self.status]}{why}, gap {self.gap:.1e}{left}"


@dataclass(frozen=True)
class Certificate:
    """Figures over `tokens` positions, computed in float32 with the weights as exported: rounded to their type.

    The base is rounded to that type first where the export was cast: what is compared is the edit.

    `max_abs_logit_diff`, `mean_abs_logit_diff`, `kl` (nats, hooked || exported, mean over positions) and
    `top1_agreement` compare the two models; `effect_kl` (base || hooked) is the control: what the edit itself changes
    on the same positions. `generated_agreement` is the share of the same tokens, place by place, of `generated_tokens`
    that each model writes greedily on its own behind random tokens and the prompts (after a first difference texts
    part).
    `logit_range` is that of the hooked model's logits, largest less smallest.
    `writer_gap` is the largest difference of any writer's output between the two, relative to that output, over all
    tokens, where each reads the stream that the hooked model has there (`interp.editing.certificate.part_gaps`); of the
    stream itself where the recipe acts on that. `leak` is the largest share of any writer's output that
    is left along a removed direction, and `leak_by_writer` the largest of each; None and empty where the recipe removes
    none in full. `status` is what the fold claims to be: "exact", "scale" (exact up to one factor a token, behind a
    norm) or "approximate": the least exact of `ops`, which has an entry for each op, or for those of its sites that
    fold in one way. `fold` has the figures before rounding; None in certificates of older versions.
    """

    max_abs_logit_diff: float
    kl: float
    top1_agreement: float
    effect_kl: float
    writer_gap: float
    leak: float | None
    tokens: int
    dtype: str
    leak_by_writer: dict[str, float] = field(default_factory=dict)
    status: str = "exact"
    mean_abs_logit_diff: float | None = None
    generated_agreement: float | None = None
    generated_tokens: int = 0
    ops: tuple[OpFigures, ...] = ()
    logit_range: float | None = None
    fold: Fold | None = None

    @property
    def faithful(self) -> bool:
        """Whether the weights do what the fold claims, and are nearer to the hooked model than the base is."""
        return not self.unmet

    @property
    def unmet(self) -> tuple[str, ...]:
        """What is not as claimed, in words."""
        if self.fold is None:
            return ("it was measured by an older version, which did not look at the fold before rounding",)
        found = list(self.fold.unmet(self.status == "exact", self.effect_kl))
        if not (self.kl < self.effect_kl or self.kl <= _NO_KL):
            rounded = not found and self.status != "approximate" and self.dtype != "F32"
            why = f"; rounding to {self.dtype} hides the edit, export as float32" if rounded else ""
            found.append(
                f"it is no nearer to the hooked model (KL {self.kl:.1e} nats) than the base ({self.effect_kl:.1e}){why}"
            )
        return tuple(found)

    def differs(self, other: "Certificate") -> str | None:
        """The name of a figure that is another in `other`, by more than measuring on another machine explains."""
        floors = {
            "max_abs_logit_diff": LOGITS * (self.logit_range or 1.0),
            "mean_abs_logit_diff": LOGITS * (self.logit_range or 1.0),
            "top1_agreement": 0.02,
            "generated_agreement": 0.5,
            "writer_gap": OFF,
            "leak": LEAK,
        }
        mine, theirs = asdict(self), asdict(other)
        for name, value in mine.items():
            if name in ("ops", "fold", "leak_by_writer"):
                continue
            if not _near(value, theirs[name], floors.get(name, _NO_KL)):
                return name
        said = [[(op.op, op.sites, op.status) for op in each.ops] for each in (self, other)]
        return None if said[0] == said[1] else "ops"

    def rows(self) -> list[tuple[str, object]]:
        """Names and values for display, one row a figure."""
        figures = {name: value for name, value in asdict(self).items() if name not in ("leak_by_writer", "ops", "fold")}
        before = asdict(self.fold).items() if self.fold else ()
        figures |= {f"before rounding: {name}": value for name, value in before}
        shown = [(name, f"{value:.3g}" if isinstance(value, float) else value) for name, value in figures.items()]
        return [*shown, *((f"op {number}", str(op)) for number, op in enumerate(self.ops, 1))]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def read(cls, file: str | Path) -> "Certificate":
        """The inverse of `to_json`, from a file."""
        try:
            values = read_json(file)
            ops = [OpFigures(**{**op, "sites": tuple(op["sites"])}) for op in values.pop("ops", ())]
            fold = values.pop("fold", None)
            return cls(**values, ops=tuple(ops), fold=Fold(**fold) if fold else None)
        except TypeError as problem:
            raise InterpError(f"{file}: not a certificate ({problem}); expected one written by interp export") from None

    def _repr_html_(self) -> str:
        return html_card("Certificate: hooked base model against reloaded export", self.rows())


def _near(one: object, other: object, floor: float) -> bool:
    """The same within a tenth, or within what is nothing."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 0.1 * max(abs(one), abs(other)) + floor
    return one == other
