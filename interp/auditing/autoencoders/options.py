"""The settings of an autoencoder's bench."""

from typing import Literal

from pydantic import Field, PositiveInt

from interp.core.config import Config

PartName = Literal["reconstruction", "probing", "absorption", "disentangling", "unlearning", "descriptions"]
PARTS: tuple[PartName, ...] = ("reconstruction", "probing", "absorption", "disentangling", "unlearning", "descriptions")


class BenchOptions(Config):
    """What is measured, and on how much.

    Example:
        >>> from interp.auditing.autoencoders.options import BenchOptions
        >>> BenchOptions().quick().seeds
        1
    """

    parts: tuple[PartName, ...] | None = Field(
        None,
        strict=False,
        description=f"what to measure: {', '.join(PARTS)}; may be repeated [default: all that apply]",
    )
    tokens: PositiveInt = Field(20_000, description="held-out tokens for losses and reconstruction")
    items: int = Field(200, ge=8, description="texts of each class in a labelled set, and questions of facts")
    ks: tuple[int, ...] = Field((1, 2, 5), strict=False, description="latents of a sparse probe; may be repeated")
    described: PositiveInt = Field(20, description="latents of each dictionary that a machine describes")
    seeds: PositiveInt = Field(3, description="seeds of each random control")
    control_tokens: PositiveInt | None = Field(
        None, description="tokens that controls train on [default: as many as the autoencoder, or 1,000,000]"
    )
    seed: int = Field(0, ge=0, description="seed of the controls and of the built-in sets")

    def quick(self) -> "BenchOptions":
        """The same on little: a look, not a result."""
        few = {"tokens": 2000, "items": 40, "described": 5, "seeds": 1, "control_tokens": 20_000}
        return self.model_copy(update={key: min(getattr(self, key) or most, most) for key, most in few.items()})
