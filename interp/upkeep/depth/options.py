"""How deep is looked, as options that load nothing."""

from pydantic import Field

from interp.core.config import Config


class DepthOptions(Config):
    """The budgets of the attempts to recover a harm.

    Example:
        >>> from interp.upkeep import DepthOptions
        >>> DepthOptions(steps=24).schedule
        (1, 2, 4, 8, 16, 24)
    """

    steps: int = Field(64, ge=1, description="most steps of relearning; its rate is measured at 1, 2, 4, 8 and so on")
    lr: float = Field(1e-4, gt=0, description="learning rate of relearning (Adam, all weights, constant)")
    batch: int = Field(16, ge=1, description="documents of a step")
    soft_tokens: int = Field(8, ge=1, description="tokens of the soft prompt")
    soft_steps: int = Field(100, ge=1, description="steps of its training")
    soft_lr: float = Field(0.3, gt=0, description="its learning rate, in units of a typical embedding's entries")
    group: int = Field(64, ge=1, description="weights that share a scale when rounded to 4 bits")
    seed: int = Field(0, ge=0, description="seed of the halves, the probes and the training")

    @property
    def schedule(self) -> tuple[int, ...]:
        """The steps at which relearning is measured."""
        return (*(2**power for power in range(self.steps.bit_length()) if 2**power < self.steps), self.steps)
