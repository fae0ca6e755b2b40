"""Early warning: training that goes wrong is stopped, with the last good checkpoint named."""

import math
import statistics
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from interp.core.errors import InterpError
from interp.sae.training.bundle import Bundle
from interp.sae.training.gradients import GradientStep
from interp.sae.training.state import ProgressPoint

_REMEMBERED, _NEEDED = 50, 20  # steps whose median the newest is compared with
_SUSTAINED = 3  # steps in a row


class DivergenceWatch:
    """Looks at each step. What is compared is the variance unexplained: a penalty may grow by design."""

    def __init__(self, bundle: Bundle):
        self._bundle = bundle
        self._past: list[deque[float]] = [deque(maxlen=_REMEMBERED) for _ in bundle.members]
        self._high = [0 for _ in bundle.members]
        self._told = [False for _ in bundle.members]

    def check(self, steps: Sequence[GradientStep], checkpoint: Path | None) -> None:
        """Raise if a loss is not finite, or has been far above its past for some steps."""
        for number, (step, past) in enumerate(zip(steps, self._past, strict=True)):
            config, fvu = self._bundle.members[number].plan.config, float(step.fvu)
            if not math.isfinite(float(step.loss)):
                self._stop(number, f"the loss is {float(step.loss)}", checkpoint)
            high = len(past) >= _NEEDED and fvu > config.spike * statistics.median(past)
            self._high[number] = self._high[number] + 1 if high else 0
            if self._high[number] >= _SUSTAINED:
                usual = statistics.median(past)
                self._stop(number, f"variance unexplained is {fvu:.3g}, after {usual:.3g} before", checkpoint)
            if not high:
                past.append(fvu)

    def point(self, number: int, point: ProgressPoint) -> None:
        """Warn, once, of too many dead latents."""
        config = self._bundle.members[number].plan.config
        if point.dead > config.dead_limit * config.d_sae and not self._told[number]:
            self._told[number] = True
            warnings.warn(
                f"{point.dead:,} of {config.d_sae:,} latents are dead after {point.tokens:,} tokens; lower lr or "
                "d_sae, or raise aux_weight",
                stacklevel=2,
            )

    def _stop(self, number: int, what: str, checkpoint: Path | None) -> None:
        fit = self._bundle.members[number].fit
        last = f"the last good checkpoint is {checkpoint}" if checkpoint else "it has no checkpoint (give a folder)"
        raise InterpError(
            f"training of {self._bundle.members[number].plan.reads} diverged at step {fit.steps}: {what}; choose a "
            f"lower lr than {fit.rate:.2g}; {last}"
        )
