"""Search in a feature book: by text, label, token, a sentence that latents fire on, or the cosine with a direction.

| criterion | a latent matches | its score |
|---|---|---|
| `fires` | it fires on a sentence, read by the model now as a scan would read it | its largest value there |
| `direction` | every latent of a site of the direction | the larger cosine, of its decoder or its encoder row |
| `token` | it promotes or suppresses a token, in any case, with or without spaces | the effect on its logit |
| `text` | one of its examples has the text, in any case | the share of its examples that have it |
| `label` | a rater's label has the text, in any case | the share of the label that it is |

With several criteria, latents match that meet all, in the order of the first one given, of this table. What is searched
for goes to DuckDB as a bound value and never becomes SQL.

Limitations: examples and promoted tokens are a sample. That no example of a latent has a text does not show that it is
silent on it. Values of different autoencoders have different scales.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import normalize

from interp.activations.columns import parse_sites
from interp.core.display import Card, Displayed, brief, clipped, displayed, plural
from interp.core.errors import InterpError, nearest
from interp.features.book_card import BookCard
from interp.features.labels import label_texts
from interp.features.scanning.token_chunk import model_chunks
from interp.models.architectures.unembedding import token_text
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder

Hit = tuple[str, int, float, str]  # autoencoder, latent, score and reason
TokenFirings = tuple[str, tuple[tuple[str, int, float], ...]]  # a token's text; autoencoder, latent and value
Coders = Mapping[str, SparseAutoencoder]
_LONGEST, _AROUND = 1024, 24  # tokens of a sentence; characters beside a text that is found
_EXAMPLES = "SELECT *, contains(lower(text), lower(?)) AS here FROM examples WHERE list_contains(?, sae)"
_WORDS = (
    "SELECT sae, latent, unnest(promoted || suppressed, recursive := true) FROM latents WHERE list_contains(?, sae)"
)


@runtime_checkable
class SearchedDirection(Protocol):
    """What a search needs of a direction."""

    @property
    def rows(self) -> Float[Tensor, "k d_model"]:
        """Its unit rows."""

    @property
    def site(self) -> Site:
        """Where it was fitted."""

    def check(self, model: ModelReference, what: str = "") -> None:
        """Raise for another model."""


@dataclass(frozen=True)
class LatentMatch(Displayed):
    """A latent that a search found.

    Attributes:
        sae: The autoencoder's name in the book.
        latent: Its number.
        score: How well it matches; what it measures depends on the criterion.
        reason: Why it matches, in words.
        label: What raters call it.
    """

    sae: str
    latent: int
    score: float
    reason: str
    label: str = ""


@dataclass(frozen=True, eq=False)
class FoundLatents(Displayed):
    """What a search found.

    Attributes:
        sought: What was searched for, by criterion.
        matches: The best matches, best first.
        total: How many latents match in all.
        firings: Of a sentence: each token's text, with autoencoder, latent and value of the matching latents that fire
            on it, the strongest first. The first token does not count, as in a scan.
    """

    sought: dict[str, str]
    matches: tuple[LatentMatch, ...]
    total: int
    firings: tuple[TokenFirings, ...] = ()

    def _card(self) -> Card:
        words = ", ".join(f"{name} {value!r}" for name, value in self.sought.items())
        rows = [(f"{x.sae} {x.latent}", x.reason, x.label) for x in self.matches]
        return f"{plural(self.total, 'latent')} by {clipped(words, 100)}", rows


def search(
    book: Any,
    *,
    text: str | None = None,
    label: str | None = None,
    token: str | None = None,
    fires: str | None = None,
    direction: SearchedDirection | None = None,
    model: HookedModel | Callable[[], HookedModel] | None = None,
    sae: str | Path | SparseAutoencoder | None = None,
    count: PositiveInt = 20,
) -> FoundLatents:
    """The latents that meet criteria, with the reason why each does.

    With several criteria a latent meets all; it is ranked by the first of fires, direction, token, text and label
    that is given.

    Args:
        book: The `Book`, whose method this is: `book.search(…)`.
        text: Part of the text of an example, in any case.
        label: Part of a rater's label, in any case.
        token: A token that the latent promotes or suppresses, in any case, with or without spaces.
        fires: A sentence that the model reads now: latents that fire on it, token by token.
        direction: A direction at a site of the autoencoder: latents by the cosine with decoder and encoder rows.
        model: The model of the book, for `fires`, or what loads it, which is called after all else was looked up.
        sae: One autoencoder of the book, by name, or itself, or its folder. `fires` and `direction` need the
            autoencoders themselves, which are otherwise read from where they were when they were scanned.
        count: How many matches to return at most.

    Raises:
        InterpError: Nothing to search for, no such label or token (with the nearest), no model for `fires`, a
            sentence that the tokenizer cannot take, a model, direction or autoencoder of another book (by digest,
            site or width), or autoencoders that are not where they were.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.features import ScanOptions, scan
        >>> from interp.sae import SparseAutoencoder, TopK
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> book = scan(sae, model, tmp / "book", ScanOptions(top=2), texts=["the baker sold bread ."] * 3)
        >>> book.search(fires="the baker .", model=model, sae=sae).matches[0].reason[:17]
        "fires on ' baker'"
    """
    criteria = {"fires": fires, "direction": direction, "token": token, "text": text, "label": label}
    given = {name: str(value) for name, value in criteria.items() if value is not None}
    if not all(given.values()) or not given:
        expected = "one or more of text, label, token, fires and direction, none of them empty"
        raise InterpError(f"search for {given or 'nothing'}; expected {expected}")
    names, coders = _autoencoders(book.card, sae, bool({"fires", "direction"} & given.keys()))
    hits = {"direction": [] if direction is None else _by_direction(book.card, coders, direction)}
    hits["token"] = [] if token is None else _by_token(book, token, names)
    hits["text"] = [] if text is None else _by_text(book, text, names)
    hits["label"] = [] if label is None else _by_label(book, label, names)
    firings = list[TokenFirings]()
    if fires is not None:
        loaded = model if model is None or isinstance(model, HookedModel) else model()
        firings = token_firings(book.card, coders, loaded, fires)
    hits["fires"] = [(*x, f"fires on {word!r} ({x[2]:.3g})") for word, here in firings for x in here]
    by_criterion = [{x[:2]: x for x in sorted(hits[name], key=lambda x: abs(x[2]))} for name in given]
    keys = set(by_criterion[0]).intersection(*by_criterion[1:])
    labels = label_texts(book.labels.current())
    matches = [
        LatentMatch(*key, by_criterion[0][key][2], "; ".join(by[key][3] for by in by_criterion), labels.get(key, ""))
        for key in sorted(keys, key=lambda key: (-abs(by_criterion[0][key][2]), key))[:count]
    ]
    kept = tuple((word, tuple(x for x in here if x[:2] in keys)) for word, here in firings)
    return FoundLatents(given, displayed(tuple(matches)), len(keys), kept)


def _autoencoders(card: BookCard, sae: str | Path | SparseAutoencoder | None, load: bool) -> tuple[list[str], Coders]:
    """The names of the autoencoders that are searched, and themselves where they are needed."""
    if isinstance(sae, Path) or (isinstance(sae, str) and sae not in card.autoencoders and Path(sae).exists()):
        sae = SparseAutoencoder.load(sae, card.model)
    if isinstance(sae, SparseAutoencoder):
        return [card.require(sae)], {card.require(sae): sae}
    names = list(card.autoencoders) if sae is None else [card.name(sae)]
    return names, {name: card.load(name) for name in names} if load else {}


def token_firings(card: BookCard, coders: Coders, model: HookedModel | None, sentence: str) -> list[TokenFirings]:
    """The latents that fire on each token of a sentence, the strongest first, read as a scan reads a document.

    Raises without the book's model, and for a sentence that it cannot read: too long, or of tokens unknown to it.
    """
    if model is None:
        raise InterpError("what fires on a sentence is read by the model now; give it (model=, or --model)")
    card.model.check(model.reference, "the book")
    sites = list(dict.fromkeys(parse_sites([place.site for sae in coders.values() for place in sae.reads])))
    context = min(_LONGEST, model.context or _LONGEST)
    chunk = next(model_chunks(model, [sentence], sites, 2 * context, tokens=context + 1, context=context))
    if len(chunk) > context or len(chunk) < 2:
        raise InterpError(f"{clipped(sentence, 60)!r} has to have from 2 to {context} tokens, its beginning included")
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in chunk.ids:
        raise InterpError(f"the tokenizer of {model.reference.name} does not know some of {clipped(sentence, 60)!r}")
    fired: list[list[tuple[str, int, float]]] = [[] for _ in chunk.ids]
    for name, sae in coders.items():
        code = sae.encode_sparse(torch.cat([chunk.activations[place.site] for place in sae.reads], dim=1))
        counts = code.pick(((code.values > 0) & (chunk.position[code.tokens] > 0)).nonzero().flatten())
        for token, *rest in zip(counts.tokens.tolist(), counts.latents.tolist(), counts.values.tolist(), strict=True):
            fired[token].append((name, *rest))
    words = (token_text(model.tokenizer, token) for token in chunk.ids.tolist())
    return [(word, tuple(sorted(x, key=lambda x: (-x[2], x)))) for word, x in zip(words, fired, strict=True)]


def _by_direction(card: BookCard, coders: Coders, direction: SearchedDirection) -> list[Hit]:
    direction.check(card.model, "the direction")
    hits: list[Hit] = []
    for name, sae in coders.items():
        for side, places, rows in (("encoder", sae.reads, sae.W_enc), ("decoder", sae.writes, sae.W_dec)):
            if [place.site for place in places] == [str(direction.site)]:
                cosines = _cosines(rows, direction.rows).tolist()
                hits += [(name, latent, x, f"{side} cosine {x:.3f}") for latent, x in enumerate(cosines)]
    if not hits:
        sites = {name: card.autoencoders[name].site for name in coders}
        raise InterpError(f"the direction is of {direction.site}, and the book's autoencoders of {brief(sites)} alone")
    return hits


def _cosines(rows: Float[Tensor, "d_sae d"], basis: Float[Tensor, "k d"]) -> Float[Tensor, "d_sae"]:
    """The cosine of each row with a direction, or with its projection on a subspace, which is at least 0."""
    parts = normalize(rows.float(), dim=1) @ basis.float().T
    return parts[:, 0] if parts.shape[1] == 1 else parts.norm(dim=1)


def _by_token(book: Any, token: str, names: list[str]) -> list[Hit]:
    rows = book.query(f"SELECT * FROM ({_WORDS}) WHERE lower(trim(token)) = lower(trim(?))", [names, token])
    if not rows:
        known = [row["token"].strip() for row in book.query(f"SELECT DISTINCT token FROM ({_WORDS})", [names])]
        words = [word for word in known if word.isprintable() and "\ufffd" not in word and word]
        hint = nearest(token, words) if known else "it was scanned without its model, so it has no tokens"
        raise InterpError(f"no latent of the book promotes or suppresses {token!r}; {hint}")
    verbs = (("suppresses", "promotes")[x["effect"] > 0] for x in rows)
    return [
        (x["sae"], x["latent"], x["effect"], f"{verb} {x['token']!r} ({x['effect']:+.3g})")
        for x, verb in zip(rows, verbs, strict=True)
    ]


def _by_text(book: Any, text: str, names: list[str]) -> list[Hit]:
    counts = "count(DISTINCT place) FILTER (here) AS found, count(DISTINCT place) AS held"
    columns = f"sae, latent, {counts}, arg_max(text, value) FILTER (here) AS example"
    rows = book.query(f"SELECT {columns} FROM ({_EXAMPLES}) GROUP BY sae, latent HAVING found > 0", [text, names])
    reasons = (f"in {x['found']} of {plural(x['held'], 'example')}: {_around(x['example'], text)}" for x in rows)
    return [(x["sae"], x["latent"], x["found"] / x["held"], why) for x, why in zip(rows, reasons, strict=True)]


def _around(example: str, text: str) -> str:
    """The part of an example around a text, on one line."""
    start = max(0, example.lower().find(text.lower()))
    low, high = max(0, start - _AROUND), start + len(text) + _AROUND
    return "…" * (low > 0) + " ".join(example[low:high].split()) + "…" * (high < len(example))


def _by_label(book: Any, label: str, names: list[str]) -> list[Hit]:
    labels, wanted = [x for x in book.labels.current() if x.sae in names], label.strip()
    found = [x for x in labels if wanted.casefold() in x.text.casefold()]
    if not found:
        raise InterpError(f"no latent has the label {label!r}; {nearest(label, [x.text for x in labels])}")
    reasons = (f"{x.rater or 'a rater'} says {x.text!r} ({x.verdict})" for x in found)
    return [(x.sae, x.latent, len(wanted) / len(x.text), why) for x, why in zip(found, reasons, strict=True)]
