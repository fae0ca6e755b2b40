"""Unsupervised candidates: vectors at an early site that change a later site most, found without labels.

Mack and Turner 2024, "Mechanistically eliciting latent behaviors in language models" (MELBO): with the vector's norm
fixed, maximise the mean squared change of the later activations, each vector orthogonal to those before it. The update
is v <- norm times the gradient's unit vector. It never lowers a convex objective (Journée et al. 2010, "Generalized
power method"), and for a small norm it is the power iteration for the leading right singular vectors of the map between
the sites. A nonconvex objective may fall, so the best vector seen is kept.

Limitations: nothing says what a candidate does. Most make text worse. Some may switch protected behaviours off, such as
refusals of dangerous requests: audit each candidate before use, protected behaviours included, and discard those that
lower them. A candidate is a hypothesis about a model, not an edit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from interp.core.display import Displayed, displayed
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.core.linalg import project_out
from interp.core.progress import track
from interp.directions.direction import Direction, residual_site
from interp.directions.methods._answers import adding, require_positive
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Prompts, Tokens

METHOD = "unsupervised"
_CONVERGED = 1e-4  # 1 - cosine of two steps, below which a vector has converged


@dataclass(frozen=True)
class Candidate(Displayed):
    """A candidate vector to be audited: `norm` times the direction's row. As an op it is `Add(direction, norm)`.

    Args:
        direction: The unit direction at the early site.
        norm: Length of the vector.
        change: Mean squared change of the later site's activations, over all tokens except first ones.
        random: The same under random vectors of the same norm, the mean of three.
        converged: Whether the search had converged when it ended.
    """

    direction: Direction
    norm: float
    change: float
    random: float
    converged: bool


def unsupervised(
    model: HookedModel,
    prompts: Prompts,
    source: str | Site,
    target: str | Site,
    norm: float,
    count: int = 4,
    steps: int = 20,
    batch_size: int = 16,
    seed: int = 0,
) -> tuple[Candidate, ...]:
    """Search for orthogonal vectors at one site that change a later site most.

    Args:
        model: The model; its weights stay fixed.
        prompts: Texts or tokens. A vector is added at every token; each prompt's first token, an attention sink, does
            not count for the change.
        source: The site where vectors are added.
        target: The later site where the change is measured.
        norm: Length of each vector.
        count: How many vectors to search for.
        steps: Most steps per vector.
        batch_size: Prompts per forward and backward pass.
        seed: Draws the starts and the random vectors for comparison.

    Returns:
        The candidates in the order of the search, usually the most effective first.

    Raises:
        InterpError: The target does not come after the source, every prompt has only one token, or activations are not
            finite.

    Example:
        >>> prompts = ["Who bakes?", "Count the words."]
        >>> options = {"norm": 5.0, "count": 1, "steps": 2}
        >>> (candidate,) = interp.directions.unsupervised(model, prompts, "resid_post.2", "resid_post.4", **options)
        >>> candidate.change > candidate.random
        True
    """
    require_positive(norm=norm, count=count, steps=steps, batch_size=batch_size)
    early, late = residual_site(model, source), residual_site(model, target)
    if model.sites.index(early) >= model.sites.index(late):
        raise InterpError(f"{late} does not come after {early} in the forward pass; give a later target")
    if count > model.d_model:
        raise InterpError(f"count is {count}; at most {model.d_model} vectors are orthogonal in this model")
    batch = model.tokens(prompts)
    parts = [_Part.of(model, rows, late) for rows in batch.batches(batch_size)]
    if not sum(int(part.counted.sum()) for part in parts):
        raise InterpError("every prompt has one token; give longer ones, the first token's change is not counted")
    search = _Search(model, early, late, parts, norm)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count + 3, model.d_model, generator=generator).to(model.device)
    with frozen_weights(model):
        random = sum(search.objective(norm * normalize(row, dim=0))[0] for row in drawn[count:]) / 3
        optima: list[tuple[Tensor, float, bool]] = []
        for start in track(drawn[:count], "candidates", total=count, unit="candidates"):
            optima.append(search.maximise(start, [row for row, _, _ in optima], steps))
    data = sha256_json(batch.unpadded())

    def direction(row: Tensor) -> Direction:
        return Direction(row[None], early, -1, METHOD, model.reference, data)

    return displayed(tuple(Candidate(direction(x), norm, change, random, converged) for x, change, converged in optima))


@dataclass(frozen=True)
class _Part:
    """Some prompts, which of their tokens count, and the later site's activations without a vector."""

    batch: Tokens
    counted: Tensor
    unedited: Tensor

    @classmethod
    def of(cls, model: HookedModel, batch: Tokens, site: Site) -> "_Part":
        unedited = model.forward_to([site], batch.model_inputs(model.device))[site].float()
        return cls(batch, (batch.mask & (batch.position_ids > 0)).to(model.device), unedited)


@dataclass(frozen=True)
class _Search:
    model: HookedModel
    source: Site
    target: Site
    parts: Sequence[_Part]
    norm: float

    def maximise(self, start: Tensor, before: list[Tensor], steps: int) -> tuple[Tensor, float, bool]:
        """The best unit vector orthogonal to those before, its objective, and whether the search converged."""
        row, best, change, converged = self._orthogonal(start, before), start, -1.0, False
        for _ in range(steps + 1):
            value, gradient = self.objective(self.norm * row)
            if value > change:
                best, change = row, value
            previous, row = row, self._orthogonal(gradient, before)
            converged = float(1 - previous @ row) < _CONVERGED
            if converged:
                break
        return best, change, converged

    def _orthogonal(self, vector: Tensor, before: list[Tensor]) -> Tensor:
        """The unit vector of the part orthogonal to those before; projected twice against rounding error."""
        for _ in range(2 if before else 0):
            vector = project_out(vector, torch.stack(before))
        if not vector.norm() > 0:
            raise InterpError(f"nothing else added at {self.source} reaches {self.target}; reduce count")
        return normalize(vector, dim=0)

    def objective(self, vector: Float[Tensor, "d_model"]) -> tuple[float, Float[Tensor, "d_model"]]:
        """Mean squared change of the counted tokens, and its gradient."""
        leaf = vector.detach().clone().requires_grad_()
        total = sum(int(part.counted.sum()) for part in self.parts)
        value, gradient = 0.0, torch.zeros_like(leaf)
        for part in self.parts:
            with self.model.hooked([(self.source, adding(leaf))]), torch.enable_grad():
                inputs = part.batch.model_inputs(self.model.device)
                edited = self.model.forward_to([self.target], inputs, keep_graph=True)[self.target].float()
                change = (edited - part.unedited)[part.counted].square().sum() / total
            if not torch.isfinite(change):
                raise InterpError(f"the change at {self.target} is not finite; lower the norm, {self.norm:.3g}")
            value += float(change.detach())
            gradient = gradient + torch.autograd.grad(change, leaf)[0]
        return value, gradient
