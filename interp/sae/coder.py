"""SparseAutoencoder: activations of a site as few latents out of many, and back.

    latents = nonlinearity(W_enc x + b_enc)        x_hat = W_dec^T latents + b_dec

It reads raw activations: whatever centring and scaling it was trained with is folded into its tensors. So is the kind
it was trained as: a saved autoencoder takes the largest k latents of a token, or those above their thresholds.
Decoder rows have unit norm, so a latent's value is the length it adds to the reconstruction. The first token
of a document is outside its knowledge: models park attention there, with norms far from all others, so
training and measures leave it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import linear

from interp.core.display import card
from interp.core.errors import InterpError
from interp.core.files import new_folder, read_json, sha256_file, write_json
from interp.core.records import versions
from interp.models.hooked import HookedModel
from interp.models.reference import ModelReference
from interp.models.sites import Site
from interp.sae.code import Code
from interp.sae.nonlinearities import JumpReLU, TopK
from interp.sae.records import SaeCard, SaeConfig, SaeMetrics

WEIGHTS = "sae.safetensors"
CARD = "sae.json"
_ROWS = 512
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
_THRESHOLD = "threshold"


@final
@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """See the module. `model` is the one it was trained on; `threshold` comes with JumpReLU alone."""

    W_enc: Float[Tensor, "d_sae d_in"]
    b_enc: Float[Tensor, "d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, "d_in"]
    nonlinearity: TopK | JumpReLU
    site: Site
    model: ModelReference
    config: SaeConfig | None = None
    metrics: SaeMetrics | None = None
    threshold: Float[Tensor, "d_sae"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.nonlinearity, TopK):
            require_k(self.nonlinearity.k, self.d_sae)
        if isinstance(self.nonlinearity, JumpReLU) != (self.threshold is not None):
            raise InterpError(
                f"a {self.nonlinearity.kind} autoencoder and threshold {self.threshold}; "
                "expected a threshold for each latent of a jumprelu one, and none otherwise"
            )
        if self.threshold is not None and not (self.threshold >= 0).all():
            raise InterpError(f"threshold {float(self.threshold.min()):.3g} is below zero; expected zero or more")

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
        return self.encode_sparse(x).dense(self.d_sae).view(*x.shape[:-1], self.d_sae)

    def encode_sparse(self, x: Float[Tensor, "*batch d_in"]) -> Code:
        """The latents that fire on each token, tokens counted through all leading axes."""
        rows = x.reshape(-1, x.shape[-1])
        # A few hundred tokens at a time: all pre-activations at once would be the largest tensor by far.
        parts = [self.nonlinearity.code(self._pre(part), self.threshold) for part in rows.split(_ROWS)]
        return Code.joined(parts)

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """Activations from all latents."""
        return features @ self.W_dec + self.b_dec

    def decode_sparse(self, code: Code) -> Float[Tensor, "token d_in"]:
        """Activations from a code, as `encode_sparse` gives it."""
        return code.decode(self.W_dec) + self.b_dec

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction of activations, in their own type."""
        return self.decode_sparse(self.encode_sparse(x)).view(x.shape).to(x.dtype)

    def _pre(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise InterpError(f"activations have width {x.shape[-1]}; this SAE reads {self.site}, width {self.d_in}")
        return linear(x.to(self.W_enc.dtype), self.W_enc, self.b_enc)

    def to(self, device: torch.device) -> "SparseAutoencoder":
        """The same on another device."""
        return replace(self, **{name: x.to(device) for name, x in self._named().items()})

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
        return {name: x.cpu().contiguous() for name, x in self._named().items()}

    def _named(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _TENSORS}
        return own if self.threshold is None else own | {_THRESHOLD: self.threshold}

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
            threshold=tensors.get(_THRESHOLD),
            nonlinearity=card.nonlinearity,
            site=Site.parse(card.site),
            model=card.model,
            config=card.config,
            metrics=card.metrics,
        )

    def _repr_html_(self) -> str:
        kind = f"{self.nonlinearity.k} a token" if isinstance(self.nonlinearity, TopK) else "above their thresholds"
        size = f"{self.d_sae:,} latents, {kind}, width {self.d_in}"
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
    if set(tensors) - {_THRESHOLD} != set(_TENSORS):
        raise InterpError(f"{file}: holds {', '.join(sorted(tensors))}; expected {', '.join(_TENSORS)}")
    require_shapes(tensors, str(file))
    return tensors


def require_shapes(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise unless an autoencoder's tensors go together, by the name of the one that does not."""
    d_sae, d_in = tensors["W_dec"].shape
    shapes = {"W_enc": (d_sae, d_in), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,), _THRESHOLD: (d_sae,)}
    for name, shape in shapes.items():
        if name in tensors and (found := tuple(tensors[name].shape)) != shape:
            raise InterpError(f"{where}: {name} has shape {found}; expected {shape}, to go with W_dec")
