"""A description of a latent by a machine, with what it said in the tests: a line of the book's `descriptions.jsonl`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from interp.core.config import Config
from interp.core.display import Card, Displayed
from interp.core.inputs import parse_object
from interp.features.descriptions.accuracy import Answer, BalancedAccuracy
from interp.features.line_file import whole_lines

TESTS = ("detection", "fuzzing")
CONTROL = "_shuffled"  # a test of another latent's description on the same texts


class Description(Config):
    """A description and its tests.

    >>> from interp.features import Description
    >>> Description(sae="sae", latent=3, rater="small", text="towns", digest="", answers={}).scores
    {}
    """

    sae: str = Field(description="the autoencoder's name in the book")
    latent: int = Field(ge=0, description="the latent's number")
    rater: str = Field(description="the machine's name")
    text: str = Field(description="what it says that the latent means")
    digest: str = Field(description="the autoencoder's digest")
    answers: dict[str, list[Answer]] = Field(description="by test, what it said of each text")

    @property
    def scores(self) -> dict[str, list[float]]:
        """Balanced accuracy by test: value, low, high; without tests that have no answers."""
        scores = {test: BalancedAccuracy.of([answers]) for test, answers in self.answers.items()}
        return {test: [x.value, x.low, x.high] for test, x in scores.items() if x.n}


@dataclass(frozen=True)
class DescribedLatents(Displayed):
    """The descriptions of some latents. Returned by `describe`.

    Attributes:
        descriptions: The descriptions, with their tests.
        few: Latents that have too few examples, or fire nearly everywhere.
        undescribed: Latents of which the machine gave no description of the asked form.
    """

    descriptions: tuple[Description, ...]
    few: tuple[int, ...] = ()
    undescribed: tuple[int, ...] = ()

    def accuracy(self, test: str) -> BalancedAccuracy:
        """The balanced accuracy over latents of a test: `detection`, `fuzzing`, or one with `_shuffled` after it."""
        return BalancedAccuracy.of([x.answers.get(test, []) for x in self.descriptions])

    @property
    def tests(self) -> list[tuple[str, str, str]]:
        """Each test's name, and in words its accuracy, and that with another latent's description."""
        return [(test, self.accuracy(test).text, self.accuracy(test + CONTROL).text) for test in TESTS]

    def rows(self) -> list[dict[str, Any]]:
        """The accuracy of each test, beside that with another latent's description."""
        rows = []
        for test in TESTS:
            own, other = self.accuracy(test), self.accuracy(test + CONTROL)
            row = {"test": test, "accuracy": own.value, "low": own.low, "high": own.high, "texts": own.n}
            row |= {"missing": own.missing, "shuffled": other.value}
            row |= {"shuffled_low": other.low, "shuffled_high": other.high}
            rows.append({name: None if value != value else value for name, value in row.items()})
        return rows

    def _card(self) -> Card:
        counts = [("described", len(self.descriptions)), ("too few examples", len(self.few))]
        tests = [(test, f"{text} (shuffled: {other})") for test, text, other in self.tests]
        return "", [*counts, ("no description", len(self.undescribed)), *tests]


def read_descriptions(file: Path, sae: str | None = None) -> list[Description]:
    """The last description by each machine of each latent, of one autoencoder or of all."""
    rows = [Description.parse(parse_object(line, place), source=place) for place, line in whole_lines(file)]
    last = {(row.sae, row.latent, row.rater): row for row in rows}
    return _sorted([row for row in last.values() if sae in (None, row.sae)])


def _sorted(rows: Sequence[Description]) -> list[Description]:
    return sorted(rows, key=lambda row: (row.sae, row.latent, row.rater))
