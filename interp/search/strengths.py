"""How strongly an edit acts at each site: one number, a smooth kernel over layers, or one for each kind of writer."""

from collections.abc import Iterable
from math import cos, pi
from typing import Annotated

from pydantic import Discriminator, Field, Tag

from interp.core.config import Config
from interp.core.errors import InterpError
from interp.models.sites import Site

_EMBEDDING = -1  # the layer that the embeddings count as
Number = Annotated[float, Field(allow_inf_nan=False)]
_WRITERS = {"embed": "embed", "pos_embed": "embed", "attn_out": "attn", "mlp_out": "mlp"}


class Kernel(Config):
    """A smooth bump over layers: height · (1 + cos(π d / width)) / 2 at a distance d below the width, and 0 beyond.

    The embeddings count as layer -1.

    Example:
        >>> kernel = interp.search.Kernel(centre=12, width=4, height=0.8)
        >>> [round(kernel.at(layer), 3) for layer in (8, 10, 12, 14, 16)]
        [0.0, 0.4, 0.8, 0.4, 0.0]
    """

    centre: Number = Field(description="layer of the full strength, also between two layers")
    width: Number = Field(gt=0, description="distance in layers at which nothing is left")
    height: Number = Field(1.0, description="strength at the centre")

    def at(self, layer: int | float) -> float:
        """The strength at a layer."""
        distance = abs(layer - self.centre) / self.width
        # Rounded, so that layers at one distance have one strength.
        return round(self.height * (1 + cos(pi * distance)) / 2, 12) if distance < 1 else 0.0


def _kind(value: object) -> str:
    """Which kind of strength plain data or a record is, so that an error is about that kind alone."""
    if isinstance(value, dict):
        return "WriterStrengths" if value.keys() & {*_WRITERS.values()} else "Kernel"
    return type(value).__name__ if isinstance(value, Config) else "number"


_Constant = Annotated[Number, Tag("number")]
_Bump = Annotated[Kernel, Tag("Kernel")]
Level = Annotated[_Constant | _Bump, Discriminator(_kind)]


class WriterStrengths(Config):
    """A strength for each kind of writer of the residual stream: a number or a kernel over layers.

    Example:
        >>> strengths = interp.search.WriterStrengths(attn=0.2, mlp=0.8)
        >>> strengths.embed
        0.0
    """

    attn: Level = Field(0.0, description="at the outputs of attention")
    mlp: Level = Field(0.0, description="at the outputs of MLPs")
    embed: Level = Field(0.0, description="at the embeddings")


Strength = Annotated[_Constant | _Bump | Annotated[WriterStrengths, Tag("WriterStrengths")], Discriminator(_kind)]


def strength_at(strength: Strength, site: Site) -> float:
    """The strength at one site. Raises for strengths by writer at another kind of site."""
    if isinstance(strength, WriterStrengths):
        if site.normed.kind not in _WRITERS:
            raise InterpError(f"strength is given by kind of writer, but {site} is none; give one number or kernel")
        level: Level = getattr(strength, _WRITERS[site.normed.kind])
        return strength_at(level, site)
    return strength.at(_EMBEDDING if site.layer is None else site.layer) if isinstance(strength, Kernel) else strength


def by_strength(strength: Strength, sites: Iterable[Site]) -> dict[float, list[Site]]:
    """The sites by their strength; those of strength 0 only where no site has another."""
    groups: dict[float, list[Site]] = {}
    for site in sites:
        groups.setdefault(float(strength_at(strength, site)), []).append(site)
    acting = {number: places for number, places in groups.items() if number}
    return acting or groups
