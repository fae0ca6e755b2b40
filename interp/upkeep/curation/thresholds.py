"""Thresholds of a score from a labelled sample, with the error rates that they have on other labelled documents.

The labelled sample is split in halves. On the first, the measure with the largest AUROC is chosen, unless one is named,
and two cuts: below `keep_below` lies at most a share `error` of the harmful documents, from `flag_from` on at most that
share of the clean ones. What lies between is unsure. If one cut does both, nothing is. AUROC and error rates are those
of the second half, on which nothing was chosen.

Limitations: the rates hold for documents like the labelled ones. With few labels the intervals are wide, and say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from pathlib import Path
from random import Random
from typing import Literal

import torch
from torch import Tensor

from interp.auditing.statistics.comparison import Estimate
from interp.auditing.statistics.intervals import Z, wilson
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError, located, nearest
from interp.core.inputs import numbered_lines, parse_object
from interp.data.corpora import Document, documents
from interp.directions.scores import auroc

LABEL = "label"
_FEWEST = 8  # documents of a label, of which half choose and half measure
Split = Literal["kept", "flagged", "unsure"]


@dataclass(frozen=True)
class LabelledDocument(Displayed):
    """A document, and whether it is harmful."""

    document: Document
    harmful: bool

    def _card(self) -> Card:
        return "harmful" if self.harmful else "clean", []  # the words may be offensive


def read_labelled(path: str | Path, field: str = "text") -> list[LabelledDocument]:
    """Labelled documents from JSONL: a document in its field, and `label`, true for a harmful one.

    Args:
        path: The file.
        field: The key of the document.

    Raises:
        InterpError: The file cannot be read, or a row has no document or no label of true or false.

    Example:
        >>> from interp.upkeep.curation.thresholds import read_labelled
        >>> _ = (tmp / "labels.jsonl").write_text('{"text": "Go away.", "label": true}')
        >>> read_labelled(tmp / "labels.jsonl")
        [LabelledDocument(harmful)]
    """
    labelled = []
    for place, line in numbered_lines(path, "labelled documents in JSONL"):
        row = parse_object(line, place)
        if row.get(LABEL) not in (True, False):
            raise InterpError(f"{place}: {LABEL} is {row.get(LABEL)!r}; expected true for a harmful document, or false")
        with located(place):
            (document,) = documents([row], field)
        labelled.append(LabelledDocument(document, bool(row[LABEL])))
    return labelled


@dataclass(frozen=True)
class Thresholds(Displayed):
    """Where a score is kept and where it is flagged.

    Attributes:
        measure: The score that decides.
        keep_below: Lower scores are kept.
        flag_from: This score and higher ones are flagged.
        auroc: AUROC of each measure on the second half of the labelled sample; empty without labels.
        missed: Share of harmful labelled documents that are kept; None without labels.
        false_alarms: Share of clean labelled documents that are flagged; None without labels.
        unsure: Share of labelled documents between the cuts; None without labels.
    """

    measure: str
    keep_below: float
    flag_from: float
    auroc: Mapping[str, float]
    missed: Estimate | None = None
    false_alarms: Estimate | None = None
    unsure: Estimate | None = None

    def split(self, score: float | None) -> Split:
        """Where a score belongs; a document without one is unsure."""
        if score is None or isnan(score):
            return "unsure"
        return "kept" if score < self.keep_below else "flagged" if score >= self.flag_from else "unsure"

    def _card(self) -> Card:
        rates = [("harmful ones kept", self.missed), ("clean ones flagged", self.false_alarms), ("unsure", self.unsure)]
        cuts = [("kept below", self.keep_below), ("flagged from", self.flag_from)]
        return self.measure, [*cuts, *((name, str(rate)) for name, rate in rates if rate), ("AUROC", self.auroc)]


def choose_thresholds(
    measures: Sequence[str],
    scores: Sequence[tuple[float, ...]] = (),
    harmful: Sequence[bool] = (),
    measure: str | None = None,
    threshold: float | None = None,
    error: float = 0.05,
    seed: int = 0,
) -> Thresholds:
    """Choose cuts on half of a labelled sample, and measure them on the other.

    Args:
        measures: Names of the scores.
        scores: The scores of each labelled document.
        harmful: Whether each of them is harmful.
        measure: The score that decides; by default the one with the largest AUROC on the first half.
        threshold: One cut, in place of those that are chosen.
        error: Largest share of harmful documents below the lower cut, and of clean ones above the upper.
        seed: Draws the halves.

    Raises:
        InterpError: The measure is unknown, there are neither labels nor a threshold, or too few labels.

    Example:
        >>> from interp.upkeep.curation.thresholds import choose_thresholds
        >>> scores = [(float(number),) for number in range(40)]
        >>> cuts = choose_thresholds(["mean"], scores, [number >= 20 for number in range(40)])
        >>> cuts.split(3.0), cuts.split(36.0), cuts.auroc
        ('kept', 'flagged', {'mean': 1.0})
    """
    if measure is not None and measure not in measures:
        raise InterpError(f"score {measure!r} is not measured; {nearest(measure, measures)}")
    if not 0 <= error < 0.5:
        raise InterpError(f"error is {error}; expected a share from 0 to below 0.5")
    if not scores:
        if threshold is None:
            raise InterpError("neither labels nor a threshold; give --labels FILE, or --threshold for one by hand")
        return Thresholds(measure or measures[0], threshold, threshold, {})
    halves = _halves(scores, harmful, seed)
    columns = range(len(measures))
    areas = [[auroc(harm[:, column], clean[:, column]) for column in columns] for harm, clean in halves]
    best = list(measures).index(measure) if measure else max(columns, key=areas[0].__getitem__)
    (harm, clean), others = ([side[:, best] for side in half] for half in halves)
    keep, flag = (threshold, threshold) if threshold is not None else _cuts(harm, clean, error)
    cuts = Thresholds(measures[best], keep, flag, dict(zip(measures, areas[1], strict=True)))
    missed, alarms = ([cuts.split(value) for value in side.tolist()] for side in others)
    false_alarms, unsure = _rate(alarms, "flagged"), _rate([*missed, *alarms], "unsure")
    return replace(cuts, missed=_rate(missed, "kept"), false_alarms=false_alarms, unsure=unsure)


def _halves(scores: Sequence[tuple[float, ...]], harmful: Sequence[bool], seed: int) -> list[list[Tensor]]:
    """Two halves of the harmful and of the clean documents' scores; one without a score counts as the mildest."""
    sides = [[row for row, label in zip(scores, harmful, strict=True) if label is wanted] for wanted in (True, False)]
    if min(map(len, sides)) < _FEWEST:
        raise InterpError(
            f"{len(sides[0])} harmful and {len(sides[1])} clean labelled documents; expected at least {_FEWEST} of "
            "each: half of them choose the thresholds, and half measure the error rates"
        )
    for side in sides:
        Random(seed).shuffle(side)
    values = [torch.tensor(side, dtype=torch.float64).nan_to_num(-inf, inf, -inf) for side in sides]
    return [[side[half::2] for side in values] for half in (0, 1)]


def _cuts(harm: Tensor, clean: Tensor, error: float) -> tuple[float, float]:
    """The highest cut with few enough harmful ones below, and the lowest with few enough clean ones above; or one."""
    keep = float(harm.sort().values[int(error * len(harm))])
    highest = clean.sort(descending=True).values[int(error * len(clean))]
    flag = float(torch.nextafter(highest, torch.tensor(inf, dtype=torch.float64)))
    return (keep, flag) if keep < flag else ((keep + flag) / 2,) * 2


def _rate(splits: Sequence[Split], wanted: Split) -> Estimate:
    share = sum(split == wanted for split in splits) / len(splits)
    return Estimate(share, *wilson(share, float(len(splits)), Z), len(splits))
