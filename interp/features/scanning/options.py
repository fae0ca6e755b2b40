"""The settings of a scan."""

from pydantic import Field, PositiveInt

from interp.core.config import Config


class ScanOptions(Config):
    """How much of a text is read, and what is kept of it."""

    tokens: PositiveInt | None = Field(None, description="read at most this many tokens [default: all]")
    context: int = Field(128, ge=2, description="tokens per row, where a model reads a text")
    batch_size: PositiveInt = Field(16, description="rows per forward pass")
    chunk: PositiveInt = Field(16384, description="tokens that are held and counted at a time")
    top: PositiveInt = Field(12, description="top examples of each latent, each from a document of its own")
    sampled: int = Field(24, ge=4, description="examples drawn from all firings of each latent, in quarters by value")
    before: int = Field(24, ge=0, description="tokens of context before an example")
    after: int = Field(8, ge=0, description="tokens of context after an example")
    background: int = Field(400, ge=0, description="places drawn from the whole text, with all that fires around them")
    ablate: int = Field(0, ge=0, description="measure the effect on the loss of this many latents, the most active")
    ablation_rows: PositiveInt = Field(8, description="most rows of text for a latent's effect on the loss")
