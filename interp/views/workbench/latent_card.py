"""A latent of a feature book in a notebook: its page, what was counted, its labels and its weaker examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.core.display import Card, Displayed, heat_html, html_table
from interp.core.errors import InterpError
from interp.features.book import Book
from interp.features.labels import FeatureLabel
from interp.sae.feature import Feature

_COUNTED = ("count", "mean", "largest", "lens", "ablation")


@dataclass(frozen=True)
class LatentCard(Displayed):
    """A latent of a book, as `interp.views.feature` shows it.

    Args:
        sae: The autoencoder's name in the book.
        page: Its page.
        counted: Its row in the book's table `latents`.
        labels: What raters say that it means.
        examples: Its examples, as `Book.examples` gives them.
    """

    sae: str
    page: Feature
    counted: dict[str, Any]
    labels: Sequence[FeatureLabel]
    examples: Sequence[dict[str, Any]]

    def _card(self) -> Card:
        subject, rows = self.page._card()
        return f"{self.sae} {subject}", [("labels", [label.text for label in self.labels]), *rows]

    def _repr_html_(self) -> str:
        row, strongest = self.counted, self.page.edges[-1]
        together = [f"{partner['latent']} ({partner['share']:.2f})" for partner in row["cofiring"]]
        counted = html_table("Counted", [], [(name, row[name]) for name in _COUNTED] + [("fires with", together)])
        said = [(label.text, label.verdict, label.rater, label.note) for label in self.labels]
        labels = html_table("Labels", ["text", "verdict", "rater", "note"], said) if said else ""
        weaker = "".join(
            f"<div>{x['kind']}</div>" + heat_html(x["tokens"], x["values"], strongest, x["peak"])
            for x in self.examples
            if x["kind"] != "top"
        )
        sampled = f"<details><summary>Sampled examples, by quarters of their values</summary>{weaker}</details>"
        return labels + self.page._repr_html_() + counted + (sampled if weaker else "")


def feature(book: Book | str | Path, latent: int | str, sae: str | None = None) -> LatentCard:
    """A latent's page in a notebook: labels, statistics, promoted tokens, and examples from strong to weak.

    Args:
        book: The book, or its folder.
        latent: The latent's number, or a label that one latent has.
        sae: The autoencoder's name, where the book has several.

    Raises:
        InterpError: There is no such book, latent or label, or several latents have the label.

    Example:
        >>> from interp.views import feature
        >>> feature(tmp, 3)
        Traceback (most recent call last):
        interp.core.errors.InterpError: ... is no feature book (it has no book.json); interp features scan makes one
    """
    opened = book if isinstance(book, Book) else Book.open(book)
    name = opened.card.name(sae)
    if isinstance(latent, str):
        named = opened.labels.named(latent, name)
        if len(named) > 1:
            raise InterpError(f"{len(named)} latents have the label {latent!r}; give one: {', '.join(map(str, named))}")
        latent = named[0]
    page = opened.feature(latent, name)  # raises for a latent that does not exist
    (counted,) = opened.latents("sae = ? AND latent = ?", [name, latent])
    return LatentCard(name, page, counted, opened.labels.current(name, latent), opened.examples(latent, name))
