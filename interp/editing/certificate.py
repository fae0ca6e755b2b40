"""Certificate: what was measured between the hooked base model and the reloaded export."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from interp.core.display import card
from interp.core.errors import InterpError
from interp.core.files import read_json

# What rounding alone leaves, with room: float32 carries 24 bits, bfloat16 8. A writer that was missed leaves far more.
_TOLERANCE = {"F32": 1e-3, "F16": 1e-2, "BF16": 5e-2}


@dataclass(frozen=True)
class Certificate:
    """Figures over `tokens` positions, computed in float32 with the weights as exported.

    `max_abs_logit_diff`, `kl` (nats, hooked || exported, mean over positions) and `top1_agreement` compare the two
    models; `effect_kl` (base || hooked) is the control: what the edit itself changes on the same positions.
    `writer_gap` is the largest difference of any writer's output between the two, relative to that output, over all
    tokens. `leak` is the largest share of any writer's output that is left along a removed direction, and
    `leak_by_writer` the largest of each; None and empty where the recipe removes none in full. `status` is what the
    fold claims to be: "exact", "scale" (exact up to one factor a token, behind a norm) or "approximate".
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
        figures = {name: value for name, value in asdict(self).items() if name != "leak_by_writer"}
        return [(name, f"{value:.3g}" if isinstance(value, float) else value) for name, value in figures.items()]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def read(cls, file: str | Path) -> "Certificate":
        """The inverse of `to_json`, from a file."""
        try:
            return cls(**read_json(file))
        except TypeError as problem:
            raise InterpError(f"{file}: not a certificate ({problem}); expected one written by interp export") from None

    def _repr_html_(self) -> str:
        return card("Certificate: hooked base model against reloaded export", self.rows())
