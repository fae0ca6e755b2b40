"""A feature book: what a scan found of every latent, with people's labels, queried through DuckDB.

The folder has `book.json` (what it is of), `latents.parquet`, `examples.parquet`, `background.parquet` and, once
somebody wrote one, `labels.jsonl` (`interp.features.labels`). The files are read where a query needs them, so that a
book can be far larger than memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.core.display import Card, Displayed, displayed
from interp.core.errors import InterpError, first_line
from interp.core.files import read_json, sha256_file, sha256_json
from interp.features.book_card import BACKGROUND_FILE, CARD, EXAMPLES_FILE, LABELS_FILE, LATENTS_FILE, BookCard
from interp.features.labels import LabelFile, label_texts
from interp.features.latent_names import PREFIX, NamedLatents
from interp.features.latent_search import search
from interp.features.scanning.latent_statistics import bin_edges
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.sae.feature import Feature, Snippet


@dataclass(frozen=True, eq=False)
class Book(Displayed):
    """A feature book, opened.

    Attributes:
        folder: Its folder.
        card: What it is of.

    Example:
        >>> from interp.features import Book
        >>> Book.open(tmp)
        Traceback (most recent call last):
        interp.core.errors.InterpError: ... is no feature book (it has no book.json); interp features scan makes one
    """

    folder: Path
    card: BookCard

    @classmethod
    def open(cls, folder: str | Path) -> "Book":
        """Open a book. Raises where there is none, or a file of it is missing."""
        place = Path(folder)
        for name in (CARD, LATENTS_FILE, EXAMPLES_FILE, BACKGROUND_FILE):
            if not (place / name).is_file():
                raise InterpError(f"{place} is no feature book (it has no {name}); interp features scan makes one")
        return cls(place, BookCard.parse(read_json(place / CARD), source=str(place / CARD)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the scan found: the record and the table of latents. Labels are not part of it."""
        return sha256_json([self.card.model_dump(), sha256_file(self.folder / LATENTS_FILE)])

    @cached_property
    def _database(self) -> Any:
        try:
            import duckdb
        except ImportError:
            raise InterpError("a feature book needs duckdb; install it with: pip install 'interp[features]'") from None
        database = duckdb.connect(":memory:", config={"threads": 1})
        for name in (LATENTS_FILE, EXAMPLES_FILE, BACKGROUND_FILE):
            file = str((self.folder / name).absolute()).replace("'", "''")
            try:
                database.execute(f"CREATE VIEW {Path(name).stem} AS SELECT * FROM read_parquet('{file}')")
            except duckdb.Error as problem:
                reason = f"{self.folder / name} is damaged ({first_line(problem)})"
                raise InterpError(f"{reason}; restore it, or scan again into a new folder") from None
        return database

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a DuckDB query on the views `latents`, `examples` and `background`.

        Args:
            sql: The query.
            values: What its question marks stand for.

        Raises:
            InterpError: DuckDB cannot run it, or a file is damaged.
        """
        database = self._database  # raises where DuckDB is not installed
        import duckdb
        import pyarrow as pa

        try:
            result = database.sql(sql, params=list(values)).to_arrow_table()
        except duckdb.Error as problem:
            raise InterpError(f"{self.folder}: query failed ({first_line(problem)})") from None
        assert isinstance(result, pa.Table)
        return list(result.to_pylist())

    def latents(
        self, where: str = "true", values: Sequence[Any] = (), order: str = "sae, latent"
    ) -> list[dict[str, Any]]:
        """The rows of the latents that meet a condition of SQL."""
        return displayed(self.query(f"SELECT * FROM latents WHERE {where} ORDER BY {order}", values))

    def examples(self, latent: int, sae: str | None = None) -> list[dict[str, Any]]:
        """A latent's examples: `top`, the largest first, then `quarter1` (the weakest) to `quarter4`."""
        name = self.card.name(sae)
        self.card.require_latent(name, latent)
        order = "kind = 'top' DESC, kind, value DESC, place"
        return self.query(f"SELECT * FROM examples WHERE sae = ? AND latent = ? ORDER BY {order}", [name, latent])

    def feature(self, latent: int, sae: str | None = None) -> Feature:
        """The page of a latent, as `interp.sae.feature_page` makes it, with the labels that people gave it.

        Raises for a latent that does not exist.
        """
        name = self.card.name(sae)
        examples = self.examples(latent, name)
        row = self.query("SELECT * FROM latents WHERE sae = ? AND latent = ?", [name, latent])[0]
        held = [number for number, count in enumerate(row["histogram"]) if count]
        first, last = (held[0], held[-1]) if held else (0, 0)
        edges = bin_edges()[first : last + 2].tolist() if held else [0.0, 0.0]
        promoted, suppressed = (
            tuple((word["token"], word["effect"]) for word in row[side]) for side in ("promoted", "suppressed")
        )
        return Feature(
            latent=latent,
            site=Site.parse(self.card.autoencoders[name].site),
            density=row["density"],
            counts=tuple(row["histogram"][first : last + 1]),
            edges=(*edges[:-1], row["largest"]) if held else (0.0, 0.0),
            snippets=tuple(
                Snippet(tuple(x["tokens"]), tuple(x["values"]), x["peak"], x["document"])
                for x in examples
                if x["kind"] == "top"
            ),
            promoted=promoted,
            suppressed=suppressed,
            nearest=tuple((near["latent"], near["share"]) for near in row["nearest_decoder"]),
            label=label_texts(self.labels.current(name, latent)).get((name, latent), ""),
        )

    search = search

    @property
    def labels(self) -> LabelFile:
        """The labels of its latents."""
        return LabelFile(self.folder / LABELS_FILE, self.card)

    def _card(self) -> Card:
        sizes = {name: sae.d_sae for name, sae in self.card.autoencoders.items()}
        rows = [("model", self.card.model.name), ("latents", sizes), ("tokens", self.card.tokens)]
        return str(self.folder), [*rows, ("labels", len(self.labels.current()))]


