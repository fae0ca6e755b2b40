"""How to harvest. The command line shows these settings, so this module does not import torch."""

from typing import Literal

from pydantic import Field, PositiveInt

from interp.core.config import Config
from interp.data.corpora import Keep


class HarvestConfig(Config):
    """How to harvest.

    Example:
        >>> from interp.activations import HarvestConfig
        >>> HarvestConfig(keep="inner").dtype
        'float32'
    """

    context: int = Field(default=128, ge=2, description="tokens per row, where longer documents are split")
    batch_size: PositiveInt = Field(default=16, description="rows per forward pass; halved if memory does not suffice")
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = Field(
        default="float32",
        description="dtype of the stored activations: float32, bfloat16, float16 or int8 (whole numbers with one scale "
        "per token and site)",
    )
    shard_tokens: PositiveInt = Field(default=65536, description="most tokens per shard; a shard holds whole rows")
    keep: Keep = Field(
        default="all",
        description="tokens to store: all, inner (not the first of a document or piece) or assistant (its words)",
    )
    bos_first: bool = Field(default=True, description="begin each text with what began a document of pretraining")
