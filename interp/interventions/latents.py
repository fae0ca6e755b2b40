"""Edits of latents: Clamp holds latents of an autoencoder, Suppress turns latents of a transcoder down.

- Clamp: x -> x + (value - f(x)) · decoder row, for each latent
- Suppress: y -> y + (factor - 1) f(x) · decoder row, for each latent, where the transcoder reads x and writes y

A transcoder predicts what an MLP writes from what it reads, so a latent is a share of the MLP's work that can be named.
Suppress takes away that share alone, and the transcoder's error stays: Dunefsky et al. 2024, "Transcoders find
interpretable LLM feature circuits", https://arxiv.org/abs/2406.11944. It folds into weights as neurons of that MLP
(`interp.editing.fold.transcoder_neurons`) where the transcoder reads `mlp_input`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.interventions.op import NUMBER, Observer, Op, finite, part, setting
from interp.models.forward_pass import ForwardPass
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeCard

SAE = part(
    lambda sae: {"sae": sae.card().model_dump()},
    lambda sae: sae.tensors(),
    lambda settings, tensors: SparseAutoencoder.of(SaeCard.parse(settings["sae"], "the recipe's autoencoder"), tensors),
)


def latent_values(record: Any, name: str, x: Tensor, latents: int | list[int]) -> Tensor:
    """Values of some latents on x. The record's autoencoder, its field `name`, moves to the device of x once."""
    if getattr(record, name).W_dec.device != x.device:
        object.__setattr__(record, name, getattr(record, name).to(x.device))
    return getattr(record, name).encode(x.float())[..., latents]


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Clamp(Op):
    """Hold latents of a sparse autoencoder: x -> x + (value - f(x)) · decoder row, for each latent.

    Only the latents' own contribution changes, and the autoencoder's error stays in place. Replacing x by a
    reconstruction would add the effect of that error to the edit. Templeton et al. 2024, "Scaling monosemanticity".

    Args:
        sae: An autoencoder of one site, where the op must be put.
        latents: One latent or several different ones, counted from 0.
        value: What the latents are held at; 0 ablates them.
        scale: Instead of a value: the factor of each latent. Below 1 it suppresses, and above 1 it boosts.

    Raises:
        InterpError: A latent does not exist or is repeated, value and scale are both given, or the autoencoder has
            several sites.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import TopK
        >>> rows, zero = torch.eye(model.d_model), torch.zeros(model.d_model)
        >>> site = (SiteColumns(site="resid_post.1", model=model.reference, width=model.d_model),)
        >>> sae = interp.SparseAutoencoder(rows, zero, rows, zero, TopK(k=2), reads=site, writes=site)
        >>> interp.Clamp(sae, latents=3, value=2.0)(zero)[2:5]
        tensor([0., 2., 0.])
    """

    sae: SparseAutoencoder = field(metadata=SAE)
    latents: list[int]
    value: float = field(metadata=NUMBER)
    scale: float | None = field(
        metadata=setting(lambda value, name: None if value is None else finite(value, name), key="factor", older=None)
    )

    def __init__(
        self, sae: SparseAutoencoder, latents: int | Sequence[int], value: float = 0.0, scale: float | None = None
    ):
        self._declare(sae=sae, latents=_listed(latents), value=value, scale=scale)

    def _check(self) -> None:
        if self.value and self.scale is not None:
            raise InterpError(f"value is {self.value} and scale {self.scale}; give one of them")
        _require_latents(self.latents, self.sae)
        _ = self.site  # raises for an autoencoder of several sites

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations with the contribution of the latents changed to the held value's."""
        values = latent_values(self, "sae", x, self.latents)
        change = self.value - values if self.scale is None else (self.scale - 1) * values
        return x + (change @ self.sae.W_dec[self.latents]).to(x)

    @property
    def width(self) -> int:
        """d_model."""
        return self.sae.d_in

    @property
    def site(self) -> Site:
        """The site that the autoencoder reads."""
        return self.sae.site


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Suppress(Op):
    """Multiply latents of a transcoder by `scale`, at the site that it writes.

    Args:
        transcoder: An autoencoder that reads one site and writes another, where the op must be put.
        latents: One latent or several different ones, counted from 0.
        scale: The factor; 0 ablates the latents.

    Raises:
        InterpError: A latent does not exist or is repeated, or the autoencoder is not a transcoder between two sites.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import TopK
        >>> rows, zero = torch.eye(model.d_model), torch.zeros(model.d_model)
        >>> def at(site):
        ...     return (SiteColumns(site=site, model=model.reference, width=model.d_model),)
        >>> sites = at("mlp_input.3"), at("mlp_out.3")
        >>> transcoder = interp.SparseAutoencoder(rows, zero, rows, zero, TopK(k=2), *sites)
        >>> with model.hooked(interp.Recipe([("mlp_out.3", interp.Suppress(transcoder, latents=17))])):
        ...     logits = model.logits("Hello there.")
    """

    transcoder: SparseAutoencoder = field(metadata=SAE)
    latents: list[int]
    scale: float = field(metadata=setting(finite, key="factor"))

    def __init__(self, transcoder: SparseAutoencoder, latents: int | Sequence[int], scale: float = 0.0):
        self._declare(transcoder=transcoder, latents=_listed(latents), scale=scale)

    def _check(self) -> None:
        coder = self.transcoder
        if len(coder.reads) != 1 or len(coder.writes) != 1 or coder.reads == coder.writes:
            raise InterpError(f"{coder} is not a transcoder between two sites; hold latents of an autoencoder by Clamp")
        _require_latents(self.latents, coder)

    def change(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_model"]:
        """What is added to what the MLP writes, given what the transcoder reads."""
        values = latent_values(self, "transcoder", x, self.latents)
        return (self.scale - 1) * values @ self.transcoder.W_dec[self.latents]

    def __call__(self, x: Tensor) -> Tensor:
        """Raises: only a forward pass knows what the transcoder reads."""
        raise InterpError(f"Suppress has to know what is at {self.reads}; run it in a recipe, by model.hooked")

    def within(self, x: Float[Tensor, "batch pos d_model"], passing: ForwardPass) -> Float[Tensor, "batch pos d_model"]:
        """What is written, with the contribution of the latents changed."""
        change = passing.notes.get(self)
        if change is None:
            raise InterpError(f"{self.reads} was not read before Suppress at {self.site}; put the op after it")
        return x + change.to(x)

    def observers(self) -> list[tuple[Site, Observer]]:
        """The site that the transcoder reads."""
        return [(self.reads, self._note)]

    def _note(self, x: Tensor, passing: ForwardPass) -> None:
        passing.notes[self] = self.change(x.flatten(2))

    @property
    def reads(self) -> Site:
        """The site that the transcoder reads."""
        return Site.parse(self.transcoder.reads[0].site)

    @property
    def width(self) -> int:
        """d_model."""
        return self.transcoder.d_out

    @property
    def site(self) -> Site:
        """The site that the transcoder writes."""
        return Site.parse(self.transcoder.writes[0].site)


def _require_latents(latents: list[int], coder: SparseAutoencoder) -> None:
    known = all(0 <= latent < coder.d_sae for latent in latents)
    if not latents or not known or len(set(latents)) != len(latents):
        raise InterpError(f"latents {latents}: expected one or more different ones from 0 to {coder.d_sae - 1}")


def _listed(latents: int | Sequence[int]) -> list[int]:
    return [latents] if isinstance(latents, int) else list(latents)
