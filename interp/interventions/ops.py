"""Ops: pure functions x -> x on the activations at a site.

`op.affine()` is the hinge between run time and weights: the op's exact affine form, or None. What has one can be folded
into the tensors that write the site; what has none runs as a hook only. Here are the ops that have one; others are in
the files beside this one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.display import html_card
from interp.core.errors import InterpError
from interp.core.linalg import erase, orthonormal_rows, project_out
from interp.directions.direction import Direction
from interp.directions.methods.erasure import Eraser
from interp.models.architectures.table import Tap
from interp.models.forward_pass import ForwardPass
from interp.models.identity import ModelReference
from interp.models.sites import Site

# A fitted direction, or the numbers of one as a tensor, an array or lists: (d_model,) or (k, d_model).
Vectors = Direction | Float[Tensor, "*k d_model"] | np.ndarray | Sequence[Any]


@dataclass(frozen=True, eq=False)
class Affine:
    """x -> x - (x readᵀ) write + bias: a low-rank affine map."""

    read: Float[Tensor, "k d_model"]
    write: Float[Tensor, "k d_model"]
    bias: Float[Tensor, "d_model"]


OPS: dict[str, type["Op"]] = {}


class Op(ABC):
    """A function on activations at a site, saved as plain settings plus named tensors."""

    holdable: ClassVar[bool] = True  # whether another op (At, Schedule, Gate) can hold it

    def __init_subclass__(cls) -> None:
        if "restore" in cls.__dict__:
            OPS[cls.__name__] = cls

    @abstractmethod
    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """New activations; the argument is left as it is."""

    def within(self, x: Tensor, passing: ForwardPass) -> Tensor:
        """The same in a forward pass, for ops that act on some of its tokens only."""
        del passing
        return self(x)

    def observers(self) -> list[tuple[Site, "Observer"]]:
        """What has to be seen elsewhere, earlier in the pass: sites, and what is told of the activations there."""
        return []

    def affine(self) -> Affine | None:
        """The exact affine form, or None where there is none."""
        return None

    def tap(self, config: Any, site: Site) -> Tap | None:
        """Where it acts, given the site it is put at, if that is not on the activations there."""
        del config, site
        return None

    @property
    def tokenwise(self) -> bool:
        """Whether it does to each token what it would do to it alone, wherever that stands."""
        return type(self).within is Op.within and type(self).tap is Op.tap

    @property
    @abstractmethod
    def model(self) -> ModelReference | None:
        """The model it was made with, if known."""

    @property
    @abstractmethod
    def width(self) -> int | None:
        """d_model of the sites it fits; None if it goes to sites of any basis and width."""

    @property
    def site(self) -> Site | None:
        """The one site it makes sense at; None if it goes anywhere."""
        return None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values from which, with `tensors`, the op is restored."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Named tensors from which, with `settings`, the op is restored."""

    @classmethod
    @abstractmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Op":
        """The inverse of `settings` and `tensors`."""

    def _repr_html_(self) -> str:
        return html_card(type(self).__name__, self.settings().items())


Observer = Callable[[Tensor, ForwardPass], None]


class Project(Op):
    """Remove a direction (or subspace): x -> x - strength · (x Qᵀ) Q, rows of Q orthonormal.

    Strength counts per writer's output: at every writer of the residual stream, the stream keeps exactly the share
    1 - strength of its component, however many layers there are. Arditi et al. 2024, "Refusal in language models is
    mediated by a single direction", use the same operation with strength 1.
    """

    def __init__(self, direction: Vectors, strength: float = 1.0):
        self.rows, self._direction = _rows(direction)
        self.strength = finite(strength, "strength")

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations without `strength` of their part along the rows."""
        return project_out(x, self.rows, self.strength)

    def affine(self) -> Affine:
        """Read along the rows, take `strength` of that away along the same rows."""
        return Affine(self.rows, self.strength * self.rows, torch.zeros(self.width))

    @property
    def model(self) -> ModelReference | None:
        """The direction's model; None for a bare tensor."""
        return self._direction.model if self._direction else None

    @property
    def width(self) -> int:
        """d_model."""
        return self.rows.shape[1]

    def settings(self) -> dict[str, Any]:
        """Strength, and how the direction was fitted."""
        return {"strength": self.strength, "direction": self._direction and self._direction.to_json()}

    def tensors(self) -> dict[str, Tensor]:
        """The orthonormal rows."""
        return {"rows": self.rows}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Project":
        """The inverse of `settings` and `tensors`."""
        return cls(_restored(settings, tensors), settings["strength"])


