"""Scale: heads at z, or neurons at mlp_post, turned down or up by a factor each; 0 is zero ablation.

Factors of heads can be learned, which finds those that carry a behaviour (Michel et al. 2019, "Are sixteen heads really
better than one?", https://arxiv.org/abs/1905.10650, take the gradient at 1). They fold into the columns of the output
projection.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.interventions.ops import Op, numbers, reference
from interp.models.reference import ModelReference


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