def resolve_latents(
    names: Iterable[int | str], sae: SparseAutoencoder | None, book: str | Path | None = None
) -> tuple[list[int], tuple[NamedLatents, ...]]:
    """The numbers of latents, each once, and what the labels among them meant.

    Args:
        names: Numbers, and labels as `book:LABEL`.
        sae: The autoencoder, for labels.
        book: Folder of its feature book, for labels.

    Raises:
        InterpError: A label without a book, or which no latent has, or on which raters disagree; a book of another
            autoencoder; or a label of a latent that the autoencoder does not have.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.features import FeatureLabel, ScanOptions, resolve_latents, scan
        >>> from interp.sae import SparseAutoencoder, TopK
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> book = scan(sae, model, tmp / "book", ScanOptions(top=2), texts=["the baker sold bread ."] * 3)
        >>> book.labels.add([FeatureLabel(sae="sae", latent=2, text="trades", rater="ana")])[0].text
        'trades'
        >>> numbers, meant = resolve_latents(["book:trades", 0], sae, tmp / "book")
        >>> numbers, meant[0].label
        ([2, 0], 'trades')
    """
    numbers, meant = list[int](), list[NamedLatents]()
    for name in names:
        if isinstance(name, int):
            numbers.append(name)
            continue
        if book is None or sae is None or not name.startswith(PREFIX):
            raise InterpError(f"latent {name!r} can't be looked up; give a number, or {PREFIX}LABEL with sae and book")
        opened, label = Book.open(book), name.removeprefix(PREFIX).strip()
        latents = opened.labels.named(label, opened.card.require(sae))
        meant.append(NamedLatents(label=label, latents=latents, book=opened.digest))
        numbers += latents
    return list(dict.fromkeys(numbers)), tuple(meant)
