"""A vector of bounded norm that, added at a site, makes one kind of answer likelier: optimised through the model.

1. The vector starts at zero and is added at every token of prompt and answer.
2. Each step takes the gradient of an objective on some pairs, in which the model's own weights are constants:
   - `promote`: the loss of the positive answers, a token;
   - `suppress`: -log(1 - p) of the negative answers' tokens;
   - `margin`: log p of the negative answer minus that of the positive one;
   - `preference`: that the vector, against the plain model, raises the margin, and that its negative lowers it; so it
     is trained to be added and to be subtracted. Cao et al. 2024, "Personalized steering of large language models:
     versatile steering vectors through bi-directional preference optimization" (BiPO).
   The first two are those of Dunefsky and Cohan 2025, "One-shot optimized steering vectors".
3. The vector goes a step of shrinking length along the averaged gradient, and back to the ball of radius `norm`.
   Only the gradient itself, not one rescaled by coordinate (Adam), comes to rest where the objective is least on it.

What it does not know: whether the model ever uses such a vector, or what else it does. A free vector of d_model numbers
overfits few pairs; measure on others, beside a difference of means of the same norm and a prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from interp.core.display import html_card
from interp.core.errors import InterpError, nearest
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.direction import Direction
from interp.directions.methods._answers import (
    Answers,
    adding,
    answer_continuations,
    batches,
    require_steps,
    residual_site,
)
from interp.models.continuations import Continuations, frozen_weights, logprobs, token_losses
from interp.models.hooked import HookedModel
from interp.models.sites import Site

METHOD = "steering_vector"
_MOMENTUM = 0.8
_SETTLED = 0.1  # share of the gradient along which the vector could still go


@dataclass(frozen=True)
class SteeringVector:
    """A trained vector: `norm` times the direction's row. As an op: `Add(direction, norm)`.

    `before` and `after` are the objective, which falls, on all pairs: with nothing added and with the vector. `losses`
    are those of the steps. `slack` is the share of the gradient that the vector could still follow without leaving the
    ball, 0 where the objective is stationary; `converged` says whether it is below 0.1.
    """

    direction: Direction
    norm: float
    before: float
    after: float
    slack: float
    losses: tuple[float, ...]

    @property
    def vector(self) -> Float[Tensor, "d_model"]:
        """What is added."""
        return self.norm * self.direction.rows[0]

    @property
    def converged(self) -> bool:
        """Whether little was left to gain when training ended."""
        return self.slack < _SETTLED

    def _repr_html_(self) -> str:
        ran = f"{self.before:.3f} to {self.after:.3f} in {len(self.losses)} steps"
        rows = [("site", self.direction.site), ("norm", f"{self.norm:.3g}"), ("objective", ran)]
        return html_card("Steering vector", [*rows, ("slack", f"{self.slack:.3f}")])


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
) -> SteeringVector:
    """Train one on pairs of answers to one prompt. `norm` is the largest length, in the units of the activations.

    `towards` the negative answers, it removes what the contrast is about. `rate` is the first step's length, as a share
    of the norm; `beta` how soon `preference` has enough. `seed` draws the pairs of a step where there are more than
    `batch_size`. Raises for pairs without two answers to one prompt, and where the objective is not finite.
    """
    require_steps(norm=norm, steps=steps, rate=rate, beta=beta, batch_size=batch_size)
    if objective not in _OBJECTIVES:
        raise InterpError(f"unknown objective {objective!r}; {nearest(objective, _OBJECTIVES)}")
    if towards not in ("positive", "negative"):
        raise InterpError(f"towards is {towards!r}; expected positive or negative")
    place, pairs = residual_site(model, site), answer_continuations(model, contrast)
    if towards == "negative":
        pairs = Answers(pairs.negative, pairs.positive)
    loss = partial(_OBJECTIVES[objective], model, place, beta)
    vector = torch.zeros(model.d_model, device=model.device)
    average, losses = torch.zeros_like(vector), []
    with frozen_weights(model):
        before = _whole(loss, pairs, vector, batch_size)[0]
        for step, picked in enumerate(track(batches(len(contrast), batch_size, steps, seed), "steer", total=steps)):
            value, gradient = _gradient(loss, pairs.pick(picked), vector)
            losses.append(value)
            average = _MOMENTUM * average + gradient
            length = rate * norm * (1 - step / steps)
            vector = _within(vector - length * normalize(average, dim=0), norm)
        after, gradient = _whole(loss, pairs, vector, batch_size)
    if not vector.any():
        raise InterpError(f"the {objective} objective has no gradient at {place}: nothing there reaches the answers")
    direction = Direction(vector[None], place, -1, METHOD, model.reference, contrast.digest)
    slack = _slack(vector, gradient, norm)
    return SteeringVector(direction, float(vector.norm()), before, after, slack, tuple(losses))


SteeringLoss = Callable[[Answers, Tensor], Tensor]


def _gradient(loss: SteeringLoss, pairs: Answers, vector: Tensor) -> tuple[float, Tensor]:
    leaf = vector.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = loss(pairs, leaf)
    if not torch.isfinite(value):
        raise InterpError(
            f"the objective is {float(value.detach())} with a vector of norm {float(vector.norm()):.3g} added; lower "
            "the norm, or check that the model is finite on these texts"
        )
    return float(value.detach()), torch.autograd.grad(value, leaf)[0]


def _whole(loss: SteeringLoss, pairs: Answers, vector: Tensor, size: int) -> tuple[float, Tensor]:
    """Objective and gradient on all pairs."""
    parts = torch.arange(len(pairs.positive)).split(size)
    found = [(len(part) / len(pairs.positive), *_gradient(loss, pairs.pick(part), vector)) for part in parts]
    total = torch.stack([share * gradient for share, _, gradient in found]).sum(0)
    return sum(share * value for share, value, _ in found), total


def _within(vector: Tensor, norm: float) -> Tensor:
    """The nearest vector in the ball. A rounding error outside it would be outside it."""
    return vector * min(1.0, norm / max(float(vector.norm()), 1e-30))


def _slack(vector: Tensor, gradient: Tensor, norm: float) -> float:
    """What is left of the gradient, as a share, after the part that only pushes against the ball."""
    size = float(gradient.norm())
    if size == 0:
        return 0.0
    outward = float(-gradient @ vector) / float(vector.norm())
    pressed = max(0.0, outward) if float(vector.norm()) > (1 - 1e-4) * norm else 0.0
    return sqrt(max(0.0, size**2 - pressed**2)) / size


def _steered(model: HookedModel, site: Site, part: Continuations, vector: Tensor) -> Tensor:
    with model.hooked([(site, adding(vector))]):
        return logprobs(model, part)


def _promote(model: HookedModel, site: Site, beta: float, pairs: Answers, vector: Tensor) -> Tensor:
    with model.hooked([(site, adding(vector))]):
        return _by_row(*token_losses(model, pairs.positive)).mean()


def _suppress(model: HookedModel, site: Site, beta: float, pairs: Answers, vector: Tensor) -> Tensor:
    with model.hooked([(site, adding(vector))]):
        losses, row = token_losses(model, pairs.negative)
    # 1 - exp(-loss), kept away from zero: a token that is certain to float32's precision would have an infinite loss.
    return _by_row(-torch.log((-torch.expm1(-losses)).clamp(min=1e-6)), row).mean()


def _margin(model: HookedModel, site: Site, beta: float, pairs: Answers, vector: Tensor) -> Tensor:
    return -_margins(model, site, pairs, vector).mean()


def _preference(model: HookedModel, site: Site, beta: float, pairs: Answers, vector: Tensor) -> Tensor:
    with torch.no_grad():
        plain = _margins(model, site, pairs, torch.zeros_like(vector))
    added, subtracted = (_margins(model, site, pairs, sign * vector) - plain for sign in (1, -1))
    return -(logsigmoid(beta * added) + logsigmoid(-beta * subtracted)).mean() / 2


def _margins(model: HookedModel, site: Site, pairs: Answers, vector: Tensor) -> Tensor:
    return _steered(model, site, pairs.positive, vector) - _steered(model, site, pairs.negative, vector)


def _by_row(values: Tensor, row: Tensor) -> Tensor:
    """The mean over each row's tokens."""
    count = int(row.max()) + 1
    sums = torch.zeros(count, device=values.device).index_add(0, row, values)
    return sums / torch.bincount(row, minlength=count)


_OBJECTIVES = {"promote": _promote, "suppress": _suppress, "margin": _margin, "preference": _preference}
