"""Steering vectors of bounded norm, trained through the model to make one kind of answer likelier.

1. The vector starts at zero and is added at every token of prompt and answer.
2. Each step takes the gradient of an objective on some pairs, with the model's weights fixed:
   - `promote`: the loss of the positive answers, per token;
   - `suppress`: -log(1 - p) of the negative answers' tokens;
   - `margin`: log p of the negative answer minus that of the positive one;
   - `preference`: adding the vector raises the margin log p(positive) - log p(negative) above that of the unedited
     model, and subtracting it lowers the margin. Cao et al. 2024, "Personalized steering of large language models:
     versatile steering vectors through bi-directional preference optimization" (BiPO).
   The first two are from Dunefsky and Cohan 2025, "One-shot optimized steering vectors".
3. The vector takes a step of decreasing length against the averaged gradient, and is projected back onto the ball of
   radius `norm`. Gradients rescaled per coordinate (Adam) would not settle at the minimum on the ball.

Limitations: the model may never use such a vector, and it may have other effects. A free vector of d_model numbers
overfits few pairs: measure on others, alongside a difference of means of the same norm and a prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError, nearest
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.direction import Direction, residual_site
from interp.directions.methods._answers import (
    Answers,
    adding,
    answer_continuations,
    answer_texts,
    batches,
    require_positive,
)
from interp.models.continuations import Continuations, frozen_weights, logprobs, token_losses
from interp.models.hooked import HookedModel
from interp.models.sites import Site

METHOD = "steering_vector"
_MOMENTUM = 0.8
_SETTLED = 0.1  # share of the gradient that the vector could still follow


@dataclass(frozen=True)
class SteeringVector(Displayed):
    """A trained vector: `norm` times the direction's row. As an op it is `Add(direction, norm)`.

    Args:
        direction: The unit direction at its site.
        norm: Length of the vector.
        before: The objective, which training lowers, on all pairs without the vector.
        after: The objective with the vector.
        slack: Share of the gradient that the vector could still follow without leaving the ball, from 0 (the objective
            is stationary) to 1.
        losses: The objective at each step.

    Example:
        >>> site = interp.models.Site("resid_post", 1)
        >>> direction = interp.Direction(torch.eye(192)[:1], site, -1, "steering_vector", model.reference, data="")
        >>> steered = interp.directions.SteeringVector(direction, 2.0, before=3.0, after=1.0, slack=0.02, losses=())
        >>> steered.vector[:2], steered.converged
        (tensor([2., 0.]), True)
    """

    direction: Direction
    norm: float
    before: float
    after: float
    slack: float
    losses: tuple[float, ...]

    @property
    def vector(self) -> Float[Tensor, "d_model"]:
        """The vector to add, (d_model,)."""
        return self.norm * self.direction.rows[0]

    @property
    def converged(self) -> bool:
        """Whether the slack is below 0.1."""
        return self.slack < _SETTLED

    def _card(self) -> Card:
        change = f"{self.before:.3f} -> {self.after:.3f}", f"lower is better; {plural(len(self.losses), 'step')}"
        settled = "converged" if self.converged else "not converged: take more steps"
        slack = ("slack", f"{self.slack:.3f}", f"{settled} (interp's limit is {_SETTLED})")
        return f"at {self.direction.site}", [("norm", self.norm), ("objective", *change), slack]


def steering_vector(
    model: HookedModel,
    contrast: Contrast,
    site: str | Site,
    norm: float,
    steps: int = 40,
    objective: str = "preference",
    towards: str = "positive",
    rate: float = 0.3,
    beta: float = 0.1,
    batch_size: int = 16,
    seed: int = 0,
    texts: bool = False,
) -> SteeringVector:
    """Train a vector that, added at a site, makes one side's answers likelier.

    Args:
        model: The model; its weights stay fixed.
        contrast: Pairs of one prompt with two answers.
        site: One site in the residual stream's basis.
        norm: Largest length of the vector. A useful scale is the distance of the two sides' means.
        objective: "promote", "suppress", "margin" or "preference"; see the module.
        towards: Which answers to make likelier. With "negative" the vector removes what the contrast is about.
        steps: Steps of training.
        rate: Length of the first step, as a share of the norm.
        beta: Slope of the preference objective: the larger, the smaller the change of the margin at which it saturates.
        batch_size: Pairs per step.
        seed: Draws the batches.
        texts: Take whole texts, from the second token on, in place of answers where the contrast has none.

    Returns:
        The vector and how training went.

    Raises:
        InterpError: A setting is out of range, a pair does not have two answers to one prompt, the objective is not
            finite, or it has no gradient at the site.

    Example:
        >>> from interp.data import Turn, TurnPair
        >>> answers = interp.Contrast((TurnPair(Turn("Who bakes?", "The baker"), Turn("Who bakes?", "Nobody")),))
        >>> steered = interp.directions.steering_vector(model, answers, "resid_post.4", 1.0, 1, "margin")
        >>> steered.after < steered.before
        True
    """
    require_positive(norm=norm, steps=steps, rate=rate, beta=beta, batch_size=batch_size)
    if objective not in _OBJECTIVES:
        raise InterpError(f"unknown objective {objective!r}; {nearest(objective, _OBJECTIVES)}")
    if towards not in ("positive", "negative"):
        raise InterpError(f"towards is {towards!r}; expected positive or negative")
    site, pairs = residual_site(model, site), (answer_texts if texts else answer_continuations)(model, contrast)
    if towards == "negative":
        pairs = Answers(pairs.negative, pairs.positive)
    loss = partial(_OBJECTIVES[objective], model, site, beta)
    vector = torch.zeros(model.d_model, device=model.device)
    average, losses = torch.zeros_like(vector), []
    with frozen_weights(model):
        before = _objective(loss, pairs, vector, batch_size)[0]
        for step, batch in enumerate(
            track(batches(len(contrast), batch_size, steps, seed), "steer", total=steps, unit="steps")
        ):
            value, gradient = _gradient(loss, pairs.pick(batch), vector)
            losses.append(value)
            average = _MOMENTUM * average + gradient
            length = rate * norm * (1 - step / steps)
            vector = vector - length * normalize(average, dim=0)
            vector = vector * min(1.0, norm / max(float(vector.norm()), 1e-30))  # back onto the ball
        after, gradient = _objective(loss, pairs, vector, batch_size)
    if not vector.any():
        raise InterpError(f"the {objective} objective has no gradient at {site}: nothing there reaches the answers")
    direction = Direction(vector[None], site, -1, METHOD, model.reference, contrast.digest)
    slack = _slack(vector, gradient, norm)
    return SteeringVector(direction, float(vector.norm()), before, after, slack, tuple(losses))


SteeringLoss = Callable[[Answers, Tensor], Tensor]


def _gradient(loss: SteeringLoss, pairs: Answers, vector: Tensor) -> tuple[float, Tensor]:
    leaf = vector.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = loss(pairs, leaf)
    if not torch.isfinite(value):
        length = float(vector.norm())
        raise InterpError(f"the objective is {float(value.detach())} with a norm of {length:.3g}; lower the norm")
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


def _objective(loss: SteeringLoss, pairs: Answers, vector: Tensor, size: int) -> tuple[float, Tensor]:
    """Objective and gradient on all pairs."""
    parts = torch.arange(len(pairs.positive)).split(size)
    weighted = [(len(part) / len(pairs.positive), *_gradient(loss, pairs.pick(part), vector)) for part in parts]
    total = torch.stack([share * gradient for share, _, gradient in weighted]).sum(0)
    return sum(share * value for share, value, _ in weighted), total


def _slack(vector: Tensor, gradient: Tensor, norm: float) -> float:
    """The share of the gradient that remains without the part that points out of the ball."""
    size = float(gradient.norm())
    if size == 0:
        return 0.0
    outward = float(-gradient @ vector) / float(vector.norm())
    blocked = max(0.0, outward) if float(vector.norm()) > (1 - 1e-4) * norm else 0.0
    return sqrt(max(0.0, size**2 - blocked**2)) / size


def _steered(
    read: Callable[[HookedModel, Continuations], Any], model: HookedModel, site: Site, part: Continuations, x: Tensor
) -> Any:
    """What is read of some answers while the vector x is added."""
    with model.hooked([(site, adding(x))]):
        return read(model, part)


def _promote(model: HookedModel, site: Site, beta: float, pairs: Answers, vector: Tensor) -> Tensor:
    return _row_means(*_steered(token_losses, model, site, pairs.positive, vector)).mean()


def _suppress(model: HookedModel, site: Site, beta: float, pairs: Answers, vector: Tensor) -> Tensor:
    losses, row = _steered(token_losses, model, site, pairs.negative, vector)
    # 1 - exp(-loss) is clamped: a token with probability 1 in float32 would have an infinite loss.
    return _row_means(-torch.log((-torch.expm1(-losses)).clamp(min=1e-6)), row).mean()


def _margin(model: HookedModel, site: Site, beta: float, pairs: Answers, vector: Tensor) -> Tensor:
    return -_margins(model, site, pairs, vector).mean()


def _preference(model: HookedModel, site: Site, beta: float, pairs: Answers, vector: Tensor) -> Tensor:
    with torch.no_grad():
        unedited = _margins(model, site, pairs, torch.zeros_like(vector))
    added, subtracted = (_margins(model, site, pairs, sign * vector) - unedited for sign in (1, -1))
    return -(logsigmoid(beta * added) + logsigmoid(-beta * subtracted)).mean() / 2


def _margins(model: HookedModel, site: Site, pairs: Answers, vector: Tensor) -> Tensor:
    positive, negative = (_steered(logprobs, model, site, side, vector) for side in pairs)
    return positive - negative


def _row_means(values: Tensor, row: Tensor) -> Tensor:
    """The mean over the tokens of each row."""
    count = int(row.max()) + 1
    sums = torch.zeros(count, device=values.device).index_add(0, row, values)
    return sums / torch.bincount(row, minlength=count)


_OBJECTIVES = {"promote": _promote, "suppress": _suppress, "margin": _margin, "preference": _preference}
