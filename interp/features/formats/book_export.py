"""`export_book`: a feature book in another tool's files; and `read_tool_labels`: labels from them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from interp.core.files import new_folder
from interp.features.book import Book
from interp.features.formats.delphi import delphi_labels, write_delphi
from interp.features.formats.neuronpedia import neuronpedia_labels, read_records, write_neuronpedia
from interp.features.formats.saedashboard import write_dashboard
from interp.features.labels import FeatureLabel, LabelFile

Form = Literal["neuronpedia", "saedashboard", "delphi"]
_WRITERS: dict[str, Callable[[Book, Path, str, Sequence[int]], None]] = {
    "neuronpedia": write_neuronpedia,
    "saedashboard": write_dashboard,
    "delphi": write_delphi,
}


def export_book(
    book: Book, out: str | Path, form: Form, *, sae: str | None = None, latents: Sequence[int] | None = None
) -> int:
    """Write latents of a book as another tool has them, and return their number.

    Args:
        book: The book.
        out: New folder.
        form: Whose files: `neuronpedia`, `saedashboard` or `delphi`.
        sae: The autoencoder's name; needed where the book has several.
        latents: The latents; by default all that fire.

    Raises:
        InterpError: The folder exists, or a latent does not.

    Example:
        >>> from interp.features import Book, export_book
        >>> export_book(Book.open("no/such"), "out", "neuronpedia")
        Traceback (most recent call last):
        interp.core.errors.InterpError: no/such is no feature book ...
    """
    name = book.card.name(sae)
    if latents is None:
        latents = [row["latent"] for row in book.latents("sae = ? AND count > 0", [name])]
    for latent in latents:
        book.card.require_latent(name, latent)
    chosen = sorted({*latents})
    with new_folder(out) as folder:
        _WRITERS[form](book, folder, name, chosen)
    return len(chosen)


def read_tool_labels(path: str | Path, labels: LabelFile, sae: str | None = None) -> list[FeatureLabel]:
    """Labels from a file or folder, not yet added: a book's labels, or explanations of Neuronpedia or delphi.

    Args:
        path: JSONL of labels as a book writes it; Neuronpedia's JSON, lines of JSON or export; or delphi's
            explanations.
        labels: The labels of the book that they are for.
        sae: The autoencoder that explanations are of; needed where the book has several.

    Raises:
        InterpError: There is nothing of these.

    Example:
        >>> from interp.features import Book, read_tool_labels
        >>> read_tool_labels("explanations", Book.open("no/such").labels)
        Traceback (most recent call last):
        interp.core.errors.InterpError: no/such is no feature book ...
    """
    place = Path(path)
    if place.is_dir():
        exported = any(place.glob("*.jsonl*")) or any(place.glob("explanations/*.jsonl*"))
        return (neuronpedia_labels if exported else delphi_labels)(place, labels.card.name(sae))
    records = read_records(place) if ".json" in place.name else []
    own = not records or "latent" in records[0]
    return labels.read(place) if own else neuronpedia_labels(place, labels.card.name(sae))
