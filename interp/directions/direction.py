"""Direction: unit rows at a site, with how they were fitted, on what, and how well they do on held-out data."""

from collections.abc import Mapping
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
from interp.models.identity import ModelReference
from interp.models.sites import Site


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction, or with several rows a subspace, in the coordinates of the residual stream.

    `rows` are made orthonormal; `method` says how they were fitted, at `site` and `position` (from the end of the
    prompt if negative) of `model`, on data with digest `data`. `scores` were measured on held-out pairs;
    `means` are those of the positive and the negative side that it was fitted on, where known.
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
            raise InterpError(
                f"direction has shape {tuple(self.rows.shape)}; expected (k, {self.model.d_model}), rows in the "
                f"residual stream of {self.model.name}"
            )
        object.__setattr__(self, "rows", orthonormal_rows(self.rows))

    def read(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch k"]:
        """Coordinates of activations along the rows."""
        return x @ self.rows.to(x).T

    def save(self, folder: str | Path) -> None:
        """Write a new folder: rows as safetensors, the rest as JSON."""
        with new_folder(folder) as staging:
            tensors = {"rows": self.rows} | ({} if self.means is None else {"means": self.means})
            save_file(tensors, staging / "direction.safetensors")
            write_json(staging / "direction.json", self.to_json())

    @classmethod
    def load(cls, folder: str | Path) -> "Direction":
        """The inverse of `save`."""
        values = read_json(Path(folder) / "direction.json")
        tensors = load_file(Path(folder) / "direction.safetensors")
        return replace(cls.from_json(values, tensors["rows"]), means=tensors.get("means"))

    def to_json(self) -> dict[str, Any]:
        """Everything but the tensors, as plain values."""
        plain = {"site": str(self.site), "position": self.position, "method": self.method, "data": self.data}
        return plain | {"model": self.model.model_dump(), "scores": dict(self.scores)}

    @classmethod
    def from_json(cls, values: dict[str, Any], rows: Float[Tensor, "k d_model"]) -> "Direction":
        """The inverse of `to_json`, given the rows."""
        known = dict(values)
        site, model = Site.parse(known.pop("site")), ModelReference.parse(known.pop("model"), "direction.json")
        return cls(rows=rows, site=site, model=model, **known)

    def __str__(self) -> str:
        return f"{self.method} at {self.site}, position {self.position}"

    def _repr_html_(self) -> str:
        scores = [(name, f"{value:.3f}") for name, value in self.scores.items()]
        fitted: list[tuple[str, object]] = [
            ("rows", len(self.rows)),
            ("site", self.site),
            ("position", self.position),
            ("model", self.model.name),
        ]
        return html_card(f"Direction: {self.method}", [*fitted, *scores])
