"""What differs between two models, two recipes, or two autoencoders: `interp.views.compare`.

- Models and recipes: KL(first || second) of the next token after each token of a text, and the likeliest tokens.
"""

from contextlib import nullcontext
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.core.display import Card, Displayed, html_table
from interp.core.errors import InterpError
from interp.interventions.recipe import Recipe
from interp.models.architectures.unembedding import token_text
from interp.models.hooked import HookedModel
from interp.models.losses import kl_divergence
from interp.models.tokens import Chat, Prompts, Tokens
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


Side = HookedModel | Recipe


def compare(
    a: Side, b: Side, text: Prompts, model: HookedModel | None = None, chat: Chat = None
) -> NextTokenDifference:
    """What differs between two models or recipes in the prediction of each next token.

    Args:
        a: A model, or a recipe.
        b: Another one. A recipe beside a model is a recipe for that model.
        text: One text, or token ids.
        model: The model of two recipes.
        chat: Render the text as a user's message, as in `HookedModel.capture`.

    Raises:
        InterpError: Two recipes come without a model, a recipe is for another model, the models have different
            vocabularies, or there is not one text.

    Example:
        >>> from interp.views import compare
        >>> half, whole = (interp.Recipe([("writers", interp.Project(torch.ones(192), s))]) for s in (0.5, 1.0))
        >>> compare(half, whole, "The river of", model=model).largest(1)[0].nats > 0
        True
    """
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
