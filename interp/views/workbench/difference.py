"""What differs between two models, two recipes, or two autoencoders: `interp.views.compare`.

- Models and recipes: KL(first || second) of the next token after each token of a text, and the likeliest tokens.
- Autoencoders and feature books: latents that both have, which are each other's nearest by the cosine of decoder rows,
  and latents of one alone, whose nearest has a lower cosine. Latents of a book that never fired are left out before.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.display import Card, Displayed, html_table
from interp.core.errors import InterpError
from interp.features.book import Book
from interp.features.labels import label_texts
from interp.interventions.recipe import Recipe
from interp.models.architectures.unembedding import token_text
from interp.models.hooked import HookedModel
from interp.models.losses import kl_divergence
from interp.models.tokens import Chat, Prompts, Tokens
from interp.sae.coder import SparseAutoencoder
from interp.sae.similarity import SHARED, match_decoders
from interp.views.browser.book_coders import BookCoders
from interp.views.workbench.token_heat import TokenHeat

_PLACES = 8


@dataclass(frozen=True)
class NextTokens(Displayed):
    """What two sides expect after a token of a text.

    Args:
        after: The token.
        nats: KL(first || second) of the next token.
        first, second: The likeliest next tokens of each side with their probabilities.
    """

    after: str
    nats: float
    first: tuple[tuple[str, float], ...]
    second: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class NextTokenDifference(Displayed):
    """How the next-token predictions of two sides differ on a text.

    Args:
        names: What the sides are.
        heat: KL(first || second) in nats of what follows each token.
        places: What both expect after each token.

    Example:
        >>> from interp.views import compare
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
        >>> difference = compare(model, recipe, "The river of")
        >>> len(difference.places), difference.mean > 0
        (4, True)
    """

    names: tuple[str, str]
    heat: TokenHeat
    places: tuple[NextTokens, ...]

    @property
    def mean(self) -> float:
        """Mean of KL(first || second) over the tokens, in nats."""
        return float(self.heat.values.mean())

    def largest(self, count: int = _PLACES) -> list[NextTokens]:
        """The places where the sides differ most."""
        return sorted(self.places, key=lambda place: -place.nats)[:count]

    def _card(self) -> Card:
        places = [
            (f"after {place.after!r}", [f"{place.nats:.3g} nats", *_likeliest(place)]) for place in self.largest()
        ]
        return " and ".join(self.names), [("mean KL", f"{self.mean:.3g} nats"), *places]

    def _repr_html_(self) -> str:
        rows = [(repr(place.after), place.nats, *_likeliest(place)) for place in self.largest()]
        title = f"Where they differ most; mean KL {self.mean:.3g} nats"
        return self.heat._repr_html_() + html_table(title, ["after", "KL in nats", *self.names], rows)


@dataclass(frozen=True)
class LatentDifference(Displayed):
    """Latents that two autoencoders share, and those that one has alone.

    Args:
        names: What the sides are.
        shared: Latents of both that are each other's nearest, with the cosine of their decoder rows, the largest first.
        alone: For each side the latents without a counterpart, each with the cosine of its nearest, the lowest first.
        words: For each side what is known of a latent: its label, or what it promotes.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import TopK
        >>> from interp.views import compare
        >>> place, zero = (SiteColumns(site="resid_post.1", model=model.reference, width=192),), torch.zeros(192)
        >>> saes = [
        ...     interp.SparseAutoencoder(rows, zero[:9], rows, zero, TopK(k=2), place, place)
        ...     for rows in (torch.eye(192)[:9], torch.eye(192)[4:13])
        ... ]
        >>> difference = compare(*saes)
        >>> difference.shared[0], len(difference.shared), [latent for latent, _ in difference.alone[1]]
        ((4, 0, 1.0), 5, [5, 6, 7, 8])
    """

    names: tuple[str, str]
    shared: tuple[tuple[int, int, float], ...]
    alone: tuple[tuple[tuple[int, float], ...], tuple[tuple[int, float], ...]]
    words: tuple[Mapping[int, str], Mapping[int, str]]

    def _card(self) -> Card:
        alone = [(f"only in {name}", len(latents)) for name, latents in zip(self.names, self.alone, strict=True)]
        return " and ".join(self.names), [("shared", len(self.shared)), *alone]

    def _repr_html_(self) -> str:
        first, second = ({latent: f"{latent} {word}" for latent, word in words.items()} for words in self.words)
        pairs = [(f"{cosine:.2f}", first.get(a, a), second.get(b, b)) for a, b, cosine in self.shared]
        tables = [html_table(f"Shared latents: {len(pairs):,}", ["cosine", *self.names], pairs)]
        for name, side, known in zip(self.names, self.alone, (first, second), strict=True):
            rows = [(known.get(latent, latent), f"{cosine:.2f}") for latent, cosine in side]
            tables.append(html_table(f"Only in {name}: {len(rows):,}", ["latent", "nearest cosine"], rows))
        return "".join(tables)


Side = HookedModel | Recipe
Latents = SparseAutoencoder | Book | tuple[Book, str]


def compare(
    a: Side | Latents,
    b: Side | Latents,
    text: Prompts | None = None,
    model: HookedModel | None = None,
    chat: Chat = None,
    least: float = SHARED,
) -> NextTokenDifference | LatentDifference:
    """What differs between two models or recipes on a text, or between the latents of two autoencoders.

    Args:
        a: A model, a recipe, an autoencoder, a feature book, or `(book, name)` where the book has several.
        b: Another one. A recipe beside a model is a recipe for that model.
        text: One text, or token ids; for models and recipes.
        model: The model of two recipes.
        chat: Render the text as a user's message, as in `HookedModel.capture`.
        least: The cosine from which latents count as shared.

    Raises:
        InterpError: The sides can't be compared with each other, two recipes come without a model, a recipe is for
            another model, the models have different vocabularies, decoder rows different widths, a book's autoencoder
            can't be read, or there is not one text.

    Example:
        >>> from interp.views import compare
        >>> half, whole = (interp.Recipe([("writers", interp.Project(torch.ones(192), s))]) for s in (0.5, 1.0))
        >>> compare(half, whole, "The river of", model=model).largest(1)[0].nats > 0
        True
    """
    latents = [isinstance(side, SparseAutoencoder | Book | tuple) for side in (a, b)]
    if all(latents):
        return _compare_latents(a, b, least)
    if any(latents) or text is None:
        kinds = f"{type(a).__name__} and {type(b).__name__}" + " without a text" * (text is None)
        raise InterpError(f"got {kinds}; expected two autoencoders or books, or two models or recipes and a text")
    return _compare_predictions(a, b, text, model, chat)


def _compare_predictions(a: Any, b: Any, text: Prompts, model: HookedModel | None, chat: Chat) -> NextTokenDifference:
    base = model or next((side for side in (a, b) if isinstance(side, HookedModel)), None)
    if base is None:
        raise InterpError("two recipes need the model that they edit; give model=")
    batch = base.tokens(text, chat=chat)
    if len(batch) != 1:
        raise InterpError(f"compare takes one text, not {len(batch)}; call it for each of them")
    first, second = (_logits(side, base, batch) for side in (a, b))
    if first.shape != second.shape:
        raise InterpError(
            f"the models have vocabularies of {first.shape[-1]} and {second.shape[-1]} tokens; compare models that "
            "share a tokenizer, such as a model and its fine-tune"
        )
    nats = kl_divergence(first, second).clamp(min=0)
    words = tuple(token_text(base.tokenizer, token) for token in batch.unpadded()[0])
    sides = [_next_tokens(base, logits) for logits in (first, second)]
    places = tuple(NextTokens(*each) for each in zip(words, nats.tolist(), *sides, strict=True))
    names = _called(a, "first"), _called(b, "second")
    return NextTokenDifference(names, TokenHeat("KL of what follows, in nats", words, nats.float()), places)


def _compare_latents(a: Any, b: Any, least: float) -> LatentDifference:
    sides = _opened(a, "first"), _opened(b, "second")
    match = match_decoders(sides[0].sae, sides[1].sae, sides[0].fires, sides[1].fires)
    alone = tuple(match.alone(0, least)), tuple(match.alone(1, least))
    words = sides[0].words, sides[1].words
    return LatentDifference((sides[0].name, sides[1].name), tuple(match.shared(least)), alone, words)


class _Opened(NamedTuple):
    """An autoencoder, what it is called, what is known of its latents, and which of them fire, where that is known."""

    sae: SparseAutoencoder
    name: str
    words: dict[int, str]
    fires: Bool[Tensor, "d_sae"] | None


def _opened(side: Latents, word: str) -> _Opened:
    if isinstance(side, SparseAutoencoder):
        return _Opened(side, f"{word} {side}", {}, None)
    book, given = (side, None) if isinstance(side, Book) else side
    name = book.card.name(given)
    rows = book.latents("sae = ? AND count > 0", [name])
    words = {row["latent"]: ", ".join(repr(each["token"]) for each in row["promoted"][:3]) for row in rows}
    words |= {latent: text for (_, latent), text in label_texts(book.labels.current(name)).items()}
    coders = BookCoders(book)
    return _Opened(coders[name], f"{word} {name}", words, coders.fires(name))


def _logits(side: Side, base: HookedModel, batch: Tokens) -> Float[Tensor, "pos d_vocab"]:
    acting = nullcontext() if isinstance(side, HookedModel) else base.hooked(side)
    with acting:
        logits = (side if isinstance(side, HookedModel) else base).logits(batch)
    return logits[0, batch.mask[0]].double().cpu()


def _next_tokens(model: HookedModel, logits: Float[Tensor, "pos d_vocab"]) -> list[tuple[tuple[str, float], ...]]:
    chances, ids = logits.softmax(-1).topk(3)
    return [
        tuple((token_text(model.tokenizer, token), chance) for token, chance in zip(*row, strict=True))
        for row in zip(ids.tolist(), chances.tolist(), strict=True)
    ]


def _likeliest(place: NextTokens) -> list[str]:
    return [", ".join(f"{token!r} {chance:.2f}" for token, chance in side) for side in (place.first, place.second)]


def _called(side: Side, word: str) -> str:
    return side.name if isinstance(side, HookedModel) else f"{word} recipe"
