"""Ops: pure functions x -> x on the activations at a site.

`op.affine()` is the hinge between run time and weights: the op's exact affine form, or None. What has one can be folded
into the tensors that write the site; what has none runs as a hook only.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.display import card
from interp.core.errors import InterpError
from interp.core.linalg import orthonormal_rows, project_out
from interp.directions.direction import Direction
from interp.models.reference import ModelReference
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.sae.records import SaeCard

# A fitted direction, or the numbers of one as a tensor, an array or lists: (d_model,) or (k, d_model).
Vectors = Direction | Float[Tensor, "*k d_model"] | np.ndarray | Sequence[Any]


@dataclass(frozen=True, eq=False)
class Affine:
    """x -> x - (x readᵀ) write + bias: a low-rank affine map."""

    read: Float[Tensor, "k d_model"]
    write: Float[Tensor, "k d_model"]
    bias: Float[Tensor, "d_model"]


class Op(ABC):
    """A function on activations at a site, saved as plain settings plus named tensors."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """New activations; the argument is left as it is."""

    @abstractmethod
    def affine(self) -> Affine | None:
        """The exact affine form, or None where there is none."""

    @property
    @abstractmethod
    def model(self) -> ModelReference | None:
        """The model it was made with, if known."""

    @property
    @abstractmethod
    def width(self) -> int:
        """d_model of the sites it fits."""

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
        return card(type(self).__name__, self.settings().items())


class Project(Op):
    """Remove a direction (or subspace): x -> x - strength · (x Qᵀ) Q, rows of Q orthonormal.

    Strength counts per writer's output: at every writer of the residual stream, the stream keeps exactly the share
    1 - strength of its component, however many layers there are. Arditi et al. 2024, "Refusal in language models is
    mediated by a single direction", use the same operation with strength 1.
    """

    def __init__(self, direction: Vectors, strength: float = 1.0):
        self.rows, self._direction = _rows(direction)
        self.strength = _finite(strength, "strength")

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

    v is a Direction's single row, of norm 1, or a bare vector with its own norm.
    """

    def __init__(self, direction: Vectors, scale: float = 1.0):
        self._direction = direction if isinstance(direction, Direction) else None
        vector = direction.rows.squeeze(0) if isinstance(direction, Direction) else _tensor(direction)
        if vector.ndim != 1 or not torch.isfinite(vector).all() or not vector.any():
            raise InterpError(f"Add needs one finite, non-zero vector (d_model,); got shape {tuple(vector.shape)}")
        self.vector = vector.detach().cpu().float().clone()
        self.scale = _finite(scale, "scale")

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations plus the vector."""
        return x + self.scale * self.vector.to(x)

    def affine(self) -> Affine:
        """A constant."""
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
        return {"scale": self.scale, "direction": self._direction and self._direction.to_json()}

    def tensors(self) -> dict[str, Tensor]:
        """The vector."""
        return {"vector": self.vector}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Add":
        """The inverse of `settings` and `tensors`."""
        fitted, vector = settings["direction"], tensors["vector"]
        return cls(Direction.from_json(fitted, vector[None]) if fitted else vector, settings["scale"])


class Clamp(Op):
    """Hold latents of a sparse autoencoder at a value: x -> x + (value - f(x)) · decoder row, for each latent.

    The autoencoder's error stays in place: only the latents' own contribution changes. Replacing x by a
    reconstruction instead would add the error's effect to the edit's. Templeton et al. 2024, "Scaling monosemanticity".
    """

    def __init__(self, sae: SparseAutoencoder, latents: int | list[int], value: float = 0.0):
        self.sae, self._site = sae, sae.site
        self.latents = [latents] if isinstance(latents, int) else list(latents)
        self.value = _finite(value, "value")
        outside = [latent for latent in self.latents if not 0 <= latent < sae.d_sae]
        if outside or not self.latents:
            raise InterpError(f"latents {self.latents}: expected one or more from 0 to {sae.d_sae - 1}")

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations with the latents' part changed as if they were at the value."""
        if self.sae.W_dec.device != x.device:
            self.sae = self.sae.to(x.device)
        change = self.value - self.sae.encode(x.float())[..., self.latents]
        return x + (change @ self.sae.W_dec[self.latents]).to(x)

    def affine(self) -> None:
        """None: a latent's activation is not an affine function of x."""
        return

    @property
    def model(self) -> ModelReference | None:
        """The model that the autoencoder was trained on."""
        return self.sae.model

    @property
    def width(self) -> int:
        """d_model."""
        return self.sae.d_in

    @property
    def site(self) -> Site:
        """Where the autoencoder reads."""
        return self._site

    def settings(self) -> dict[str, Any]:
        """Latents and value, with the autoencoder's own settings."""
        return {"latents": self.latents, "value": self.value, "sae": self.sae.card().model_dump()}

    def tensors(self) -> dict[str, Tensor]:
        """The autoencoder's tensors."""
        return self.sae.tensors()

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Clamp":
        """The inverse of `settings` and `tensors`."""
        sae = SparseAutoencoder.of(SaeCard.parse(settings["sae"], "the recipe's autoencoder"), tensors)
        return cls(sae, settings["latents"], settings["value"])


OPS: dict[str, type[Op]] = {op.__name__: op for op in (Project, Add, Clamp)}


def _rows(direction: Vectors) -> tuple[Tensor, Direction | None]:
    if isinstance(direction, Direction):
        return direction.rows, direction
    rows = torch.atleast_2d(_tensor(direction))
    if rows.ndim != 2:
        raise InterpError(f"direction has shape {tuple(rows.shape)}; expected (d_model,) or (k, d_model)")
    return orthonormal_rows(rows), None


def _tensor(value: Any) -> Tensor:
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


def _finite(value: float, name: str) -> float:
    if not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise InterpError(f"{name} is {value!r}; expected a finite number")
    return float(value)
