"""The record of a curation: what was kept, flagged and left unsure, by which thresholds, with the worst passages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.core.display import Card, Displayed
from interp.upkeep._records import read_record
from interp.upkeep.curation.thresholds import Thresholds
from interp.upkeep.curation.trial_training import PredictedChange

RECORD = "curation.json"


@dataclass(frozen=True)
class Passage(Displayed):
    """A document token by token.

    Attributes:
        row: Its number in the corpus, from 0.
        score: The score that decides.
        tokens: Its tokens, each with its value; None where it does not count.
    """

    row: int
    score: float
    tokens: tuple[tuple[str, float | None], ...]

    def _card(self) -> Card:
        return f"row {self.row}", [("score", self.score), ("tokens", len(self.tokens))]  # the words may be offensive


@dataclass(frozen=True)
class Curation(Displayed):
    """What became of a corpus.

    Attributes:
        data: The corpus, as it was named.
        digest: SHA-256 of its documents.
        settings: What the scores depend on.
        counts: Number of documents by split.
        duplicates: How many repeat an earlier one.
        dropped: Whether those were left out of the kept ones.
        thresholds: The score that decides, and its cuts.
        means: The mean of each score over the documents of each split, by split and measure.
        changes: The change of each behaviour if trained on everything, and on what was kept.
        worst: The documents with the largest scores.
    """

    data: str
    digest: str
    settings: Mapping[str, Any]
    counts: Mapping[str, int]
    duplicates: int
    dropped: bool
    thresholds: Thresholds
    means: Mapping[str, Mapping[str, float | None]]
    changes: tuple[PredictedChange, ...]
    worst: tuple[Passage, ...]

    @classmethod
    def read(cls, folder: str | Path) -> "Curation":
        """Read the record of a folder that `curate` wrote.

        Raises:
            InterpError: The folder has no record, or a damaged one.
        """
        return read_record(cls, Path(folder) / RECORD, "a curation")

    def rows(self) -> list[dict[str, Any]]:
        """A row for each split: its number of documents and its mean scores."""
        return [{"split": name, "documents": self.counts[name], **self.means[name]} for name in self.counts]

    def _card(self) -> Card:
        cuts = self.thresholds
        rates = [("harmful ones kept", cuts.missed), ("clean ones flagged", cuts.false_alarms)]
        facts = [*self.counts.items(), ("near-duplicates", self.duplicates), ("score", cuts.measure)]
        return self.data, [*facts, *((name, str(rate)) for name, rate in rates if rate is not None)]
