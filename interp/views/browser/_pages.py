"""The pages of a book as text: the same templates for the local server and for a folder of files."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from math import log1p
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment

from interp.core.errors import InterpError
from interp.features import Book, FeatureLabel, bin_edges
from interp.features.labels import label_texts
from interp.features.latent_search import TokenFirings
from interp.sae.similarity import SHARED, match_decoders
from interp.views import palette
from interp.views._page import page_environment
from interp.views.browser._legible_text import heat, legible
from interp.views.browser._listing import SORTS, Key, ListView, listing
from interp.views.browser.book_coders import BookCoders

FILES = {"browser.css": "text/css", "browser.js": "text/javascript"}
_FORM = {"text": "", "verdict": "unsure", "note": "", "rater": "", "newer": None, "problem": ""}
_MOST, _BINS, _BLOCK, _OF_TOKEN, _ALONG = 50, 20, 64, 8, 12


@cache
def _environment() -> Environment:
    environment = page_environment().overlay(finalize=lambda value: legible(value) if type(value) is str else value)
    environment.globals = environment.globals | {"heat": heat}
    return environment


@dataclass(frozen=True)
class Addresses:
    """Where pages are: paths of a server, or (`static`) files of one folder, which link to each other by name.

    Args:
        static: Files.
        names: The book's autoencoders; addresses have their numbers.
    """

    static: bool
    names: tuple[str, ...]

    def page(self, kind: str, *parts: object) -> str:
        """The address of a page, such as `latent`, 0, 17."""
        words = [kind, *map(str, parts)]
        return "-".join(words) + ".html" if self.static else "/" + "/".join(words)

    def file(self, name: str) -> str:
        """The address of a style or a script."""
        return name if self.static else f"/{name}"

    def latent(self, sae: str, latent: int, kind: str = "latent") -> str:
        """The address of a latent's page."""
        return self.page(kind, self.names.index(sae), latent)

    def comparison(self, first: int, second: int) -> str:
        """The address of the comparison of two autoencoders, by their numbers."""
        return self.page("compare", first, second) if self.static else f"/compare?first={first}&second={second}"

    def listing(self, view: ListView) -> str:
        """The address of a list."""
        number = self.names.index(view.sae) + 1 if view.sae else 0
        query = urlencode(view.model_dump(exclude_defaults=True))
        if self.static:
            return self.page("latents", number, view.sort, view.page) if query else "index.html"
        return f"/?{query}" if query else "/"