class Add(Op):
    """Steer: x -> x + scale · v. Turner et al. 2023, "Activation addition".

    v is a Direction's single row, of norm 1, or a bare vector with its own norm. If `relative`, what is added is
    `scale` times as long as x is, whatever v's norm: the same scale means the same at every layer.
    """

    def __init__(self, direction: Vectors, scale: float = 1.0, relative: bool = False):
        self._direction = direction if isinstance(direction, Direction) else None
        vector = direction.rows.squeeze(0) if isinstance(direction, Direction) else as_tensor(direction)
        if vector.ndim != 1 or not torch.isfinite(vector).all() or not vector.any():
            raise InterpError(f"Add needs one finite, non-zero vector (d_model,); got shape {tuple(vector.shape)}")
        self.vector = vector.detach().cpu().float().clone()
        self.scale, self.relative = finite(scale, "scale"), bool(relative)

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations plus the vector."""
        if self.relative:
            length = x.float().norm(dim=-1, keepdim=True) / self.vector.norm()
            return x + (self.scale * length * self.vector.to(x.device)).to(x)
        return x + self.scale * self.vector.to(x)

    def affine(self) -> Affine | None:
        """A constant; none if it is relative to the activations' length."""
        if self.relative:
            return None
        none = torch.zeros(0, self.width)
        return Affine(none, none, self.scale * self.vector)

    @property
    def model(self) -> ModelReference | None:
        """The direction's model; None for a bare tensor."""
        return self._direction.model if self._direction else None

    @property
    def width(self) -> int:
        """d_model."""
        return len(self.vector)

    def settings(self) -> dict[str, Any]:
        """Scale, and how the direction was fitted."""
        fitted = self._direction and self._direction.to_json()
        return {"scale": self.scale, "relative": self.relative, "direction": fitted}

    def tensors(self) -> dict[str, Tensor]:
        """The vector."""
        return {"vector": self.vector}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Add":
        """The inverse of `settings` and `tensors`."""
        fitted, vector = settings["direction"], tensors["vector"]
        direction = Direction.from_json(fitted, vector[None]) if fitted else vector
        return cls(direction, settings["scale"], settings.get("relative", False))


class Erase(Op):
    """Erase a concept: x -> x - ((x - mean) readᵀ) write, an oblique projection where read and write differ.

    Least-squares concept erasure (Belrose et al. 2023, https://arxiv.org/abs/2306.03819) is of this form. Read and
    write are (k, d_model), the mean (d_model,). At a residual site the constant counts once; at writers it would at
    every one of them.
    """

    def __init__(
        self,
        read: Tensor,
        write: Tensor,
        mean: Tensor,
        model: ModelReference | None = None,
    ):
        if read.ndim != 2 or read.shape != write.shape or mean.shape != read.shape[1:]:
            raise InterpError(
                f"read, write and mean have shapes {tuple(read.shape)}, {tuple(write.shape)} and {tuple(mean.shape)}; "
                "expected (k, d_model) twice, and (d_model,)"
            )
        self.read, self.write, self.mean = (numbers(x, "an eraser") for x in (read, write, mean))
        self._model = model

    @classmethod
    def of(cls, eraser: Eraser) -> "Erase":
        """The op of a fitted eraser."""
        return cls(eraser.read, eraser.write, eraser.mean, eraser.model)

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations with the concept's part brought to its mean; narrower types are computed in float32."""
        return erase(x, self.read, self.write, self.mean)

    def affine(self) -> Affine:
        """The mean's part is the constant."""
        return Affine(self.read, self.write, (self.mean @ self.read.T) @ self.write)

    @property
    def model(self) -> ModelReference | None:
        """The model it was fitted in."""
        return self._model

    @property
    def width(self) -> int:
        """d_model."""
        return len(self.mean)

    def settings(self) -> dict[str, Any]:
        """The model."""
        return {"model": self._model and self._model.model_dump()}

    def tensors(self) -> dict[str, Tensor]:
        """Read and write rows, and the mean."""
        return {"read": self.read, "write": self.write, "mean": self.mean}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Erase":
        """The inverse of `settings` and `tensors`."""
        return cls(tensors["read"], tensors["write"], tensors["mean"], reference(settings["model"]))


