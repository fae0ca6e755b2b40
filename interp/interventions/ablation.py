"""Ablation of units: replace their activations (zero and mean ablation, patching), resample them, or scale them.

At `z` units are heads. At other sites they are single coordinates, such as the neurons of an MLP at `mlp_post`. Zeros
are far from anything that later layers expect, so a mean or resampled value says more about what a component does:
Chan et al. 2022, "Causal scrubbing"; Wang et al. 2022, "Interpretability in the wild",
https://arxiv.org/abs/2211.00593.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.interventions.op import MODEL, TENSOR, Op, different, numbers, part, setting
from interp.models.forward_pass import ForwardPass
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.models.tokens import Prompts

_MULTIPLIER = 2654435761  # Knuth's multiplicative hash


_UNITS = setting(different)
_VALUE = part(
    lambda value: {},
    lambda value: {} if value is None else {"value": value},
    lambda settings, tensors: tensors.get("value"),
    keep=lambda value, name: None if value is None else numbers(value, name),
)


@dataclass(frozen=True, eq=False, repr=False)
class Replace(Op):
    """Set activations to a value: zero ablation, mean ablation (`Replace.mean`), or another prompt's activations.

    Args:
        value: The value, of the site's shape without batch and pos, or with a pos axis; None for zeros.
        units: The heads (at `z`) or coordinates that are replaced; None for all.
        model: The model that the value comes from, if known.

    Raises:
        InterpError: The units are empty, negative or repeated, or an entry of the value is not finite. When it is
            called: the value has another shape than the activations, or a unit does not exist.

    Example:
        >>> x = torch.ones(1, 2, 3)
        >>> interp.Replace(units=[0, 2])(x)[0, 0]
        tensor([0., 1., 0.])
        >>> mean = interp.Replace.mean(model, ["Hello there.", "Good day."], "mlp_out.2")
        >>> mean.value.shape == (model.d_model,)
        True
    """

    value: Float[Tensor, "*features"] | None = field(default=None, metadata=_VALUE)
    units: Sequence[int] | None = field(default=None, metadata=_UNITS)
    model: ModelReference | None = field(default=None, metadata=MODEL)

    @classmethod
    def mean(
        cls, model: HookedModel, prompts: Prompts, site: str | Site, units: Sequence[int] | None = None
    ) -> "Replace":
        """Mean ablation: the value is the mean over all tokens of some prompts, without each prompt's first token."""
        return cls(bank(model, prompts, site).mean(0), units, model.reference)

    def __call__(self, x: Float[Tensor, "batch pos *features"]) -> Float[Tensor, "batch pos *features"]:
        """The value in place of the activations, or of some of their units."""
        return _put(x, torch.zeros_like(x[0, 0]) if self.value is None else self.value.to(x), self.units)


