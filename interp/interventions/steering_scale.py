"""The scale of steering: the largest that raises the loss of neutral text by no more than a limit.

1. The neutral text is given, or the model writes it itself: the greedy continuations of a few openings. So it is text
   that the model predicts well, in the model's own language, and a loss that rises shows that steering breaks it.
2. Candidates are scales in steps of 4.4 %, from 0.004 to 16 times the typical length of the activations. Bisection
   finds the largest that keeps within the limit, in eight forward passes.
3. It is rounded down to two digits.

Limitations: the loss is assumed to rise with the scale. It does not say whether the behaviour changes; look at replies.
"""

from bisect import bisect_left
from collections.abc import Callable
from math import floor, log10

import torch

from interp.core.errors import InterpError
from interp.interventions.op import Op
from interp.models.continuations import Continuations, token_losses
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Prompts

OPENINGS = (
    "The river",
    "In the morning",
    "To make the soup,",
    "The library in the town",
    "A triangle has",
    "She took the train to",
    "In autumn the trees",
    "The baker said that",
)
NeutralText = Prompts | Continuations | None
_NEW_TOKENS = 24
_CANDIDATES = [2 ** (step / 16) for step in range(-128, 65)]


def neutral_text(model: HookedModel) -> Continuations:
    """What the model itself writes after neutral openings, which are not scored."""
    ends = model.generate(OPENINGS, max_new_tokens=_NEW_TOKENS, chat=False)
    written = [(opening, end) for opening, end in zip(OPENINGS, ends, strict=True) if end]
    if not written:
        raise InterpError(f"{model.name} writes nothing after {OPENINGS[0]!r}; give texts=, neutral texts of its kind")
    return Continuations.of(model, *map(list, zip(*written, strict=True)))


@torch.no_grad()
def mean_loss(model: HookedModel, text: Continuations) -> float:
    """The model's loss of a text, in nats per scored token."""
    return float(token_losses(model, text)[0].mean())


def typical_norm(model: HookedModel, text: Continuations, site: Site) -> float:
    """Median norm of the activations at a site over the tokens of a text."""
    real = text.tokens.mask.to(model.device)
    return float(model.capture(text.tokens, site)[site][real].float().norm(dim=-1).median())


def largest_scale(
    model: HookedModel, op: Callable[[float], Op], site: Site, length: float, loss: float, texts: NeutralText
) -> float:
    """The largest positive scale that keeps the loss of neutral text within a limit, to two digits.

    Args:
        model: The model.
        op: Returns the op with a given scale.
        site: Where the op acts.
        length: The norm of the addition at scale 1; 0 if that is the norm of the activations.
        loss: The limit: by how much the loss may rise, in nats per token.
        texts: Neutral text. Default: `neutral_text` of the model.

    Raises:
        InterpError: The limit is not above zero, or no candidate or every candidate keeps within it.
    """
    if not loss > 0:
        raise InterpError(f"loss is {loss!r}; expected nats per token above 0, such as 0.3")
    text = neutral_text(model) if texts is None else texts
    if not isinstance(text, Continuations):
        text = Continuations.whole(model.tokens(text))
    unit = typical_norm(model, text, site) / length if length else 1.0
    before = mean_loss(model, text)

    def exceeds(candidate: float) -> bool:
        with model.hooked([(site, op(candidate * unit))]):
            return not mean_loss(model, text) - before <= loss  # NaN exceeds

    count = bisect_left(_CANDIDATES, True, key=exceeds)
    if count in (0, len(_CANDIDATES)):
        extreme, more = (_CANDIDATES[0], "more") if count == 0 else (_CANDIDATES[-1], "no more")
        effect = f"a scale of {extreme * unit:.2g} at {site} raises the loss of neutral text by {more} than {loss} nats"
        raise InterpError(f"{effect}; choose another loss=, or an earlier site")
    scale = _CANDIDATES[count - 1] * unit
    step = 10.0 ** (floor(log10(scale)) - 1)
    return float(f"{floor(scale / step) * step:.2g}")
