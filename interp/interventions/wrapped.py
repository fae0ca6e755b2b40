"""What ops that hold another op have in common: model, width, site, and how they are saved."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.core.errors import InterpError
from interp.interventions.ops import OPS, Observer, Op
from interp.models.identity import ModelReference
from interp.models.sites import Site

_PREFIX = "op."


class Wrapped(Op):
    """An op that is applied at some tokens only, or in part. It has no affine form: weights act on every token."""

    def __init__(self, op: Op):
        if not isinstance(op, Op):
            raise InterpError(f"{op!r} is not an op; expected one of {', '.join(OPS)}")
        if not op.holdable:
            raise InterpError(
                f"{type(op).__name__} can't be inside another op: it does not act on activations; tell it itself where "
                "to act"
            )
        self.op = op

    def __call__(self, x: Tensor) -> Tensor:
        """Raises: which tokens these are is known in a forward pass alone."""
        raise InterpError(
            f"{type(self).__name__} has to know which tokens it is given; run it in a recipe, by model.hooked"
        )

    def observers(self) -> list[tuple[Site, Observer]]:
        """The inner op's."""
        return self.op.observers()

    @property
    def model(self) -> ModelReference | None:
        """The inner op's."""
        return self.op.model

    @property
    def width(self) -> int | None:
        """The inner op's."""
        return self.op.width

    @property
    def site(self) -> Site | None:
        """The inner op's."""
        return self.op.site

    def settings(self) -> dict[str, Any]:
        """The inner op's name and settings, and this one's own."""
        return {"op": type(self.op).__name__, "settings": self.op.settings()}

    def tensors(self) -> dict[str, Tensor]:
        """The inner op's."""
        return {_PREFIX + name: tensor for name, tensor in self.op.tensors().items()}


def inner(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Op:
    """The op within, from what the outer one saved."""
    own = {name.removeprefix(_PREFIX): x for name, x in tensors.items() if name.startswith(_PREFIX)}
    return OPS[settings["op"]].restore(settings["settings"], own)


def only(chosen: Bool[Tensor, "batch pos"], changed: Tensor, x: Tensor) -> Tensor:
    """The changed activations where chosen, and x elsewhere."""
    return torch.where(chosen[(..., *[None] * (x.ndim - 2))], changed, x)