@dataclass(frozen=True, eq=False, repr=False)
class Resample(Op):
    """Resample ablation: activations of other tokens, drawn from a bank.

    The draw depends on the seed and on the token's distance from the end of the prompt. Neither the batch nor a cache
    changes it.

    Args:
        values: The activations to draw from, (row, …), as `bank` gives them.
        units: The heads (at `z`) or coordinates that are replaced; None for all.
        seed: The seed of the draw.
        model: The model that the bank comes from, if known.

    Raises:
        InterpError: The bank has no rows or an entry that is not finite, or the units are empty, negative or repeated.

    Example:
        >>> bank = interp.interventions.bank(model, "Hello there. My tea is hot.", "mlp_out.2")
        >>> recipe = interp.Recipe([("mlp_out.2", interp.interventions.Resample(bank, seed=1))])
        >>> with model.hooked(recipe):
        ...     logits = model.logits("Good day.")
    """

    values: Float[Tensor, "row *features"] = field(metadata=TENSOR)
    units: Sequence[int] | None = field(default=None, metadata=_UNITS)
    seed: int = 0
    model: ModelReference | None = field(default=None, metadata=MODEL)

    def _check(self) -> None:
        if self.values.ndim < 2 or not len(self.values):
            raise InterpError(f"a bank has shape {tuple(self.values.shape)}; expected (row, …), one row or more")

    def __call__(self, x: Float[Tensor, "batch pos *features"]) -> Float[Tensor, "batch pos *features"]:
        """The drawn activations, as if x were a prompt."""
        return self._at(x, torch.arange(-x.shape[1], 0))

    def within(self, x: Tensor, passing: ForwardPass) -> Tensor:
        """The drawn activations, by each token's distance from the end of the prompt."""
        passing.require_known()
        return self._at(x, passing.distance.cpu() - 1)

    def _at(self, x: Tensor, offsets: Tensor) -> Tensor:
        drawn = ((offsets + self.seed * 1_000_003) * _MULTIPLIER % 2**32) % len(self.values)
        return _put(x, self.values[drawn].to(x), self.units)


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Op):
    """Multiply each unit by its factor; 0 is zero ablation.

    Factors of heads can be learned, which finds the heads that carry a behaviour: Michel et al. 2019, "Are sixteen
    heads really better than one?", https://arxiv.org/abs/1905.10650, take the gradient at 1. Factors fold into the
    columns of the output projection.

    Args:
        factors: One factor for each unit, (units,): heads at `z`, coordinates at other sites.
        model: The model that the factors are for, if known.

    Raises:
        InterpError: The factors are not a vector, or not finite. When it is called: the site has another number of
            units.

    Example:
        >>> halve_first_head = interp.interventions.Scale(torch.tensor([0.5, 1, 1, 1, 1, 1]))
        >>> recipe = interp.Recipe([("z.3", halve_first_head)])
    """

    factors: Float[Tensor, "units"] = field(metadata=TENSOR)
    model: ModelReference | None = field(default=None, metadata=MODEL)

    def _check(self) -> None:
        if self.factors.ndim != 1 or not len(self.factors):
            raise InterpError(f"factors have shape {tuple(self.factors.shape)}; expected (units,), one for each")

    def __call__(self, x: Float[Tensor, "batch pos *features"]) -> Float[Tensor, "batch pos *features"]:
        """The scaled activations."""
        count = x.shape[2]
        if count != len(self.factors):
            raise InterpError(f"{len(self.factors)} factors for {count} units; expected one for each")
        factors = self.factors.to(x)
        return x * (factors[:, None] if x.ndim == 4 else factors)


def bank(model: HookedModel, prompts: Prompts, site: str | Site) -> Float[Tensor, "row *features"]:
    """Activations at a site on every token of some prompts without each prompt's first: for means and resampling.

    Args:
        model: The model.
        prompts: A text, several, or tokens.
        site: One site, such as `mlp_out.2`.

    Returns:
        The activations (row, …) in float32 on the CPU, a row for each token.

    Raises:
        InterpError: Every prompt has a single token.

    Example:
        >>> interp.interventions.bank(model, "Hello there.", "mlp_out.2").shape[1] == model.d_model
        True
    """
    acts = model.capture(prompts, site, chat=False)
    later = acts.tokens.mask.clone()
    later[torch.arange(len(later)), later.int().argmax(1)] = False
    if not later.any():
        raise InterpError("every prompt has a single token; give longer ones, since first tokens are left out")
    return next(iter(acts.tensors.values()))[later.to(model.device)].float().cpu()


def _put(x: Tensor, value: Tensor, units: Sequence[int] | None) -> Tensor:
    """x with some of its units, or all, taken from a value of the same features, with or without a pos axis."""
    features = x.shape[2:]
    if value.shape[-len(features) :] != features:
        shapes = f"a value of shape {tuple(value.shape)} can't replace activations of {tuple(features)}"
        raise InterpError(f"{shapes}; take it from there")
    if units is None:
        return value.expand_as(x).clone()
    axis = 2 if x.ndim == 4 else -1
    if max(units) >= x.shape[axis]:
        raise InterpError(f"unit {max(units)} does not exist: these activations have {x.shape[axis]}, counted from 0")
    chosen = torch.tensor(list(units), device=x.device)
    return x.index_copy(axis, chosen, value.expand_as(x).index_select(axis, chosen))