@dataclass(eq=False)
class Pages:
    """The pages of a book.

    Args:
        autoencoders: The book's autoencoders.
        to: Where pages are.
        links: HTML files of other results, such as attribution graphs.
        beside: Other books to compare with.
        live: Whether there is a model to type to.
        token: What this server's own forms hold.
        pairs: The pairs of autoencoders that files compare.
    """

    autoencoders: BookCoders
    to: Addresses
    links: Sequence[Path] = ()
    beside: Sequence[Book] = ()
    live: bool = False
    token: str = ""
    pairs: Sequence[tuple[int, int]] = ()
    _labels: tuple[object, dict[Key, list[FeatureLabel]]] = field(default=(None, {}), init=False)

    def __post_init__(self) -> None:
        self.book, self._others = self.autoencoders.book, [BookCoders(book) for book in self.beside]
        self.links = [Path(file).absolute() for file in self.links]
        for file in self.links:
            if not file.is_file() or file.suffix.lower() not in (".html", ".htm"):
                raise InterpError(f"{file} is no HTML file; link to a page, such as interp graph writes")

    def rendered(self, template: str, **values: Any) -> str:
        """A page from a template of the folder `browser`."""
        sides = [title for _, _, title in self._sides()]
        pairs = self.pairs if self.to.static else [*combinations(range(len(sides)), 2)]
        shared = {"to": self.to, "book": self.book, "live": self.live, "token": self.token, "sides": sides}
        shared |= {"links": [path.name for path in self.links], "start": ListView(), "pairs": pairs}
        shared |= {"labels_of": lambda *key: self.labels().get(key, []), "label_of": self._label_of}
        return _environment().get_template(f"browser/{template}.html.j2").render(**shared | values)

    def asset(self, name: str) -> str:
        """The style or the script."""
        return _environment().get_template(f"browser/{name}").render(light=palette.LIGHT, dark=palette.DARK)

    def labels(self) -> dict[Key, list[FeatureLabel]]:
        """The labels that count, by latent; read again when the file has changed."""
        file = self.book.labels.file
        state = (file.stat().st_mtime_ns, file.stat().st_size) if file.exists() else ()
        if self._labels[0] != state:
            grouped = defaultdict(list)
            for label in self.book.labels.current():
                grouped[label.sae, label.latent].append(label)
            self._labels = state, dict(grouped)
        return self._labels[1]

    def list_page(self, view: ListView) -> str:
        """A list of latents."""
        return self.rendered("list", view=view, listing=listing(self.book, view, self.labels()), sorts=SORTS)

    def latent_pages(self, sae: str, latents: range, **form: Any) -> Iterator[str]:
        """The pages of neighbouring latents; `form` is what the form of labels holds where saving one failed."""
        where, d_sae = "WHERE sae = ? AND latent BETWEEN ? AND ?", self.book.card.autoencoders[sae].d_sae
        for start in latents[::_BLOCK]:
            block = [sae, start, min(start + _BLOCK, latents.stop) - 1]
            examples = defaultdict[int, dict[str, list[Any]]](lambda: defaultdict(list))
            for x in self.book.query(f"SELECT * FROM examples {where} ORDER BY latent, value DESC, place", block):
                examples[x["latent"]][x["kind"]].append(x)
            for row in self.book.query(f"SELECT * FROM latents {where} ORDER BY latent", block):
                held = [number for number, count in enumerate(row["histogram"]) if count] or [0]
                part, edges = slice(held[0], held[-1] + 1), bin_edges()[held[0] : held[-1] + 2].tolist()
                values = {"bars": _bars(row["histogram"][part], edges), "examples": examples[row["latent"]]}
                seen = len(self.book.labels.history(sae, row["latent"])) if self.token else 0
                yield self.rendered("latent", row=row, d_sae=d_sae, seen=seen, form=_FORM | form, **values)

    def text_page(self, text: str = "", fired: Sequence[TokenFirings] = ()) -> str:
        """What fires on a text, token by token, and the strongest latents along it."""
        along: dict[Key, list[float]] = defaultdict(lambda: [0.0] * len(fired))
        for place, (_, firings) in enumerate(fired):
            for sae, latent, value in firings:
                along[sae, latent][place] = value
        best = sorted(along.items(), key=lambda row: -max(row[1]))[:_ALONG]
        tokens = [(word, firings[:_OF_TOKEN]) for word, firings in fired]
        shown = {key for key, _ in best} | {(sae, latent) for _, firings in tokens for sae, latent, _ in firings}
        columns = "SELECT latent, promoted[1:4] AS promoted FROM latents"
        promoted = {
            (sae, row["latent"]): row["promoted"]
            for sae in self.to.names
            for row in self.book.query(
                f"{columns} WHERE sae = ? AND list_contains(?::INTEGER[], latent)",
                [sae, [latent for name, latent in shown if name == sae]],
            )
        }
        return self.rendered("text", text=text, tokens=tokens, strongest=best, promoted=promoted)

    def steer_page(self, sae: str, latent: int) -> str:
        """What is typed to steer with a latent, and the same edit for a recipe file."""
        values = {"path": self.autoencoders.path(sae), "largest": self.largest(sae, latent)}
        return self.rendered("steer", sae=sae, latent=latent, **values)

    def largest(self, sae: str, latent: int) -> float:
        """The largest value of a latent on the book's text. Raises where it never fired."""
        row = self.book.latents("sae = ? AND latent = ?", [sae, latent])[0]
        if not row["count"]:
            raise InterpError(
                f"latent {latent} never fired on this text, so there is no largest activation to hold it at"
            )
        return float(row["largest"])

    def comparison_page(self, first: int, second: int, least: float = SHARED) -> str:
        """What two autoencoders share, by the cosine of decoder rows."""
        known = self._sides()
        if len(known) < 2:
            raise InterpError(
                f"{known[0][2]} is alone here; give interp browse another book with --beside to compare with"
            )
        if max(first, second) >= len(known):
            raise InterpError(f"{first} and {second} can't be compared; expected two numbers below {len(known)}")
        chosen = [known[first], known[second]]
        (one, fires_one), (other, fires_other) = ((coders[name], coders.fires(name)) for coders, name, _ in chosen)
        match, sides = match_decoders(one, other, fires_one, fires_other), []
        for number, (coders, name, title) in enumerate(chosen):
            book, fires = coders.book, match.fires[number]
            columns = "SELECT latent, density, promoted[1:4] AS promoted FROM latents"
            rows = {x["latent"]: x for x in book.query(f"{columns} WHERE sae = ?", [name])}
            alone = sorted(match.alone(number, least), key=lambda pair: -rows[pair[0]]["density"])
            heights = match.cosines[number][fires].clamp(0, 1).histc(_BINS, 0, 1).tolist()
            labels = {latent: text for (_, latent), text in label_texts(book.labels.current(name)).items()}
            side: dict[str, Any] = {"title": title, "rows": rows, "labels": labels, "alone": alone}
            side |= {"sae": name if book is self.book else None, "fire": int(fires.sum())}
            sides.append(side | {"bars": _bars(heights, [n / _BINS for n in range(_BINS + 1)])})
        return self.rendered(
            "compare", first=first, second=second, least=least, most=_MOST, shared=match.shared(least), pair=sides
        )

    def _sides(self) -> list[tuple[BookCoders, str, str]]:
        """What can be compared: the autoencoders of a book, a name among them, and the name to show."""
        own = [(self.autoencoders, name, name) for name in self.to.names]
        more = [(x, name, f"{name} of {x.book.folder.name}") for x in self._others for name in x.book.card.autoencoders]
        return own + more

    def _label_of(self, sae: str, latent: int) -> str:
        return label_texts(self.labels().get((sae, latent), ())).get((sae, latent), "")


def _bars(counts: Sequence[int | float], edges: Sequence[float]) -> list[tuple[float, str]]:
    """The bars of a histogram: the height, 0 to 1 on a logarithmic scale, and what it says; none where all is 0."""
    top, bins = log1p(max(counts)), zip(counts, edges, edges[1:], strict=False)
    return [(log1p(x) / top, f"{low:.3g} to {high:.3g}: {x:,.0f}") for x, low, high in bins if top]
