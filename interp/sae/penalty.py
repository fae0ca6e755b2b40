"""The weight of a sparsity penalty, steered so that a given number of latents fire on a token."""

import math
from typing import Any

_INTEGRAL = 0.02  # a step, on logarithms
_PROPORTIONAL = 1.5
_RAMP = 0.3  # share of the steps in which the target sinks


class SteeredPenalty:
    """A proportional and integral controller on logarithms.

    The target sinks from what fires at first to k. Were it k at once, the penalty would rise for as long as the first
    latents are many, and most would be dead before it falls again. The proportional part gives way at once where too
    few fire, long before the integral has come down. The integral is bounded below, for where fewer than k fire without
    any penalty: it would fall for ever, and be gone when it is needed.
    """

    def __init__(self, k: int, d_in: int, per_latent: bool):
        """`per_latent` says that the penalty counts latents; else it adds up their values."""
        # About a tenth of the variance, were k latents of one size to explain it all.
        self.weight = 0.1 / k if per_latent else 0.1 / (k * d_in) ** 0.5
        self.k, self._integral, self._least = k, math.log(self.weight), math.log(self.weight / 1000)
        self._first: float | None = None

    def update(self, l0: float, share: float) -> None:
        """Take notice of a batch's mean number of latents, at this share of the steps."""
        self._first = max(l0, self.k) if self._first is None else self._first
        ahead = max(0.0, 1 - share / _RAMP)
        target = (1 - ahead) * math.log(self.k) + ahead * math.log(self._first)
        error = max(-1.0, min(1.0, math.log(max(l0, 1e-3)) - target))
        self._integral = max(self._least, self._integral + _INTEGRAL * error)
        self.weight = math.exp(self._integral + _PROPORTIONAL * error)

    def state(self) -> dict[str, float | None]:
        """What another controller needs to go on from here."""
        return {"weight": self.weight, "integral": self._integral, "first": self._first}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from another's `state`."""
        self.weight, self._integral, self._first = state["weight"], state["integral"], state["first"]
