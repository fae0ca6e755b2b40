"""`export_pages`: the pages of a book as a folder of HTML files that opens from disk, without a server or a network."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from interp.core.errors import InterpError, note
from interp.core.files import new_folder, require_free
from interp.core.progress import track
from interp.features import Book
from interp.sae.similarity import match_decoders
from interp.views.browser._listing import SORTS, ListView, listing
from interp.views.browser._pages import FILES, Addresses, Pages
from interp.views.browser.book_coders import BookCoders


def export_pages(
    book: Book, out: str | Path, *, autoencoders: Mapping[str, str] | None = None, links: Sequence[str | Path] = ()
) -> int:
    """Write the pages of a book as a folder of files; `index.html` is the list of its latents.

    Forms, search and what needs a model are left out. Autoencoders are compared where their files can be read.

    Args:
        book: The book.
        out: New folder.
        autoencoders: Where the book's autoencoders are, by name; by default where they were when they were scanned.
        links: HTML files of other results; they are copied.

    Returns:
        The number of pages.

    Raises:
        InterpError: `out` exists or cannot be written, or a link is no HTML file.

    Example:
        >>> from interp.features import Book
        >>> from interp.views import export_pages
        >>> export_pages(Book.open(tmp), tmp / "pages")
        Traceback (most recent call last):
        interp.core.errors.InterpError: ... is no feature book ...
    """
    names = tuple(book.card.autoencoders)
    pages = Pages(BookCoders(book, autoencoders), Addresses(True, names), [Path(x) for x in links])
    require_free(out)
    with new_folder(out) as folder:

        def write(name: str, text: str) -> None:
            (folder / name).write_text(text, encoding="utf-8", errors="replace")

        for name in FILES:
            write(name, pages.asset(name))
        for number, file in enumerate(pages.links):
            shutil.copyfile(file, folder / pages.to.page("link", number))
        pages.pairs = _pairs(pages)
        for pair in pages.pairs:
            write(pages.to.comparison(*pair), pages.comparison_page(*pair))
        for view in _views(pages):
            write(pages.to.listing(view), pages.list_page(view))
        for sae in track(names, "pages", unit="autoencoders"):
            texts = pages.latent_pages(sae, range(book.card.autoencoders[sae].d_sae))
            for latent, text in enumerate(texts):
                write(pages.to.latent(sae, latent), text)
        return sum(path.suffix == ".html" for path in folder.iterdir())


def _pairs(pages: Pages) -> list[tuple[int, int]]:
    """The pairs of autoencoders that can be compared."""
    pairs = []
    for pair in combinations(range(len(pages.to.names)), 2):
        try:
            first, second = (pages.autoencoders[pages.to.names[number]] for number in pair)
            match_decoders(first, second)
            pairs.append(pair)
        except InterpError as problem:
            note(f"{' and '.join(pages.to.names[number] for number in pair)} are not compared: {problem}")
    return pairs


def _views(pages: Pages) -> Iterator[ListView]:
    """Every page of every order of the list, of all autoencoders and of each."""
    names = pages.to.names
    for sae in ("", *(names if len(names) > 1 else ())):
        number = listing(pages.book, ListView(sae=sae), {}).pages
        for sort in SORTS:
            yield from (ListView(sae=sae, sort=sort, page=page) for page in range(1, number + 1))
