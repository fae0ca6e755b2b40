"""What people and machines say latents mean: an append-only file of labels, one line of JSON each.

Nothing is changed in place: of the lines of one rater for one latent the last counts, and one without a text withdraws.
How lines are kept safe: `line_file`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from interp.core.config import Config
from interp.core.display import Displayed, displayed
from interp.core.errors import InterpError, nearest
from interp.core.files import new_file
from interp.core.inputs import numbered_lines, parse_object
from interp.features.agreement import krippendorff_alpha
from interp.features.book_card import BookCard
from interp.features.line_file import append_lines, whole_lines

Verdict = Literal["harmful", "benign", "unsure"]
Stripped = Annotated[str, AfterValidator(str.strip)]
Interval = Annotated[list[float], Field(min_length=3, max_length=3)]


class FeatureLabel(Config):
    """What one rater says of a latent.

    Example:
        >>> from interp.features import FeatureLabel
        >>> FeatureLabel(sae="l3", latent=5, text="insults", verdict="harmful", rater="ana").verdict
        'harmful'
    """

    sae: str = Field(description="the autoencoder's name in the book")
    latent: int = Field(ge=0, description="the latent's number")
    text: Stripped = Field(
        max_length=500, description="what it means, in a few words; empty withdraws the rater's label"
    )
    verdict: Verdict = Field("unsure", description="harmful, benign or unsure")
    note: str = Field("", max_length=5000, description="anything else")
    scores: dict[str, Interval] = Field({}, description="how well it predicts, by test: value, low, high")
    rater: str = Field("", max_length=100, description="who says so: a person, or a model's name")
    date: str = Field("", max_length=40, description="when, in UTC; filled in when it is written")
    digest: str = Field("", description="the autoencoder's digest; filled in when it is written")


class LabelConflict(InterpError):
    """A rater has labelled a latent since the writer of another label of the same rater looked.

    Attributes:
        newer: The label that the writer has not seen.
    """

    def __init__(self, newer: FeatureLabel):
        who = f"{newer.rater!r}" if newer.rater else "a rater without a name"
        super().__init__(
            f"latent {newer.latent} was labelled {newer.text!r} by {who} meanwhile; compare, and save again"
        )
        self.newer = newer


@dataclass(frozen=True, eq=False)
class LabelFile(Displayed):
    """The labels of a book.

    Args:
        file: The file, which the first label makes.
        card: The record of the book.
    """

    file: Path
    card: BookCard

    def all(self) -> list[FeatureLabel]:
        """Every label that was written, in order. Raises for a damaged line."""
        return [_label(line, place) for place, line in whole_lines(self.file)]

    def current(self, sae: str | None = None, latent: int | None = None) -> list[FeatureLabel]:
        """The labels that count: of each rater the last for each latent, unless it withdraws."""
        last = {(label.sae, label.latent, label.rater): label for label in self.all()}
        chosen = (x for x in last.values() if x.text and sae in (None, x.sae) and latent in (None, x.latent))
        return displayed(sorted(chosen, key=lambda x: (x.sae, x.latent, x.rater)))

    def named(self, label: str, sae: str | None = None) -> tuple[int, ...]:
        """The latents of an autoencoder whose label is this text, in any case.

        Raises where there is none, and where raters disagree: of those who use the label, one calls a latent so and
        another one otherwise; or of a latent's raters some say harmful and some benign.
        """
        name, wanted = self.card.name(sae), label.strip().casefold()
        labels = self.current(name)
        same = [x for x in labels if x.text.strip().casefold() == wanted]
        found, raters = sorted({x.latent for x in same}), {x.rater for x in same}
        for x in same:
            self._completed(x)  # raises for one of another autoencoder
        for latent in found:
            here = [x for x in labels if x.latent == latent]
            known = [x for x in here if x.rater in raters]
            if not all(x in same for x in known) or {"harmful", "benign"} <= {x.verdict for x in here}:
                said = ", ".join(f"{x.rater or 'a rater'} says {x.text!r} ({x.verdict})" for x in here)
                raise InterpError(
                    f"raters disagree on latent {latent} of {label!r}: {said}; of each the last label counts, so let "
                    "them label it again, or give numbers"
                )
        if not found:
            raise InterpError(
                f"no latent of {name} has the label {label!r}; {nearest(label, [x.text for x in labels])}"
            )
        return tuple(found)

    def history(self, sae: str, latent: int) -> list[FeatureLabel]:
        """Every label of a latent that was written, in order, with those that no longer count."""
        return [x for x in self.all() if (x.sae, x.latent) == (sae, latent)]

    def add(self, labels: Iterable[FeatureLabel], seen: int | None = None) -> list[FeatureLabel]:
        """Append labels, all or none.

        Args:
            labels: The labels.
            seen: How many labels of the latents, as `history` has them, their writer has seen. Default: this is not
                asked.

        Returns:
            The labels as written, with date and digest.

        Raises:
            InterpError: A latent or autoencoder is not in the book, a label is of another autoencoder (its digest), or
                its rater has written one that was not seen (`LabelConflict`); then nothing is written.
        """
        written = [self._completed(label) for label in labels]
        lines = [json.dumps(label.model_dump()) for label in written]

        def require_seen() -> None:
            for label in written if seen is not None else ():
                unseen = [x for x in self.history(label.sae, label.latent)[seen:] if x.rater == label.rater]
                if unseen:
                    raise LabelConflict(unseen[-1])

        if lines:
            append_lines(self.file, lines, require_seen)
        return written

    def read(self, file: str | Path) -> list[FeatureLabel]:
        """Labels from a JSONL file as `export` writes it, not yet added. Raises for a damaged line."""
        return [_label(line, place) for place, line in numbered_lines(file, "JSONL of labels")]

    def export(self, file: str | Path) -> int:
        """Write the labels that count as JSONL into a new file, and return their number."""
        labels = self.current()
        with new_file(file) as sibling:
            sibling.write_text("".join(json.dumps(x.model_dump()) + "\n" for x in labels), encoding="utf-8")
        return len(labels)

    def agreement(self) -> float:
        """Krippendorff's alpha of the raters' verdicts, `unsure` left out; NaN where no two judge the same latents."""
        verdicts = {((x.sae, x.latent), x.rater): x.verdict for x in self.current() if x.verdict != "unsure"}
        latents, raters = (
            list(dict.fromkeys(part)) for part in ([key[0] for key in verdicts], [key[1] for key in verdicts])
        )
        table = np.full((len(raters), len(latents)), np.nan)
        for (latent, rater), verdict in verdicts.items():
            table[raters.index(rater), latents.index(latent)] = verdict == "harmful"
        return krippendorff_alpha(table, "nominal")

    def _completed(self, label: FeatureLabel) -> FeatureLabel:
        sae = self.card.name(label.sae)
        self.card.require_latent(sae, label.latent)
        digest = self.card.autoencoders[sae].digest
        if label.digest and label.digest != digest:
            raise InterpError(
                f"a label of latent {label.latent} is of another autoencoder ({label.digest[:12]}) than {sae} of this "
                f"book ({digest[:12]}); import it into the book of that one"
            )
        date = label.date or datetime.now(UTC).isoformat(timespec="seconds")
        return label.model_copy(update={"date": date, "digest": digest})


def label_texts(labels: Iterable[FeatureLabel]) -> dict[tuple[str, int], str]:
    """What raters call each latent, by autoencoder and latent: different texts are joined, in order.

    Example:
        >>> from interp.features import FeatureLabel
        >>> from interp.features.labels import label_texts
        >>> texts = {"ana": "insults", "ben": "rude", "cai": "insults"}
        >>> label_texts(FeatureLabel(sae="l3", latent=5, text=text, rater=rater) for rater, text in texts.items())
        {('l3', 5): 'insults; rude'}
    """
    texts = defaultdict[tuple[str, int], dict[str, None]](dict)
    for label in labels:
        texts[label.sae, label.latent][label.text] = None
    return {key: "; ".join(each) for key, each in texts.items()}


def _label(line: str, place: str) -> FeatureLabel:
    return FeatureLabel.parse(parse_object(line, place), source=place)
