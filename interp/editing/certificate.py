"""Certificate: what was measured between the hooked base model and the reloaded export."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from interp.core.display import card
from interp.core.errors import InterpError
from interp.core.files import read_json
from interp.editing.plan import MEANS, Status

# What rounding alone leaves, with room: float32 carries 24 bits, bfloat16 8. A writer that was missed leaves far more.
_TOLERANCE = {"F32": 1e-3, "F16": 1e-2, "BF16": 5e-2}


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
    """Figures over `tokens` positions, computed in float32 with the weights as exported.

    `max_abs_logit_diff`, `mean_abs_logit_diff`, `kl` (nats, hooked || exported, mean over positions) and
    `top1_agreement` compare the two models; `effect_kl` (base || hooked) is the control: what the edit itself changes
    on the same positions. `generated_agreement` is the share of the same tokens, place by place, of `generated_tokens`
    that each model writes greedily on its own behind random tokens and the prompts (after a first difference texts
    part).
    `writer_gap` is the largest difference of any writer's output between the two, relative to that output, over all
    tokens; of the stream itself where the recipe acts on that. `leak` is the largest share of any writer's output that
    is left along a removed direction, and `leak_by_writer` the largest of each; None and empty where the recipe removes
    none in full. `status` is what the fold claims to be: "exact", "scale" (exact up to one factor a token, behind a
    norm) or "approximate": the least exact of `ops`, which has an entry for each op, or for those of its sites that
    fold in one way.
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

    @property
    def faithful(self) -> bool:
        """Whether the weights do what the fold claims, to within rounding in the type exported.

        Exact: every writer must agree and every leak be closed, and the two models differ by under 1 % of what the edit
        itself changes. Up to a scale: every leak must be closed. Of what is approximate nothing is claimed: read `kl`
        beside `effect_kl`.
        """
        if self.status == "approximate":
            return True
        tolerance = max(_TOLERANCE.get(kind, 0.0) for kind in self.dtype.split(", "))
        closed = self.leak is None or self.leak <= tolerance
        if self.status == "scale":
            return closed
        return closed and self.writer_gap <= tolerance and self.kl <= max(0.01 * self.effect_kl, 1e-8)

    def rows(self) -> list[tuple[str, object]]:
        """Names and values for display, one row a figure."""
        figures = {name: value for name, value in asdict(self).items() if name not in ("leak_by_writer", "ops")}
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
            return cls(**values, ops=tuple(ops))
        except TypeError as problem:
            raise InterpError(f"{file}: not a certificate ({problem}); expected one written by interp export") from None

    def _repr_html_(self) -> str:
        return card("Certificate: hooked base model against reloaded export", self.rows())
