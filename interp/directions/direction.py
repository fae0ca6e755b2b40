"""Direction: unit rows at a site, with the method and data they were fitted with and their held-out scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from interp.core.calls import checked_class
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError
from interp.core.files import new_folder, read_json, read_tensors, write_json
from interp.core.linalg import orthonormal_rows
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site


def residual_sites(model: HookedModel, sites: str | Site | Iterable[str | Site]) -> list[Site]:
    """The sites with these names. Raises for one outside the residual stream's basis, where no direction fits."""
    resolved = model.resolve(sites)
    for site in resolved:
        if not site.in_residual_basis:
            raise _outside(site)
    return resolved


def residual_site(model: HookedModel, site: str | Site) -> Site:
    """The one site of a name. Raises for several sites, and for one outside the residual stream's basis."""
    sites = model.resolve(site)
    if len(sites) != 1 or not sites[0].in_residual_basis:
        names = ", ".join(map(str, sites))
        raise InterpError(f"{site} names {names}; expected one site in the residual stream's basis")
    return sites[0]


def _outside(site: Site) -> InterpError:
    return InterpError(f"{site} is not in the residual stream's basis; choose sites such as resid_post.*")


@checked_class("interp.find(model, contrast).best()[0].direction is one, and interp.Direction.of(vector) makes one")
@dataclass(frozen=True, eq=False)
class Direction(Displayed):
    """A direction, or with several rows a subspace, in the coordinates of the residual stream.

    Args:
        rows: The vectors, (k, d_model). They are made orthonormal.
        site: Where it was fitted.
        position: At which token, counted from a prompt's end if negative.
        method: How it was fitted.
        model: The model it belongs to, if known.
        data: Digest of the data it was fitted on.
        scores: Measurements on held-out pairs, by name.
        means: Means of the positive and the negative side that it was fitted on, (2, d_model), where known.

    Raises:
        InterpError: The rows do not have the width of the model's residual stream.

    Example:
        >>> site = interp.models.Site("resid_post", 3)
        >>> direction = interp.Direction(torch.ones(1, 192), site, -1, "hand-made", model.reference, data="")
        >>> direction.read(torch.ones(2, 192)).shape
        torch.Size([2, 1])
        >>> direction.save(tmp / "direction")
        >>> print(interp.Direction.load(tmp / "direction"))
        hand-made at resid_post.3, position -1
    """

    rows: Float[Tensor, "k d_model"]
    site: Site
    position: int
    method: str
    model: ModelReference | None
    data: str
    scores: Mapping[str, float] = field(default_factory=dict)
    means: Float[Tensor, "2 d_model"] | None = None

    def __post_init__(self) -> None:
        model = self.model
        if self.rows.ndim != 2 or (model and self.rows.shape[1] != model.d_model):
            expected = f"(k, {model.d_model}), rows in the residual stream of {model.name}" if model else "(k, d_model)"
            raise InterpError(f"direction has shape {tuple(self.rows.shape)}; expected {expected}")
        object.__setattr__(self, "rows", orthonormal_rows(self.rows))

    @classmethod
    def of(
        cls,
        vector: Any,
        site: str | Site,
        model: HookedModel | ModelReference | None = None,
        method: str = "given",
        position: int = -1,
    ) -> "Direction":
        """A direction from numbers, such as another tool's vector.

        heretic and repeng have one vector per layer: pass one of them (`vectors[12]`). A decoder row of SAELens is
        `sae.W_dec[latent]`. The vector keeps its sign but not its norm: rows get norm 1, and `Add` scales them. To keep
        the norm, pass the numbers themselves to `Add(vector, scale)`.

        Args:
            vector: A tensor, an array or a list of numbers: (d_model,), or (k, d_model) for a subspace. On any device
                and in any type.
            site: Where it was read or is to be added, such as `resid_post.3`. hidden_states[n + 1] of transformers is
                `resid_post.n`.
            model: The model it belongs to; any other model then refuses it. Default: it fits every model of its width.
            method: What it is called where it is shown.
            position: At which token it was read, counted from a prompt's end if negative.

        Raises:
            InterpError: The vector is zero, not finite, or not of the shape and width expected; its rows are linearly
                dependent; or the site is unknown or not in the residual stream's basis.

        Example:
            >>> direction = interp.Direction.of([3.0, 4.0], site="resid_post.3")
            >>> direction.rows, str(direction)
            (tensor([[0.6000, 0.8000]]), 'given at resid_post.3, position -1')
            >>> interp.Add(direction, scale=5.0)(torch.zeros(2))
            tensor([3., 4.])
        """
        place = site if isinstance(site, Site) else Site.parse(site)
        if isinstance(model, HookedModel):
            model.resolve(place)
        if not place.in_residual_basis:
            raise _outside(place)
        rows = as_tensor(vector).float()
        if rows.ndim not in (1, 2):
            raise InterpError(f"direction has shape {tuple(rows.shape)}; expected (d_model,) or (k, d_model)")
        reference = model.reference if isinstance(model, HookedModel) else model
        return cls(torch.atleast_2d(rows), place, position, method, reference, data="")

    def check(self, model: ModelReference, what: str = "this direction") -> None:
        """Raise if it belongs to another model or has another width; the error calls it `what`."""
        if self.model is not None:
            self.model.check(model, what)
        elif (width := self.rows.shape[1]) != model.d_model:
            raise InterpError(f"{what} is of width {width}, but {model.name} has d_model {model.d_model}")

    def read(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch k"]:
        """Coordinates of activations along the rows."""
        return x @ self.rows.to(x).T

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write tensors and values into a new folder; `overwrite` replaces a saved direction there, in one step."""
        with new_folder(folder, mark="direction.json", overwrite=overwrite) as staging:
            tensors = {"rows": self.rows} | ({} if self.means is None else {"means": self.means})
            save_file(tensors, staging / "direction.safetensors")
            write_json(staging / "direction.json", self.to_json())

    @classmethod
    def load(cls, folder: str | Path) -> "Direction":
        """Load what `save` wrote."""
        if not (Path(folder) / "direction.json").is_file():
            raise InterpError(f"{folder}: no saved direction in it (finding.direction.save writes one)")
        values = read_json(Path(folder) / "direction.json")
        tensors = read_tensors(Path(folder) / "direction.safetensors")
        return replace(cls.from_json(values, tensors["rows"]), means=tensors.get("means"))

    def to_json(self) -> dict[str, Any]:
        """Everything except the tensors, as plain values."""
        plain = {"site": str(self.site), "position": self.position, "method": self.method, "data": self.data}
        return plain | {"model": self.model and self.model.model_dump(), "scores": dict(self.scores)}

    @classmethod
    def from_json(cls, values: dict[str, Any], rows: Float[Tensor, "k d_model"]) -> "Direction":
        """The inverse of `to_json`; the rows are passed in."""
        site, known = Site.parse(values["site"]), values["model"]
        model = ModelReference.parse(known, "direction.json") if known else None
        return cls(**values | {"rows": rows, "site": site, "model": model})

    def __str__(self) -> str:
        return f"{self.method} at {self.site}, position {self.position}"

    def _card(self) -> Card:
        scores = [(name, f"{value:.3f}") for name, value in self.scores.items()]
        model = self.model.name if self.model else f"any of width {self.rows.shape[1]}"
        return str(self), [("rows", len(self.rows)), ("model", model), *scores]


# A fitted direction, or its numbers as a tensor, an array or lists: (d_model,) or (k, d_model).
Vectors = Direction | Float[Tensor, "*k d_model"] | np.ndarray | Sequence[Any]


def as_tensor(value: Any) -> Tensor:
    """A tensor from a direction's rows, a tensor, an array or a list of numbers."""
    if isinstance(value, Direction):
        return value.rows.squeeze(0)
    if isinstance(value, Mapping):
        shown = ", ".join(map(str, list(value)[:6]))
        raise InterpError(f"direction is a mapping of {shown}; give one of its values, such as the vector of a layer")
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise InterpError(
            f"direction is a {type(value).__name__}; expected a Direction (a finding has one: finding.direction), "
            "or the numbers of a vector"
        ) from None
