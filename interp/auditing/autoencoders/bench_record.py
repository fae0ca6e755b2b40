"""The record of a bench: what an autoencoder measures, and what its controls do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from interp.auditing.autoencoders.options import BenchOptions
from interp.auditing.policy.sealed import read_sealed
from interp.auditing.statistics.comparison import Estimate
from interp.core.config import Config
from interp.core.display import Card, Displayed, markdown
from interp.models.identity import ModelReference

RECORD, FORMAT = "bench.json", 1


class BenchMeasure(Config):
    """A measure of the autoencoder beside its controls.

    Example:
        >>> from interp.auditing.autoencoders.bench_record import BenchMeasure
        >>> from interp.auditing.statistics.comparison import Estimate
        >>> part = {"part": "probing", "name": "accuracy, k = 1", "better": "higher"}
        >>> value, gap = Estimate(0.8, 0.7, 0.9, 50), Estimate(0.01, -0.02, 0.04, 50)
        >>> BenchMeasure(**part, value=value, controls={"PCA": value}, gaps={"PCA": gap}).verdict
        'not above its control: PCA'
    """

    part: str = Field(description="the part of the bench")
    name: str = Field(description="what is measured")
    better: Literal["higher", "lower", ""] = Field(description="which values are good; empty where neither is")
    value: Estimate = Field(description="the autoencoder's, with its 95 % interval over items")
    controls: dict[str, Estimate] = Field(description="each control's, the mean over its seeds; items and seeds vary")
    gaps: dict[str, Estimate] = Field(
        description="by how much it is better than each, over the same items; the interval has the seeds' variance too"
    )

    @property
    def not_above(self) -> tuple[str, ...]:
        """The controls that it does not beat: the interval of the gap reaches zero."""
        return tuple(name for name, gap in self.gaps.items() if gap.low <= 0)

    @property
    def verdict(self) -> str:
        """Whether it is above its controls, in words."""
        if not self.gaps:
            return ""
        return f"not above its control: {', '.join(self.not_above)}" if self.not_above else "above all controls"


class ConceptScore(Config):
    """F1 of the best latent for a concept, and of a linear probe at the same site and tokens."""

    concept: str = Field(description="name of the labelled set")
    latent: int = Field(description="the latent")
    f1: Estimate = Field(description="its F1 on held-out texts, with its 95 % interval")
    probe: Estimate = Field(description="the linear probe's F1")
    controls: dict[str, Estimate] = Field(description="F1 of each control's best latent, by control and seed")


class AutoencoderBench(Config):
    """What an autoencoder measures beside its controls, as `bench.json` has it; see the description of each field.

    Example:
        >>> from interp.auditing import AutoencoderBench
        >>> AutoencoderBench.read("no/such/folder")
        Traceback (most recent call last):
        interp.core.errors.InterpError: no/such/folder: no bench.json in it; expected a folder written by ...
    """

    name: str = Field(description="name of the autoencoder")
    digest: str = Field(description="digest of the autoencoder")
    described: str = Field(description="its site, number of latents and kind")
    model: ModelReference = Field(description="the model")
    options: BenchOptions = Field(description="what was measured, and on how much")
    measures: tuple[BenchMeasure, ...] = Field(strict=False, description="measures beside the controls'")
    concepts: tuple[ConceptScore, ...] = Field(strict=False, description="F1 of the best latent for each concept")
    notes: tuple[str, ...] = Field(strict=False, description="what limits the comparison")

    @classmethod
    def read(cls, path: str | Path, overrides: object = ()) -> "AutoencoderBench":
        """Read the record of a folder. Raises if there is none, or it was changed."""
        del overrides
        return read_sealed(cls, Path(path) / RECORD, "a bench of an autoencoder", FORMAT, "interp sae bench")

    @property
    def not_above(self) -> tuple[str, ...]:
        """The measures on which it does not beat every control."""
        return tuple(f"{measure.part}, {measure.name}" for measure in self.measures if measure.not_above)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each measure: the autoencoder, each control, and the verdict."""
        controls = dict.fromkeys(name for x in self.measures for name in x.controls)
        return [
            {"part": x.part, "measure": f"{x.name}{_ARROWS[x.better]}", self.name: str(x.value)}
            | {name: f"{x.controls[name].estimate:.3f}" if name in x.controls else "" for name in controls}
            | {"verdict": x.verdict}
            for x in self.measures
        ]

    def concept_rows(self) -> list[dict[str, Any]]:
        """A row for each concept: the best latent's F1, the linear probe's, and the best of the controls."""
        return [
            {"concept": x.concept, "latent": x.latent, "F1 of the latent": str(x.f1), "of a linear probe": str(x.probe)}
            | {"best control": _best(x.controls)}
            for x in self.concepts
        ]

    def markdown(self) -> str:
        """The tables as Markdown."""
        tables = [table for rows in (self.rows(), self.concept_rows()) if rows for table in [_table(rows)]]
        notes = [f"- {markdown(note)}" for note in self.notes]
        return "\n\n".join([f"# {markdown(self.name)}: {markdown(self.described)}", *tables, *notes]) + "\n"

    def _card(self) -> Card:
        rows: list[tuple[object, ...]] = [
            (f"{x.part}, {x.name}", str(x.value), x.verdict or "no control applies") for x in self.measures
        ]
        rows += [(x.concept, f"F1 {x.f1} of latent {x.latent}", f"a linear probe has {x.probe}") for x in self.concepts]
        beaten = ("not above its control", ", ".join(self.not_above) or "on no measure")
        return f"{self.name}, {self.described}", [beaten, *rows, *(("note", note) for note in self.notes)]

    def __repr__(self) -> str:
        return Displayed.__repr__(self)


_ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def _best(scores: Mapping[str, Estimate]) -> str:
    if not scores:
        return ""
    name = max(scores, key=lambda one: scores[one].estimate)
    return f"{scores[name].estimate:.3f} ({name})"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| {' | '.join(map(markdown, line))} |" for line in (rows[0], *(row.values() for row in rows))]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
