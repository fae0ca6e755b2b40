"""How a model is tuned, as options that load nothing."""

from typing import Literal

from pydantic import Field

from interp.core.config import Config

Method = Literal["sft", "dpo", "kto"]
_RATES: dict[Method, float] = {"sft": 2e-4, "dpo": 1e-5, "kto": 1e-5}  # ten times TRL's for all weights


class TuningOptions(Config):
    """How a LoRA adapter is trained.

    Example:
        >>> from interp.upkeep import TuningOptions
        >>> TuningOptions(rank=8).rate("dpo")
        1e-05
    """

    rank: int = Field(16, ge=1, description="rank of the adapter, in every linear layer but the unembedding")
    alpha: float | None = Field(None, gt=0, description="the adapter is scaled by alpha / rank [default: twice rank]")
    lr: float | None = Field(
        None, gt=0, description="learning rate of the first step, which falls to zero [default: sft 2e-4, others 1e-5]"
    )
    epochs: float = Field(1.0, gt=0, description="passes over the data")
    steps: int | None = Field(None, ge=1, description="number of steps, in place of epochs")
    batch: int = Field(8, ge=1, description="rows of a step; kto needs at least 2")
    beta: float = Field(0.1, gt=0, description="dpo and kto: how strongly the model is held to what it was")
    length: int = Field(1024, ge=2, description="most tokens of a row; longer ones lose their end")
    save_every: int = Field(100, ge=1, description="steps between checkpoints, from which a killed run continues")
    seed: int = Field(0, ge=0, description="seed of the adapter and of the order of rows")

    def rate(self, method: Method) -> float:
        """The learning rate of a method."""
        return self.lr or _RATES[method]
