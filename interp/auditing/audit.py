"""Audit: what was measured of behaviours before and after an edit. `interp.auditing.runner` makes one.

The record carries digests of what it was made of, and of itself: a file that was changed is refused. A digest is no
signature: it shows accidents and careless edits, not a forger who computes it anew.
"""

import json
from dataclasses import asdict, dataclass, field, is_dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from interp.auditing.baselines import Baseline
from interp.auditing.behaviours import Kind, Unit
from interp.auditing.statistics import Estimate
from interp.core.display import table
from interp.core.errors import InterpError
from interp.core.files import read_json, sha256_json, write_json
from interp.models.reference import ModelReference

FORMAT = 2


@dataclass(frozen=True)
class Row:
    """One behaviour: estimates before and after, and the paired difference after - before.

    `p` is that of no difference, `p_holm` the same corrected for the number of behaviours, `effect` the standardised
    difference (None in a file where it is infinite), `detectable` the least difference that so many items find with
    80 % power. `n_groups` counts clusters of items, `missing` pairs without a score. `constant`: every item scored
    alike in both models, so the scorer may be unable to tell anything apart.
    """

    name: str
    kind: Kind
    unit: Unit
    statement: str
    before: Estimate
    after: Estimate
    difference: Estimate
    p: float = 1.0
    p_holm: float = 1.0
    effect: float | None = 0.0
    detectable: float | None = None
    n_groups: int = 0
    missing: int = 0
    constant: bool = False
    language: str = "en"
    scenario: str = ""
    scorer: str = ""
    chance: float | None = None
    secret: bool = False
    digest: str = ""

    @property
    def better(self) -> float:
        """The difference with the sign of good: above zero where a harm or loss fell, or what must hold rose."""
        return -self.difference.estimate if self.kind == "harm" or self.unit == "nats" else self.difference.estimate


@dataclass(frozen=True)
class Example:
    """One item's replies side by side."""

    behaviour: str
    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Audit:
    """The comparison of two models over behaviours.

    `recipe` is the digest of the edit, if it is known. Where a recipe was audited and no checkpoint, `after` has the
    weights of `before`; where a model was measured as it is, `after` is `before`. `suite` is the digest of the
    behaviours, `instruction` what the prompt-only baseline was told.
    """

    rows: tuple[Row, ...]
    before: ModelReference
    after: ModelReference
    examples: tuple[Example, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    recipe: str = ""
    suite: str = ""
    instruction: str = ""
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise InterpError(f"behaviour {name!r} was not audited; audited: {', '.join(row.name for row in self.rows)}")

    @property
    def edited(self) -> bool:
        """Whether it compares two models, and does not measure one as it is."""
        return bool(self.recipe) or self.after != self.before

    @property
    def digest(self) -> str:
        """SHA-256 of its content."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become None."""
        models = {"before": self.before.model_dump(), "after": self.after.model_dump()}
        return _plain({"format": FORMAT} | {name: getattr(self, name) for name in _PLAIN} | models)

    def save(self, file: str | Path) -> None:
        """Write JSON, with the digest of its content."""
        write_json(Path(file), self.to_json() | {"sha256": self.digest})

    @classmethod
    def read(cls, file: str | Path) -> "Audit":
        """The inverse of `save`. Raises where the file is not an audit, or was changed since it was written."""
        values = read_json(file)
        try:
            if values.get("format", FORMAT) != FORMAT:
                raise InterpError(f"{file}: an audit of format {values['format']}; audit again with this version")
            rows = tuple(_row(row) for row in values["rows"])
            if values.pop("sha256") != _digest(values):
                raise InterpError(f"{file}: changed since it was written (its SHA-256 is another); audit again")
            _AUDIT.validate_json(json.dumps({**values, "examples": [], "baselines": []}), strict=True)
            _require_sense(rows)
            del values["format"]
            sides = {side: ModelReference.parse(values[side], str(file)) for side in ("before", "after")}
            own = {
                "rows": rows,
                "examples": tuple(Example(**example) for example in values["examples"]),
                "baselines": tuple(Baseline.from_json(one) for one in values["baselines"]),
            }
            return cls(**{**values, **sides, **own})
        except (KeyError, TypeError, AttributeError, ValidationError) as problem:
            raise InterpError(f"{file}: not an audit ({problem}); expected a file written by interp audit") from None

    def _repr_html_(self) -> str:
        cells = [[row.name, row.kind, row.before, row.after, row.difference, f"{row.p_holm:.3g}"] for row in self.rows]
        header = ["behaviour", "kind", "before", "after", "difference", "p (Holm)"]
        return table("Audit", header, [list(row) for row in cells])


_CLOSE = 1e-6
_AUDIT = TypeAdapter(Audit)
_PLAIN = ("rows", "examples", "baselines", "recipe", "suite", "instruction", "seed", "versions")


def _row(values: dict[str, Any]) -> Row:
    estimates = {side: Estimate(**values[side]) for side in ("before", "after", "difference")}
    for side, estimate in estimates.items():
        if not all(isinstance(value, int | float) and isfinite(value) for value in asdict(estimate).values()):
            raise InterpError(f"behaviour {values['name']!r}: its {side} is not finite ({estimate}); audit again")
    return Row(**{**values, **estimates})


def _require_sense(rows: tuple[Row, ...]) -> None:
    """Raise for numbers that no measurement gives."""
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise InterpError(f"behaviours of an audit have names of their own; got {', '.join(names)}")
    for row in rows:
        sides = (row.before, row.after, row.difference)
        least, most = (0.0, 1.0) if row.unit == "rate" else (-inf, inf)
        bounds = ((least, most), (least, most), (least - most, most - least))
        wrong = {
            "its counts of items": len({one.n for one in sides}) > 1 or row.after.n < 1 or row.missing < 0,
            "its groups": not 0 <= row.n_groups <= row.after.n,
            "its intervals": not all(
                low - _CLOSE <= one.low <= one.estimate + _CLOSE and one.estimate - _CLOSE <= one.high <= high + _CLOSE
                for one, (low, high) in zip(sides, bounds, strict=True)
            ),
            "its difference": abs(row.after.estimate - row.before.estimate - row.difference.estimate) > _CLOSE,
            "its p-values": not 0 <= min(row.p, row.p_holm) <= max(row.p, row.p_holm) <= 1,
        }
        for what in (what for what, is_wrong in wrong.items() if is_wrong):
            raise InterpError(f"behaviour {row.name!r}: {what} can't be what was measured ({row}); audit again")


def _digest(values: dict[str, Any]) -> str | None:
    """None for what is no JSON: NaN."""
    try:
        return sha256_json(values)
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return None if isinstance(value, float) and not isfinite(value) else value
