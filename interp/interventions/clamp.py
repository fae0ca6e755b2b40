"""Clamp: hold latents of a sparse autoencoder, leaving its error where it is."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.interventions.ops import Op, finite
from interp.models.reference import ModelReference
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.sae.records import SaeCard


class Clamp(Op):
    """Hold latents of a sparse autoencoder at a value: x -> x + (value - f(x)) · decoder row, for each latent.

    The autoencoder's error stays in place: only the latents' own contribution changes. Replacing x by a
    reconstruction instead would add the error's effect to the edit's. Templeton et al. 2024, "Scaling monosemanticity".
    With a `factor` latents become so many times what they are: suppressed below 1, boosted above.
    """

    def __init__(
        self, sae: SparseAutoencoder, latents: int | list[int], value: float = 0.0, factor: float | None = None
    ):
        self.sae, self._site = sae, sae.site
        self.latents = [latents] if isinstance(latents, int) else list(latents)
        self.value = finite(value, "value")
        self.factor = None if factor is None else finite(factor, "factor")
        if self.value and self.factor is not None:
            raise InterpError(f"value is {value} and factor {factor}; give one of them")
        outside = [latent for latent in self.latents if not 0 <= latent < sae.d_sae]
        if outside or not self.latents:
            raise InterpError(f"latents {self.latents}: expected one or more from 0 to {sae.d_sae - 1}")

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations with the latents' part changed as if they were at the value."""
        if self.sae.W_dec.device != x.device:
            self.sae = self.sae.to(x.device)
        fired = self.sae.encode(x.float())[..., self.latents]
        change = self.value - fired if self.factor is None else (self.factor - 1) * fired
        return x + (change @ self.sae.W_dec[self.latents]).to(x)

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
        how = {"value": self.value, "factor": self.factor}
        return {"latents": self.latents, **how, "sae": self.sae.card().model_dump()}

    def tensors(self) -> dict[str, Tensor]:
        """The autoencoder's tensors."""
        return self.sae.tensors()

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Clamp":
        """The inverse of `settings` and `tensors`."""
        sae = SparseAutoencoder.of(SaeCard.parse(settings["sae"], "the recipe's autoencoder"), tensors)
        return cls(sae, settings["latents"], settings["value"], settings.get("factor"))
