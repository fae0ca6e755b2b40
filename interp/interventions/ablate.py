"""Replace activations: zero ablation, mean ablation, patching; and resample ablation.

At `z` units are heads, at other sites single coordinates, such as an MLP's neurons at `mlp_post`. Zeros are far from
anything that later layers expect, so a mean or resampled value says more about what a part is for: Chan et al. 2022,
"Causal scrubbing"; Wang et al. 2022, https://arxiv.org/abs/2211.00593.

Scale: heads at z, or neurons at mlp_post, turned down or up by a factor each; 0 is zero ablation.

Factors of heads can be learned, which finds those that carry a behaviour (Michel et al. 2019, "Are sixteen heads really
better than one?", https://arxiv.org/abs/1905.10650, take the gradient at 1). They fold into the columns of the output
projection.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.interventions.ops import Op, numbers, reference
from interp.models.forward_pass import ForwardPass
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.models.tokens import Prompts

_MULTIPLIER = 2654435761  # Knuth's multiplicative hash


class Replace(Op):
    """Set activations to a value: zeros if none is given, a mean (`Replace.mean`), or another prompt's activations.

    The value has the site's own shape without batch and pos. `units` limits it to some heads or coordinates.
    """

    def __init__(
        self,
        value: Float[Tensor, "*features"] | None = None,
        units: Sequence[int] | None = None,
        model: ModelReference | None = None,
    ):
        self.value = None if value is None else numbers(value, "a value to replace activations by")
        self.units, self._model = _units(units), model

    @classmethod
    def mean(
        cls, model: HookedModel, prompts: Prompts, site: str | Site, units: Sequence[int] | None = None
    ) -> "Replace":
        """Mean ablation: by the mean over all tokens of some prompts, but each prompt's first."""
        return cls(bank(model, prompts, site).mean(0), units, model.reference)

    def __call__(self, x: Float[Tensor, "batch pos *features"]) -> Float[Tensor, "batch pos *features"]:
        """The value instead of the activations, or of some units of them."""
        return _put(x, torch.zeros_like(x[0, 0]) if self.value is None else self.value.to(x), self.units)

    @property
    def model(self) -> ModelReference | None:
        """The model that the value is from."""
        return self._model

    @property
    def width(self) -> None:
        """Any."""
        return

    def settings(self) -> dict[str, Any]:
        """The units, and the model."""
        return {"units": self.units, "model": self._model and self._model.model_dump()}

    def tensors(self) -> dict[str, Tensor]:
        """The value, if it is not zero."""
        return {} if self.value is None else {"value": self.value}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Replace":
        """The inverse of `settings` and `tensors`."""
        return cls(tensors.get("value"), settings["units"], reference(settings["model"]))


class Resample(Op):
    """Resample ablation: activations of other tokens instead, drawn from a bank (`bank`).

    What is drawn depends on the seed and on how far a token is from the prompt's end: neither the batch nor a cache
    changes it.
    """

    def __init__(
        self,
        values: Float[Tensor, "row *features"],
        units: Sequence[int] | None = None,
        seed: int = 0,
        model: ModelReference | None = None,
    ):
        if values.ndim < 2 or not len(values):
            raise InterpError(f"a bank has shape {tuple(values.shape)}; expected (row, …), one row or more")
        self.values, self.units = numbers(values, "a bank"), _units(units)
        self.seed, self._model = seed, model

    def __call__(self, x: Float[Tensor, "batch pos *features"]) -> Float[Tensor, "batch pos *features"]:
        """As if x were a prompt."""
        return self._at(x, torch.arange(-x.shape[1], 0))

    def within(self, x: Tensor, passing: ForwardPass) -> Tensor:
        """By the distance from the prompt's end."""
        return self._at(x, passing.columns.cpu() - passing.prompt)

    def _at(self, x: Tensor, places: Tensor) -> Tensor:
        drawn = ((places + self.seed * 1_000_003) * _MULTIPLIER % 2**32) % len(self.values)
        return _put(x, self.values[drawn].to(x), self.units)

    @property
    def model(self) -> ModelReference | None:
        """The model that the bank is from."""
        return self._model

    @property
    def width(self) -> None:
        """Any."""
        return

    def settings(self) -> dict[str, Any]:
        """Units and seed, and the model."""
        return {"units": self.units, "seed": self.seed, "model": self._model and self._model.model_dump()}

    def tensors(self) -> dict[str, Tensor]:
        """The bank."""
        return {"values": self.values}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Resample":
        """The inverse of `settings` and `tensors`."""
        return cls(tensors["values"], settings["units"], settings["seed"], reference(settings["model"]))


