"""Clamp: hold latents of a sparse autoencoder, leaving its error where it is.

Suppress: turn latents of a transcoder down where it writes, by what it reads.

    y -> y + (factor - 1) f(x) · decoder row, for each latent

A transcoder predicts what an MLP writes from what it reads, so that a latent is a share of the MLP's work that can be
named: what is taken away here is that share, and what the transcoder does not explain stays (Dunefsky et al. 2024,
"Transcoders find interpretable LLM feature circuits", https://arxiv.org/abs/2406.11944). It folds into weights as
neurons of that MLP (`interp.editing.fold.transcoder_neurons`) where the transcoder reads `mlp_input`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.interventions.ops import Observer, Op, finite
from interp.models.forward_pass import ForwardPass
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeCard


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


class Suppress(Op):
    """Make latents of a transcoder `factor` times what they are, at the site that it writes; 0 ablates them.

    >>> Recipe([("mlp_out.3", Suppress(transcoder, 17))])  # doctest: +SKIP
    """

    def __init__(self, transcoder: SparseAutoencoder, latents: int | Sequence[int], factor: float = 0.0):
        if len(transcoder.reads) != 1 or len(transcoder.writes) != 1 or transcoder.reads == transcoder.writes:
            raise InterpError(
                f"{transcoder} is no transcoder from one site to another, which Suppress needs; hold latents of an "
                "autoencoder by Clamp"
            )
        self.transcoder, self.factor = transcoder, finite(factor, "factor")
        self.latents = [latents] if isinstance(latents, int) else list(latents)
        outside = [latent for latent in self.latents if not 0 <= latent < transcoder.d_sae]
        if outside or not self.latents or len(set(self.latents)) < len(self.latents):
            raise InterpError(
                f"latents {self.latents}: expected one or more different ones from 0 to {transcoder.d_sae - 1}"
            )
        self.reads, self._site = (Site.parse(side[0].site) for side in (transcoder.reads, transcoder.writes))

    def change(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_model"]:
        """What is added to what is written, given what is read."""
        if self.transcoder.W_dec.device != x.device:
            self.transcoder = self.transcoder.to(x.device)
        fired = self.transcoder.encode(x.float())[..., self.latents]
        return (self.factor - 1) * fired @ self.transcoder.W_dec[self.latents]

    def __call__(self, x: Tensor) -> Tensor:
        """Raises: what the transcoder reads is known in a forward pass alone."""
        raise InterpError(f"Suppress has to know what is at {self.reads}; run it in a recipe, by model.hooked")

    def within(self, x: Float[Tensor, "batch pos d_model"], passing: ForwardPass) -> Float[Tensor, "batch pos d_model"]:
        """What is written, without the latents' part."""
        change = passing.notes.get(self)
        if change is None:
            raise InterpError(f"{self.reads} was not read before Suppress at {self._site}; put the op behind it")
        return x + change.to(x)

    def observers(self) -> list[tuple[Site, Observer]]:
        """Where the transcoder reads."""
        return [(self.reads, self._note)]

    def _note(self, x: Tensor, passing: ForwardPass) -> None:
        passing.notes[self] = self.change(x.flatten(2))

    @property
    def model(self) -> ModelReference | None:
        """The model that the transcoder was trained on."""
        return self.transcoder.model

    @property
    def width(self) -> int:
        """d_model."""
        return self.transcoder.d_out

    @property
    def site(self) -> Site:
        """Where the transcoder writes."""
        return self._site

    def settings(self) -> dict[str, Any]:
        """Latents and factor, with the transcoder's own settings."""
        return {"latents": self.latents, "factor": self.factor, "sae": self.transcoder.card().model_dump()}

    def tensors(self) -> dict[str, Tensor]:
        """The transcoder's tensors."""
        return self.transcoder.tensors()

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Suppress":
        """The inverse of `settings` and `tensors`."""
        transcoder = SparseAutoencoder.of(SaeCard.parse(settings["sae"], "the recipe's transcoder"), tensors)
        return cls(transcoder, settings["latents"], settings["factor"])
