"""Unsupervised candidates: vectors at an early site that change a later one most, without a word on what for.

Mack and Turner 2024, "Mechanistically eliciting latent behaviors in language models" (MELBO): with the vector's norm
fixed, maximise the mean squared change of the later activations, each vector orthogonal to those before it. Here by
v <- norm times the gradient's unit vector, which never lowers a convex objective (Journée et al. 2010, "Generalized
power method") and for a small norm is the power iteration for the leading right singular vectors of the map from one
site to the other. Where the objective is not convex it may fall, so the best vector seen is kept.

What it does not know: what a candidate does. Most change text for the worse. Some may switch behaviours on or off that
must be protected, refusals of dangerous requests among them: audit each before use, protected behaviours included, and
discard those that lower them. A candidate is a question put to a model, not an edit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.core.linalg import project_out
from interp.core.progress import track
from interp.directions.direction import Direction
from interp.directions.methods._answers import adding, require_steps, residual_site
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Prompts, Tokens

METHOD = "unsupervised"
_STILL = 1e-4  # 1 - cosine of two steps, below which a vector has settled


@dataclass(frozen=True)
class Candidate:
    """A vector, `norm` times the direction's row, to be audited. As an op: `Add(direction, norm)`.

    `change` is the mean squared change of the later site's activations over all tokens but first ones, `random` that
    under a random vector of the same norm, the mean of three. `converged` says whether it had settled when it ended.
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
    """`count` vectors at `source`, in the order in which they were found, usually the most effective first.

    The vector is added at every token, and the change at `target` is that of all but each prompt's first token, where
    models park attention. Raises for a target that comes before the source, and where activations are not finite.
    """
    require_steps(norm=norm, count=count, steps=steps, batch_size=batch_size)
    early, late = residual_site(model, source), residual_site(model, target)
    if model.sites.index(early) >= model.sites.index(late):
        raise InterpError(f"{late} does not come after {early} in the forward pass; give a later target")
    if count > model.d_model:
        raise InterpError(f"count is {count}; at most {model.d_model} vectors are orthogonal in this model")
    batch = model.tokens(prompts)
    parts = [_Part.of(model, batch.rows(start, start + batch_size), late) for start in range(0, len(batch), batch_size)]
    if not sum(int(part.counted.sum()) for part in parts):
        raise InterpError("every prompt has one token; give longer ones, the first token's change is not counted")
    search = _Search(model, early, late, parts, norm)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count + 3, model.d_model, generator=generator).to(model.device)
    with frozen_weights(model):
        random = sum(search.measured(norm * normalize(row, dim=0))[0] for row in drawn[count:]) / 3
        found: list[tuple[Tensor, float, bool]] = []
        for start in track(drawn[:count], "candidates", total=count):
            found.append(search.climbed(start, [row for row, _, _ in found], steps))
    data = sha256_json([ids[real].tolist() for ids, real in zip(batch.ids, batch.mask, strict=True)])
    rows = [Direction(row[None], early, -1, METHOD, model.reference, data) for row, _, _ in found]
    return tuple(
        Candidate(row, norm, change, random, still) for row, (_, change, still) in zip(rows, found, strict=True)
    )


@dataclass(frozen=True)
class _Part:
    """Some prompts, which of their tokens count, and what is at the later site without a vector."""

    batch: Tokens
    counted: Tensor
    plain: Tensor

    @classmethod
    def of(cls, model: HookedModel, batch: Tokens, site: Site) -> "_Part":
        plain = model.forward_to([site], batch.model_inputs(model.device))[site].float()
        return cls(batch, (batch.mask & (batch.position_ids > 0)).to(model.device), plain)


@dataclass(frozen=True)
class _Search:
    model: HookedModel
    source: Site
    target: Site
    parts: Sequence[_Part]
    norm: float

    def climbed(self, start: Tensor, before: list[Tensor], steps: int) -> tuple[Tensor, float, bool]:
        """The best unit vector orthogonal to those before, its objective, and whether it settled."""
        row, best, change = self._free(start, before), start, -1.0
        for step in range(steps + 1):
            value, gradient = self.measured(self.norm * row)
            if value > change:
                best, change = row, value
            after = self._free(gradient, before)
            still = float(1 - row @ after) < _STILL
            if still or step == steps:
                return best, change, still
            row = after
        raise AssertionError("the last step returns")

    def _free(self, vector: Tensor, before: list[Tensor]) -> Tensor:
        """The unit vector along what is orthogonal to those before; twice, so that rounding leaves nothing."""
        for _ in range(2 if before else 0):
            vector = project_out(vector, torch.stack(before))
        if not vector.norm() > 0:
            raise InterpError(
                f"nothing added at {self.source} reaches {self.target} any more; ask for fewer candidates"
            )
        return normalize(vector, dim=0)

    def measured(self, vector: Float[Tensor, "d_model"]) -> tuple[float, Float[Tensor, "d_model"]]:
        """Mean squared change of the counted tokens, and its gradient."""
        leaf = vector.detach().clone().requires_grad_()
        total = sum(int(part.counted.sum()) for part in self.parts)
        value, gradient = 0.0, torch.zeros_like(leaf)
        for part in self.parts:
            with self.model.hooked([(self.source, adding(leaf))]), torch.enable_grad():
                inputs = part.batch.model_inputs(self.model.device)
                moved = self.model.forward_to([self.target], inputs, keep_graph=True)[self.target].float()
                change = (moved - part.plain)[part.counted].square().sum() / total
            if not torch.isfinite(change):
                raise InterpError(f"the change at {self.target} is not finite; lower the norm, {self.norm:.3g}")
            value += float(change.detach())
            gradient = gradient + torch.autograd.grad(change, leaf)[0]
        return value, gradient
