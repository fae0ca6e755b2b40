"""The certificate: what was measured between the hooked base model and the reloaded export.

It answers two questions, each with its own limits. Does the fold do what the hooks do? This is measured in float32 on
the weights before they are rounded to 16 bits, with limits that only allow float32's own rounding, so that an error far
below a 16-bit unit shows. What did rounding do? Each weight has to be within a unit of the unrounded one, and the
export has to be nearer to the hooked model than the base is. What is only claimed to be approximate has to be much
nearer: KL(hooked || export) may be a quarter of KL(base || hooked), which is what the edit itself does. Factors that
were distilled in place of a fold report what remains.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from interp.core.calls import shown
from interp.core.config import flatten
from interp.core.display import Card, Displayed, Row, brief, plural
from interp.core.errors import InterpError
from interp.core.files import read_json
from interp.editing.fold.plan import MEANS, PlannedEdit, Status

# What float32's rounding alone leaves, with room.
OFF, LEAK, LOGITS, SHARE = 1e-5, 1e-6, 1e-4, 0.01
_NO_KL = 1e-8  # nats that float32's rounding alone makes
_APPROXIMATE = 0.25  # of the edit's own KL, that an approximate export may be away from the hooked model
_READ = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Fold(Displayed):
    """What the fold does before its weights are rounded to 16 bits; its claims are about these figures.

    Attributes:
        off: The largest gap at a writer's output (or in the stream) that is claimed to be exact. Each part reads the
            stream that the hooked model has there.
        leak: The largest share left along what was removed, where the claim is not "approximate".
        logit_diff: The largest difference of the models' logits, relative to their range.
        kl: KL(hooked || exported) in nats. This and `logit_diff` are claimed only where every op is exact.
    """

    __pydantic_config__ = _READ

    off: float
    leak: float | None
    logit_diff: float
    kl: float

    def _figures(self, exact: bool, effect_kl: float) -> Iterator[tuple[str, float, float | None, str]]:
        """The name and value of each figure, its limit (None where nothing is claimed), and what a larger one means."""
        logits, kl = (LOGITS, max(SHARE * effect_kl, _NO_KL)) if exact else (None, None)
        off = f"a writer is off by {self.off:.1e} of what it writes, limit {OFF:.0e}"
        yield "largest gap at a writer", self.off, OFF, off
        if self.leak is not None:
            left = f"{self.leak:.1e} of what is written is left along what was removed, limit {LEAK:.0e}"
            yield "left along what was removed", self.leak, LEAK, left
        apart = f"logits are off by {self.logit_diff:.1e} of their range, limit {LOGITS:.0e}"
        yield "difference of a logit, of the range", self.logit_diff, logits, apart
        more = f"KL {self.kl:.1e} nats is more than {SHARE:.0%} of the edit's own {effect_kl:.1e}"
        yield "KL to the hooked model, nats", self.kl, kl, more

    def unmet(self, exact: bool, effect_kl: float) -> list[str]:
        """Which of float32's limits are exceeded, in words."""
        figures = self._figures(exact, effect_kl)
        return [problem for _, value, limit, problem in figures if limit is not None and not value <= limit]

    def rows(self, exact: bool, effect_kl: float) -> Iterator[tuple[str, float, str]]:
        """The figures by name. Those that the status makes claims about have the limit that they must keep."""
        for name, value, limit, _ in self._figures(exact, effect_kl):
            within = "within" if limit is None or value <= limit else "ABOVE"
            reading = "not claimed" if limit is None else f"{within} interp's limit {limit:.0e}"
            yield f"before rounding: {name}", value, reading


@dataclass(frozen=True)
class TiedHead(Displayed):
    """What the export is where a program uses its token table as the unembedding.

    Attributes:
        kl: KL(hooked || export so tied) in nats.
        loss: Its loss of the texts among the probes, or else of a few neutral openings, in nats per token; None
            without a tokenizer.
        untied_loss: The export's own loss of them.
    """

    __pydantic_config__ = _READ

    kl: float
    loss: float | None
    untied_loss: float | None

    @property
    def losses(self) -> str:
        """Both losses in words."""
        if self.loss is None or self.untied_loss is None:
            return ""
        return f"; text loss {self.loss:.3g} nats per token, {self.untied_loss:.3g} untied"

    def __str__(self) -> str:
        return f"KL to the hooked model {self.kl:.2g} nats{self.losses}"


