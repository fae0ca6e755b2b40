"""SparseAutoencoder: activations of a site as few latents out of many, and back.

    latents = nonlinearity(W_enc x + b_enc)        x_hat = W_dec^T latents + b_dec

It reads raw activations: whatever centring and scaling it was trained with is folded into its tensors.
Decoder rows have unit norm, so a latent's value is the length it adds to the reconstruction. The first token
of a document is outside its knowledge: models park attention there, with norms far from all others, so
training and measures leave it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import safetensors.torch
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import embedding_bag, linear

from interp.core.display import card
from interp.core.errors import InterpError
from interp.core.files import new_folder, read_json, sha256_file, write_json
from interp.core.records import versions
from interp.models.hooked import HookedModel
from interp.models.reference import ModelReference
from interp.models.sites import Site
from interp.sae.nonlinearities import TopK
from interp.sae.records import SaeCard, SaeConfig, SaeMetrics

WEIGHTS = "sae.safetensors"
CARD = "sae.json"
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")


@final
@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """See the module. `model` is the one it was trained on."""

    W_enc: Float[Tensor, "d_sae d_in"]
    b_enc: Float[Tensor, "d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, "d_in"]
    nonlinearity: TopK
    site: Site
    model: ModelReference
    config: SaeConfig | None = None
    metrics: SaeMetrics | None = None

    def __post_init__(self) -> None:
        require_k(self.nonlinearity.k, self.d_sae)

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_dec.shape[0]

    @property
    def d_in(self) -> int:
        """Width of the site."""
        return self.W_dec.shape[1]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The latents of activations, zeros included, in float32."""
        return self.nonlinearity(self._pre(x))

    def encode_sparse(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
        """Values of the latents chosen for each token, in no order, and which they are; 0 did not fire."""
        return self.nonlinearity.sparse(self._pre(x))

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """Activations from all latents."""
        return features @ self.W_dec + self.b_dec

    def decode_sparse(
        self, values: Float[Tensor, "*batch k"], latents: Int[Tensor, "*batch k"]
    ) -> Float[Tensor, "*batch d_in"]:
        """Activations from chosen latents, as `encode_sparse` gives them."""
        k = latents.shape[-1]
        summed = embedding_bag(latents.reshape(-1, k), self.W_dec, per_sample_weights=values.reshape(-1, k), mode="sum")
        return summed.view(*latents.shape[:-1], self.d_in) + self.b_dec

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction of activations, in their own type."""
        return self.decode_sparse(*self.encode_sparse(x)).to(x.dtype)

    def _pre(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise InterpError(f"activations have width {x.shape[-1]}; this SAE reads {self.site}, width {self.d_in}")
        return linear(x.to(self.W_enc.dtype), self.W_enc, self.b_enc)

    def to(self, device: torch.device) -> "SparseAutoencoder":
        """The same on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def require(self, model: HookedModel) -> None:
        """Raise unless this is the model the SAE was trained on."""
        self.model.check(model.reference, "this SAE")

    def save(self, folder: str | Path) -> None:
        """Write the weights and their card into a new folder."""
        with new_folder(folder) as out:
            safetensors.torch.save_file(self.tensors(), out / WEIGHTS)
            made = {"sha256": sha256_file(out / WEIGHTS), "versions": versions()}
            write_json(out / CARD, self.card().model_dump() | made)

    @classmethod
    def load(cls, folder: str | Path) -> "SparseAutoencoder":
        """Read a saved SAE. Raises for a missing, damaged or misshapen one, and for unknown fields."""
        path = Path(folder)
        record = SaeCard.parse(read_json(path / CARD), source=str(path / CARD))
        if not (path / WEIGHTS).is_file() or sha256_file(path / WEIGHTS) != record.sha256:
            raise InterpError(f"{path / WEIGHTS}: missing or damaged (its SHA-256 is not that in {CARD}); restore it")
        return cls.of(record, _read(path / WEIGHTS))

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, on the CPU."""
        return {name: getattr(self, name).cpu().contiguous() for name in _TENSORS}

    def card(self) -> SaeCard:
        """All of it but the tensors."""
        return SaeCard(
            site=str(self.site),
            model=self.model,
            nonlinearity=self.nonlinearity,
            config=self.config,
            metrics=self.metrics,
        )

    @classmethod
    def of(cls, card: SaeCard, tensors: Mapping[str, Tensor]) -> "SparseAutoencoder":
        """The inverse of `card` and `tensors`."""
        return cls(
            **{name: tensors[name] for name in _TENSORS},
            nonlinearity=card.nonlinearity,
            site=Site.parse(card.site),
            model=card.model,
            config=card.config,
            metrics=card.metrics,
        )

    def _repr_html_(self) -> str:
        size = f"{self.d_sae:,} latents, {self.nonlinearity.k} a token, width {self.d_in}"
        measured = [] if self.metrics is None else [(n, f"{v:.4g}") for n, v in self.metrics.model_dump().items()]
        return card(f"SparseAutoencoder at {self.site}", [("model", self.model.name), ("size", size), *measured])


def require_k(k: int, d_sae: int) -> None:
    """Raise unless k latents can be chosen of d_sae."""
    if not 1 <= k <= d_sae:
        raise InterpError(f"k is {k}; expected from 1 to the number of latents, {d_sae}")


def _read(file: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load_file(file)
    except SafetensorError as problem:
        raise InterpError(f"{file}: not a valid safetensors file ({problem})") from None
    if set(tensors) != set(_TENSORS):
        raise InterpError(f"{file}: holds {', '.join(sorted(tensors))}; expected {', '.join(_TENSORS)}")
    d_sae, d_in = tensors["W_dec"].shape
    for name, shape in zip(_TENSORS, [(d_sae, d_in), (d_sae,), (d_sae, d_in), (d_in,)], strict=True):
        if (found := tuple(tensors[name].shape)) != shape:
            raise InterpError(f"{file}: {name} has shape {found}; expected {shape}, to go with W_dec")
    return tensors
