"""Distributed alignment search (DAS): the subspace of a site in which an answer passes from one run to the other.

Geiger et al. 2024, "Finding alignments between interpretable causal variables and distributed neural representations",
arXiv:2303.02536:

1. A rotation is learned; its first k axes are the columns of B. The base run has at one position x + (s - x) B B^T,
   where s is what the source run has there.
2. The loss is the cross-entropy of the source's answer against the base's, by Adam.
3. The interchange accuracy is the share of held-out pairs in which the source's answer then has the larger logit.

A search finds something wherever it is free enough, also in models that compute nothing of the kind, so two controls
come with it: random subspaces of the same size, and the same search for answers that a coin has drawn. It should do far
better than both on held-out pairs, and the coin's answers should not be learned.

Limitations: a subspace that passes the answer on may use paths that the model does not (Makelov et al. 2023,
arXiv:2311.17030). Search in untrained models, and at sites before the hypothesis, as further controls.
"""

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import softplus

from interp.attribution.comparison import ComparedPairs, Comparison
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.directions.direction import Direction, residual_sites
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.hooks import attached
from interp.models.sites import Site

_DRAWS = 5  # of random subspaces


def fit_das(
    model: HookedModel,
    comparison: Comparison | ComparedPairs,
    held_out: Comparison | ComparedPairs,
    site: str | Site,
    k: PositiveInt = 1,
    *,
    position: int = -1,
    steps: PositiveInt = 60,
    batch_size: PositiveInt = 16,
    lr: PositiveFloat = 1e-2,
    seed: int = 0,
) -> Direction:
    """Search the subspace of a site that carries the answer of the source run.

    Args:
        model: The model.
        comparison: Pairs that it is fitted to, each with two answers, as `LogitDifference` has them.
        held_out: Other pairs, on which accuracies are measured.
        site: A site in the residual stream's basis.
        k: Dimensions of the subspace.
        position: The position that is patched, from the end.
        steps: Steps of Adam.
        batch_size: Pairs in a step.
        lr: Learning rate.
        seed: Seed of the beginning, the order of pairs, and the controls.

    Returns:
        The subspace, for `patch(subspace=…)` or a recipe. Its scores are interchange accuracies on the held-out pairs
        (on the fitted ones where they say so): its own, those of both controls, of no patch, and of the whole site.

    Raises:
        InterpError: As in `Comparison.on`; a pair has one answer only, or no token of both prompts at the position.

    Example:
        >>> pairs, others = (interp.attribution.Comparison.of_organism("hostility", 4, seed=n) for n in (0, 1))
        >>> subspace = interp.attribution.fit_das(model, pairs, others, "resid_pre.3", steps=2)
        >>> subspace.scores["whole site"], interp.Recipe([("writers", interp.Project(subspace))]).edits[0].op.width
        (1.0, 192)
    """
    (place,) = residual_sites(model, [site])
    if k > model.d_model:
        raise InterpError(f"k is {k}; expected at most {model.d_model}, the width of {place}")
    fitted, tested = (_Interchange(model, pairs, place, position) for pairs in (comparison, held_out))
    generator = torch.Generator().manual_seed(seed)
    coins = [2.0 * torch.randint(2, (len(side.pairs),), generator=generator) - 1 for side in (fitted, tested)]
    basis = fitted.search(k, torch.ones(len(fitted.pairs)), steps, batch_size, lr, generator)
    arbitrary = fitted.search(k, coins[0], steps, batch_size, lr, generator)
    random = [_orthonormal(torch.randn(model.d_model, k, generator=generator)) for _ in range(_DRAWS)]
    scores = {
        "interchange accuracy": tested.accuracy(basis),
        "fitted pairs": fitted.accuracy(basis),
        "random subspace": sum(map(tested.accuracy, random)) / _DRAWS,
        "arbitrary answers": tested.accuracy(arbitrary, coins[1]),
        "arbitrary answers, fitted pairs": fitted.accuracy(arbitrary, coins[0]),
        "no patch": tested.accuracy(torch.zeros(model.d_model, 1)),
        "whole site": tested.accuracy(torch.eye(model.d_model)),
    }
    return Direction(basis.T, place, position, "das", model.reference, data="", scores=scores)


class _Interchange:
    """Runs of the base prompts of some pairs with a subspace of the source's activations."""

    def __init__(self, model: HookedModel, comparison: Comparison | ComparedPairs, site: Site, position: int):
        self.pairs = pairs = comparison.on(model)
        self.model, self.site, self.position, name = model, site, position, pairs.comparison.name
        if same := (pairs.answer == pairs.wrong).nonzero().flatten().tolist():
            place = f"{name}, pair {same[0] + 1}"
            raise InterpError(f"{place}: has one answer; give two, as in LogitDifference(right, wrong)")
        if not -pairs.base.ids.shape[1] <= position < 0 or (pairs.columns[:, position] < 0).any():
            raise InterpError(f"{name}: position {position} is not in all of its prompts; expected one from their end")
        captured = model.capture(pairs.source, [site], chat=False)[site]
        self.source = captured[torch.arange(len(pairs)), pairs.columns[:, position]]

    def preference(self, basis: Float[Tensor, "d_model k"], rows: Tensor) -> Float[Tensor, "batch"]:
        """The logit of the source's answer minus that of the base's."""
        pairs, source = self.pairs.pick(rows), self.source[rows]

        def put(x: Tensor) -> Tensor:
            changed, here, axes = x.clone(), x[:, self.position], basis.to(x.device)
            changed[:, self.position] = here + ((source - here).float() @ axes @ axes.T).to(x)
            return changed

        with frozen_weights(self.model), attached(self.model.hf, [(self.model.tap(self.site), put)]):
            logits = self.model.forward(pairs.base, last=1)[:, 0].float().cpu()
        sides = (pairs.answer, pairs.wrong) if pairs.base is pairs.corrupt else (pairs.wrong, pairs.answer)
        answer, other = (logits.gather(1, side[:, None])[:, 0] for side in sides)
        return answer - other

    def search(
        self, k: int, wanted: Tensor, steps: int, batch_size: int, lr: float, generator: torch.Generator
    ) -> Float[Tensor, "d_model k"]:
        """The subspace with which the preference has the wanted signs."""
        free = _orthonormal(torch.randn(self.model.d_model, k, generator=generator)).requires_grad_()
        optimiser = torch.optim.Adam([free], lr=lr)
        for _ in track(range(steps), "search", unit="steps"):
            rows = torch.randperm(len(self.pairs), generator=generator)[:batch_size]
            with torch.enable_grad():
                loss = softplus(-wanted[rows] * self.preference(_orthonormal(free), rows)).mean()
            (free.grad,) = torch.autograd.grad(loss, [free])
            optimiser.step()
        return _orthonormal(free.detach())

    @torch.no_grad()
    def accuracy(self, basis: Float[Tensor, "d_model k"], wanted: Tensor | None = None) -> float:
        """The share of pairs whose preference has the wanted sign: by default, that of the source."""
        signs = self.preference(basis, torch.arange(len(self.pairs))).sign()
        return float((signs == (1 if wanted is None else wanted)).float().mean())


def _orthonormal(columns: Float[Tensor, "d_model k"]) -> Float[Tensor, "d_model k"]:
    return torch.linalg.qr(columns).Q
