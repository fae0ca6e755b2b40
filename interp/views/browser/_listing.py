"""A list of a book's latents: sorted, filtered, searched, a page at a time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from interp.core.config import Config
from interp.features import Book, FeatureLabel

Key = tuple[str, int]  # an autoencoder's name and a latent's number
Labels = Mapping[Key, Sequence[FeatureLabel]]
Sort = Literal["latent", "density", "rare", "largest", "ablation", "lens", "labelled"]
PAGE, MATCHES = 50, 1000
SORTS: dict[Sort, tuple[str, str]] = {
    "latent": ("number, or best match", "sae, latent"),
    "density": ("most often", "density DESC, sae, latent"),
    "rare": ("least often", "count = 0, density, sae, latent"),
    "largest": ("largest activation", "largest DESC, sae, latent"),
    "ablation": ("effect of ablation", "ablation DESC NULLS LAST, sae, latent"),
    "lens": ("promotes what follows", "lens DESC NULLS LAST, sae, latent"),
    "labelled": ("labelled first", ""),
}
_KEY = "concat(latent, ' ', sae)"
_AMONG = f"{_KEY} IN (SELECT unnest(?::VARCHAR[]))"
_IN_ORDER = f"list_position(?::VARCHAR[], {_KEY}) NULLS LAST, sae, latent"
_BEST = "QUALIFY row_number() OVER (PARTITION BY sae, latent ORDER BY value DESC, place) = 1"


class ListView(Config):
    """What a list shows."""

    sae: str = Field("", description="the autoencoder; empty for all")
    sort: Sort = Field("latent", description="the order")
    q: str = Field("", max_length=200, description="what to search")
    by: Literal["text", "label", "token"] = Field("text", description="where: in examples, labels, promoted tokens")
    verdict: Literal["", "any", "none", "harmful", "benign", "unsure"] = Field("", description="a label's verdict")
    low: float = Field(0.0, ge=0, le=100, strict=False, description="least density, in per cent of tokens")
    high: float = Field(100.0, ge=0, le=100, strict=False, description="largest density, in per cent")
    page: int = Field(1, ge=1, le=1_000_000, strict=False, description="the page")

    def at(self, **changes: Any) -> "ListView":
        """The list with other settings, from its first page."""
        return self.model_copy(update={"page": 1} | changes)


@dataclass(frozen=True)
class Listing:
    """A page of a list: its rows with an example each, which page it is, and why each latent was found."""

    rows: list[dict[str, Any]]
    page: int
    pages: int
    total: int
    found: Mapping[Key, str]


def listing(book: Book, view: ListView, labels: Labels) -> Listing:
    """The latents of a view; of one behind the last page, that of the last.

    Raises for an autoencoder that is not in the book, and what a search does not find.
    """
    found: dict[Key, str] = {}
    conditions: list[tuple[str, list[Any]]] = [("density BETWEEN ? AND ?", [view.low / 100, view.high / 100])]
    if view.sae:
        conditions.append(("sae = ?", [book.card.name(view.sae)]))
    if view.q:
        sought: dict[str, Any] = {view.by: view.q, "sae": view.sae or None, "count": MATCHES}
        matches = book.search(**sought).matches
        found = {(x.sae, x.latent): x.reason for x in matches}
        conditions.append((_AMONG, [_names(found)]))
    if view.verdict:
        negated = "NOT " * (view.verdict == "none")
        those = [key for key, given in labels.items() if negated or any(_has(x, view.verdict) for x in given)]
        conditions.append((negated + _AMONG, [_names(those)]))
    where = " AND ".join(condition for condition, _ in conditions)
    values = [value for _, more in conditions for value in more]
    total = book.query(f"SELECT count(*) AS n FROM latents WHERE {where}", values)[0]["n"]
    pages = max(1, -(-total // PAGE))
    page = min(view.page, pages)
    first = labels if view.sort == "labelled" else found if view.sort == "latent" else ()
    order = _IN_ORDER if first else SORTS[view.sort][1] or SORTS["latent"][1]
    columns = "sae, latent, density, count, largest, ablation, promoted[1:4] AS promoted"
    rest = f"ORDER BY {order} LIMIT {PAGE} OFFSET {PAGE * (page - 1)}"
    names = [_names(sorted(first) if view.sort == "labelled" else first)] if first else []
    rows = book.query(f"SELECT {columns} FROM latents WHERE {where} {rest}", [*values, *names])
    keys = [_names((row["sae"], row["latent"]) for row in rows)]
    example = 'sae, latent, value, place, peak, tokens, "values"'
    numbers = [row["latent"] for row in rows] or [0]
    near = f"latent BETWEEN {min(numbers)} AND {max(numbers)}"  # by which DuckDB leaves out parts of the file
    best = book.query(f"SELECT {example} FROM examples WHERE kind = 'top' AND {near} AND {_AMONG} {_BEST}", keys)
    examples = {(x["sae"], x["latent"]): _around_peak(x) for x in best}
    rows = [row | {"example": examples.get((row["sae"], row["latent"]))} for row in rows]
    return Listing(rows, page, pages, total, found)


def _has(label: FeatureLabel, verdict: str) -> bool:
    return verdict in ("any", label.verdict)


def _names(keys: Iterable[Key]) -> list[str]:
    return [f"{latent} {sae}" for sae, latent in keys]


def _around_peak(row: dict[str, Any], before: int = 7, after: int = 3) -> dict[str, Any]:
    """An example's tokens next to its peak."""
    start = max(0, row["peak"] - before)
    part = slice(start, row["peak"] + after + 1)
    return {"tokens": row["tokens"][part], "values": row["values"][part], "peak": row["peak"] - start}
