"""How much text is read, and the smallest changes that count, as options that load nothing."""

from pydantic import Field

from interp.core.config import Config


class DriftOptions(Config):
    """How drift is measured.

    Example:
        >>> from interp.upkeep import DriftOptions
        >>> DriftOptions(margin=0.1).tokens
        20000
    """

    field: str = Field("text", description="key or column of the document in the corpus")
    tokens: int = Field(20_000, ge=2, description="most tokens of the corpus that are read")
    context: int = Field(128, ge=2, description="tokens a row; longer documents are split")
    sites: str = Field("resid_post.*", description="sites that are compared: a site or a pattern")
    margin: float = Field(0.05, ge=0, description="change of a behaviour, or of a latent's firing, that does not count")
    shift: float = Field(0.1, ge=0, description="shift along a direction, in standard deviations, that does not count")
    crosscoder: int = Field(256, ge=0, description="latents of a crosscoder of both models; 0 trains none")
    crosscoder_site: str | None = Field(None, description="its site [default: resid_post of the middle layer]")
    examples: int = Field(12, ge=0, description="tokens that are shown where the models differ most")
    seed: int = Field(0, ge=0, description="seed of the items, the intervals and the crosscoder")
