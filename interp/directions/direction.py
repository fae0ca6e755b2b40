"""Direction: unit rows at a site, with the method and data they were fitted with and their held-out scores."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.core.display import html_card
from interp.core.errors import InterpError
from interp.core.files import new_folder, read_json, write_json
from interp.core.linalg import orthonormal_rows
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site


def residual_sites(model: HookedModel, sites: str | Site | Iterable[str | Site]) -> list[Site]:
    """The sites with these names. Raises for one outside the residual stream's basis, where no direction fits."""
    resolved = model.resolve(sites)
    for site in resolved:
        if not site.in_residual_basis:
            raise InterpError(f"{site} is not in the residual stream's basis; choose sites such as resid_post.*")
    return resolved


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction, or with several rows a subspace, in the coordinates of the residual stream.

    Args:
        rows: The vectors, (k, d_model). They are made orthonormal.
        site: Where it was fitted.
        position: At which token, counted from a prompt's end if negative.
        method: How it was fitted.
        model: The model it belongs to.
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
    model: ModelReference
    data: str
    scores: Mapping[str, float] = field(default_factory=dict)
    means: Float[Tensor, "2 d_model"] | None = None

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.shape[1] != self.model.d_model:
            expected = f"(k, {self.model.d_model}), rows in the residual stream of {self.model.name}"
            raise InterpError(f"direction has shape {tuple(self.rows.shape)}; expected {expected}")
        object.__setattr__(self, "rows", orthonormal_rows(self.rows))

    def read(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch k"]:
        """Coordinates of activations along the rows."""
        return x @ self.rows.to(x).T

    def save(self, folder: str | Path) -> None:
        """Write a new folder: the tensors as safetensors, the rest as JSON."""
        with new_folder(folder) as staging:
            tensors = {"rows": self.rows} | ({} if self.means is None else {"means": self.means})
            save_file(tensors, staging / "direction.safetensors")
            write_json(staging / "direction.json", self.to_json())

    @classmethod
    def load(cls, folder: str | Path) -> "Direction":
        """Load what `save` wrote."""
        if not (Path(folder) / "direction.json").is_file():
            raise InterpError(f"{folder}: no saved direction in it (finding.direction.save writes one)")
        values = read_json(Path(folder) / "direction.json")
        tensors = load_file(Path(folder) / "direction.safetensors")
        return replace(cls.from_json(values, tensors["rows"]), means=tensors.get("means"))

    def to_json(self) -> dict[str, Any]:
        """Everything except the tensors, as plain values."""
        plain = {"site": str(self.site), "position": self.position, "method": self.method, "data": self.data}
        return plain | {"model": self.model.model_dump(), "scores": dict(self.scores)}

    @classmethod
    def from_json(cls, values: dict[str, Any], rows: Float[Tensor, "k d_model"]) -> "Direction":
        """The inverse of `to_json`; the rows are passed in."""
        site, model = Site.parse(values["site"]), ModelReference.parse(values["model"], "direction.json")
        return cls(**values | {"rows": rows, "site": site, "model": model})

    def __str__(self) -> str:
        return f"{self.method} at {self.site}, position {self.position}"

    def _repr_html_(self) -> str:
        scores = [(name, f"{value:.3f}") for name, value in self.scores.items()]
        place: list[tuple[str, object]] = [("site", self.site), ("position", self.position), ("model", self.model.name)]
        return html_card(f"Direction: {self.method}", [("rows", len(self.rows)), *place, *scores])