def bank(model: HookedModel, prompts: Prompts, site: str | Site) -> Float[Tensor, "row *features"]:
    """Activations at a site on every token of some prompts, but each prompt's first: for means and resampling."""
    acts = model.capture(prompts, site)
    later = acts.tokens.mask.clone()
    later[torch.arange(len(later)), later.int().argmax(1)] = False
    if not later.any():
        raise InterpError("every prompt is of one token; expected longer ones, since first tokens are left out")
    return next(iter(acts.tensors.values()))[later.to(model.device)].float().cpu()


def _put(x: Tensor, value: Tensor, units: list[int] | None) -> Tensor:
    """x with some of its units, or all, from a value of the same features; its pos axis, if any, is x's."""
    features = x.shape[2:]
    if value.shape[-len(features) :] != features:
        raise InterpError(
            f"a value of shape {tuple(value.shape)} can't replace activations of {tuple(features)}; take it from the "
            "same site"
        )
    if units is None:
        return value.expand_as(x).clone()
    axis = 2 if x.ndim == 4 else -1
    if max(units) >= x.shape[axis]:
        raise InterpError(f"unit {max(units)} is not there: these activations have {x.shape[axis]}, counted from 0")
    chosen = torch.tensor(units, device=x.device)
    return x.index_copy(axis, chosen, value.expand_as(x).index_select(axis, chosen))


def _units(units: Sequence[int] | None) -> list[int] | None:
    if units is None:
        return None
    listed = [int(unit) for unit in units]
    if not listed or min(listed) < 0 or len(set(listed)) != len(listed):
        raise InterpError(f"units are {listed}; expected one or more different numbers from 0 up, or None for all")
    return listed


class Scale(Op):
    """Multiply each unit by its factor: `("z.3", Scale(torch.tensor([1.0, 0.5, 0.0, 1.0])))` for a layer of four heads.

    At `z` units are heads, at other sites single coordinates.
    """

    def __init__(self, factors: Float[Tensor, "units"], model: ModelReference | None = None):
        if factors.ndim != 1 or not len(factors):
            raise InterpError(f"factors have shape {tuple(factors.shape)}; expected (units,), one for each")
        self.factors, self._model = numbers(factors, "the factors"), model

    def __call__(self, x: Float[Tensor, "batch pos *features"]) -> Float[Tensor, "batch pos *features"]:
        """The activations, scaled."""
        count = x.shape[2]
        if count != len(self.factors):
            raise InterpError(f"{len(self.factors)} factors for {count} units; expected one for each")
        factors = self.factors.to(x)
        return x * (factors[:, None] if x.ndim == 4 else factors)

    @property
    def model(self) -> ModelReference | None:
        """The model that the factors are for."""
        return self._model

    @property
    def width(self) -> None:
        """Any."""
        return

    def settings(self) -> dict[str, Any]:
        """The model."""
        return {"model": self._model and self._model.model_dump()}

    def tensors(self) -> dict[str, Tensor]:
        """The factors."""
        return {"factors": self.factors}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Scale":
        """The inverse of `settings` and `tensors`."""
        return cls(tensors["factors"], reference(settings["model"]))