class LowRank(Op):
    """A trained or fitted low-rank edit: x -> x + (x weightᵀ + bias - x rowsᵀ) rows, rows orthonormal.

    Rows and weight are (k, d_model), bias is (k,). LoReFT, Wu et al. 2024, "ReFT: Representation finetuning for
    language models", https://arxiv.org/abs/2404.03592.
    """

    def __init__(
        self,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        model: ModelReference | None = None,
    ):
        if rows.ndim != 2 or rows.shape != weight.shape or bias.shape != rows.shape[:1]:
            raise InterpError(
                f"rows, weight and bias have shapes {tuple(rows.shape)}, {tuple(weight.shape)} and "
                f"{tuple(bias.shape)}; expected (k, d_model) twice, and (k,)"
            )
        self.rows = orthonormal_rows(rows)
        if not torch.allclose(self.rows, rows.detach().cpu().float(), atol=1e-4):
            raise InterpError("the rows of a low-rank edit are not orthonormal; orthonormalise them while training it")
        self.weight, self.bias = numbers(weight, "a low-rank edit"), numbers(bias, "a low-rank edit")
        self._model = model

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations with their coordinates along the rows replaced by a linear function of them."""
        rows, weight, bias = (tensor.to(x) for tensor in (self.rows, self.weight, self.bias))
        return x + (x @ (weight - rows).T + bias) @ rows

    def affine(self) -> Affine:
        """As it is."""
        return Affine(self.rows - self.weight, self.rows, self.bias @ self.rows)

    @property
    def model(self) -> ModelReference | None:
        """The model it was trained in."""
        return self._model

    @property
    def width(self) -> int:
        """d_model."""
        return self.rows.shape[1]

    def settings(self) -> dict[str, Any]:
        """The model."""
        return {"model": self._model and self._model.model_dump()}

    def tensors(self) -> dict[str, Tensor]:
        """Rows, weight and bias."""
        return {"rows": self.rows, "weight": self.weight, "bias": self.bias}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "LowRank":
        """The inverse of `settings` and `tensors`."""
        return cls(tensors["rows"], tensors["weight"], tensors["bias"], reference(settings["model"]))


def _rows(direction: Vectors) -> tuple[Tensor, Direction | None]:
    if isinstance(direction, Direction):
        return direction.rows, direction
    rows = torch.atleast_2d(as_tensor(direction))
    if rows.ndim != 2:
        raise InterpError(f"direction has shape {tuple(rows.shape)}; expected (d_model,) or (k, d_model)")
    return orthonormal_rows(rows), None


def as_tensor(value: Any) -> Tensor:
    """A tensor of a tensor, an array or a list of numbers."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise InterpError(
            f"direction is a {type(value).__name__}; expected a Direction (a finding has one: finding.direction), "
            "or the numbers of a vector"
        ) from None


def _restored(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Direction | Tensor:
    fitted, rows = settings["direction"], tensors["rows"]
    return Direction.from_json(fitted, rows) if fitted else rows


def numbers(tensor: Tensor, whose: str) -> Tensor:
    """The tensor in float32 on the CPU. Raises, naming whose it is, where an entry is not finite."""
    if not torch.isfinite(tensor).all():
        raise InterpError(f"{whose} has NaN or infinite entries; check what it was fitted on")
    return tensor.detach().cpu().float().contiguous()


def reference(plain: Mapping[str, Any] | None) -> ModelReference | None:
    """A model's reference from its plain values."""
    return ModelReference.parse(dict(plain), "the recipe's model") if plain else None


def finite(value: float, name: str) -> float:
    """The value as a float. Raises, by its name, where it is no finite number."""
    if not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise InterpError(f"{name} is {value!r}; expected a finite number")
    return float(value)