@dataclass(frozen=True)
class OpFigures(PlannedEdit):
    """What one op's fold claims at its sites, and what was measured there.

    Attributes:
        gap: The largest relative difference between hooked and exported model at one of the sites (for inputs of an
            output projection: of what that writes).
        leak: The largest share left along what the op removes completely; None where it removes nothing completely, or
            another op follows.
    """

    __pydantic_config__ = _READ

    gap: float = 0.0
    leak: float | None = None

    def __str__(self) -> str:
        left = "" if self.leak is None else f", leak {self.leak:.1e}"
        return f"{super().__str__()}, gap {self.gap:.1e}{left}"


@dataclass(frozen=True)
class Certificate(Displayed):
    """Figures that compare the hooked base with the export, in float32 with the weights as they are stored.

    Where the export was cast, the base is rounded to the same type first: the edit is compared and not the cast.

    Attributes:
        max_abs_logit_diff: Largest difference of a logit.
        kl: KL(hooked || exported) of the next token in nats, the mean over positions.
        top1_agreement: Share of positions where both models prefer the same token.
        effect_kl: KL(base || hooked), the control: what the edit itself changes at the same positions.
        writer_gap: Largest relative difference of a writer's output, where each reads the stream that the hooked model
            has there; of the stream itself where the recipe acts on that.
        leak: Largest share of a writer's output that is left along a removed direction; None where the recipe removes
            none completely.
        tokens: Positions that were compared.
        dtype: Types of the exported weights.
        leak_by_writer: The largest leak of each writer.
        status: How exact the fold is claimed to be, that of the least exact op: "exact" or "approximate".
        mean_abs_logit_diff: Mean difference of the logits.
        generated_agreement: Share of generated tokens that agree, position by position, where each model continues
            the probes greedily on its own (after a first difference the texts diverge).
        generated_tokens: Tokens that each model generated.
        ops: Figures of each op, or of those of its sites that fold alike.
        logit_range: Largest less smallest logit of the hooked model.
        fold: Figures before rounding; None in certificates of older versions.
        tied: The export with its head tied to the token table, where other programs do that.
        backend: What computed the export's logits.

    Example:
        >>> from interp.editing import Certificate
        >>> from interp.editing.certificate.record import Fold
        >>> fold = Fold(off=1e-7, leak=None, logit_diff=1e-6, kl=1e-9)
        >>> figures = {"max_abs_logit_diff": 1e-5, "kl": 1e-9, "top1_agreement": 1.0, "effect_kl": 0.2}
        >>> Certificate(**figures, writer_gap=1e-7, leak=None, tokens=256, dtype="F32", fold=fold).faithful
        True
    """

    __pydantic_config__ = _READ

    max_abs_logit_diff: float
    kl: float
    top1_agreement: float
    effect_kl: float
    writer_gap: float
    leak: float | None
    tokens: int
    dtype: str
    leak_by_writer: dict[str, float] = field(default_factory=dict)
    status: Status = "exact"
    mean_abs_logit_diff: float | None = None
    generated_agreement: float | None = None
    generated_tokens: int = 0
    ops: tuple[OpFigures, ...] = ()
    logit_range: float | None = None
    fold: Fold | None = None
    tied: TiedHead | None = None
    backend: str = "transformers"

    @property
    def faithful(self) -> bool:
        """Whether the weights do what the fold claims, and the export is nearer to the hooked model than the base."""
        return not self.unmet

    @property
    def unmet(self) -> tuple[str, ...]:
        """Which claims are not met, in words."""
        if self.fold is None:
            return ("it was measured by an older version, which did not measure the fold before rounding",)
        problems = self.fold.unmet(self.status == "exact", self.effect_kl)
        if self._allowed < 1 and not self.kl <= max(self._allowed * self.effect_kl, _NO_KL):
            share = f"{self._allowed:.0%} of what the edit does to the base ({self.effect_kl:.1e})"
            problems.append(f"it is approximate, and KL {self.kl:.1e} nats to the hooked model is more than {share}")
        elif not (self.kl < self.effect_kl or self.kl <= _NO_KL):
            rounded = not problems and self.dtype != "F32"
            why = f"; rounding to {self.dtype} hides the edit, export as float32" if rounded else ""
            kl = f"KL {self.kl:.1e} nats"
            problems.append(f"it is no nearer to the hooked model ({kl}) than the base ({self.effect_kl:.1e}){why}")
        return tuple(problems)

    @property
    def _allowed(self) -> float:
        """The share of the edit's own KL that the export may be away from the hooked model.

        Distilled factors have to be nearer than the base, as exact folds, and report what remains.
        """
        distilled = any(op.reason.startswith("distilled") for op in self.ops)
        return _APPROXIMATE if self.status == "approximate" and not distilled else 1.0

    def differs(self, other: "Certificate", older: bool = False) -> str | None:
        """The name of a figure or claim that differs from `other`'s by more than another machine explains, or None.

        With `older`, this is of a version that measured less, and what it leaves out is not compared.
        """
        logits = LOGITS * (other.logit_range or 1.0)
        floors = {"max_abs_logit_diff": logits, "mean_abs_logit_diff": logits, "logit_diff": LOGITS}
        floors |= {"top1_agreement": 0.02, "generated_agreement": 0.5}
        floors |= {"writer_gap": OFF, "gap": OFF, "off": OFF, "leak": LEAK, "leak_by_writer": LEAK}
        stated, measured = (flatten(each.to_json()) for each in (self, other))
        for name in stated | measured:
            part, last = name.partition(".")[0], name.rpartition(".")[2]
            if older and (getattr(self, part) in (None, {}) or last == "reason"):
                continue
            floor = floors.get(last, floors.get(part, _NO_KL))
            if not _near(stated.get(name), measured.get(name), floor):
                return name
        return None

    def rows(self) -> list[Row]:
        """For display, the name and value of each figure, and how to read it: what is good, and against which bound."""
        below = f"must be at most {self._allowed:.0%} of it" if self._allowed < 1 else "must be below it"
        share = f"{self.kl / self.effect_kl:.2%} of the" if self.effect_kl else "the"
        span = f"of a range of {self.logit_range:.3g}; rounding included" if self.logit_range else "rounding included"
        rows = [
            ("KL to the hooked model, nats", self.kl, f"{share} edit's own {self.effect_kl:.3g}; {below}"),
            ("top-1 agreement", f"{self.top1_agreement:.2%}", f"of {plural(self.tokens, 'position')}; 100% is best"),
            ("largest difference of a logit", self.max_abs_logit_diff, span),
            ("mean difference of a logit", self.mean_abs_logit_diff, span),
            ("largest gap at a writer", self.writer_gap, "of what it writes; rounding included"),
            ("left along what was removed", self.leak, "of what is written; rounding included"),
        ]
        if self.generated_agreement is not None:
            generated = f"of {plural(self.generated_tokens, 'greedy token')}; 100% is best"
            rows.insert(2, ("agreement of generated text", f"{self.generated_agreement:.2%}", generated))
        before = self.fold.rows(self.status == "exact", self.effect_kl) if self.fold else ()
        if self.tied is not None:
            rows.append(("KL if a program ties the head, nats", self.tied.kl, f"to the hooked model{self.tied.losses}"))
        if self.backend != "transformers":
            rows.append(("computed by", self.backend, ""))
        ops = ((f"op {number}", str(op), "") for number, op in enumerate(self.ops, 1))
        return [(name, brief(value), reading) for name, value, reading in (*rows, *before, *ops) if value is not None]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = _CERTIFICATE.dump_python(self, mode="json")
        return values

    @classmethod
    def read(cls, file: str | Path) -> "Certificate":
        """The inverse of `to_json`, from a file."""
        try:
            return _CERTIFICATE.validate_json(json.dumps(read_json(file)), strict=True)
        except ValidationError as problem:
            error = problem.errors()[0]
            what = f"{'.'.join(map(str, error['loc'])) or 'its content'} is {shown(error['input'])}: {error['msg']}"
            raise InterpError(f"{file}: not a certificate ({what}); expected one written by interp export") from None

    def __repr__(self) -> str:
        effect = f"KL {self.kl:.1e} nats of {self.effect_kl:.1e}, {plural(self.tokens, 'token')}"
        return f"Certificate({self.status}, {'faithful' if self.faithful else 'not faithful'}: {effect})"

    def _card(self) -> Card:
        faithful = "faithful" if self.faithful else f"NOT FAITHFUL: {'; '.join(self.unmet)}"
        rows = [row if row[2] else (row[0], "", row[1]) for row in self.rows()]  # texts go to the wide column
        return f"{MEANS[self.status]}, weights in {self.dtype}, {faithful}", rows


_CERTIFICATE = TypeAdapter(Certificate)


def _near(first: object, second: object, floor: float) -> bool:
    """Whether two figures agree within a tenth and the floor."""
    if isinstance(first, float) and isinstance(second, float):
        return abs(first - second) <= 0.1 * max(abs(first), abs(second)) + floor
    return first == second
