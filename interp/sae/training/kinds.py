"""The kinds of autoencoder that can be trained: the value of one pre-activation, and the slopes of its loss.

A kind is written for single entries, the pre-activation u = W_enc x + b_enc of one latent on one token, with the
latent's own parameters. Training applies it to the entries that matter: only the chosen ones, or all of them.

- topk, batchtopk: the k largest of each token, or k per token on average over a batch; value = relu(u).
- standard: value = relu(u), with a penalty on the sum of values.
- jumprelu: value = u if that is above the latent's threshold, with a penalty on the number of latents that fire. The
  jump gets the slope of a rectangle around the threshold (straight-through estimator).
- gated: value = relu(exp(r) u + b) if u > 0; the penalty is on relu(u), which has to reconstruct as well.

Standard: Bricken et al. (2023), https://transformer-circuits.pub/2023/monosemantic-features. Gated: Rajamanoharan et
al. (2024), https://arxiv.org/abs/2404.16014. JumpReLU: the same (2024), https://arxiv.org/abs/2407.14435. BatchTopK:
Bussmann et al. (2024), https://arxiv.org/abs/2412.06410.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

KindName = Literal["topk", "batchtopk", "standard", "jumprelu", "gated"]
Entries = Float[Tensor, "*entries"]
Extra = dict[str, Tensor]  # parameters that only one kind has, of each entry's latent
BANDWIDTH = 0.1  # of the rectangle, in units of the standardised input


class Kind(ABC):
    """A kind of latent; `extra` are its parameters in addition to rows and bias, by name, with their initial values."""

    extra: Mapping[str, float] = {}

    @abstractmethod
    def start(self, level: float) -> tuple[float, dict[str, float]]:
        """Initial bias and parameters with which a latent fires if W_enc x exceeds this level."""

    def floor(self, extra: Extra) -> Float[Tensor, "*latent"]:
        """Below this, an entry's value and slopes are zero; one number per latent or for all."""
        return torch.zeros(())

    @abstractmethod
    def value(self, u: Entries, extra: Extra) -> Entries:
        """The latent's value."""

    def penalty(self, u: Entries, extra: Extra) -> Entries:
        """The sparsity penalty of the entry, before its weight."""
        return u.relu()

    @abstractmethod
    def slopes(self, u: Entries, extra: Extra, pull: Entries, weight: Tensor) -> tuple[Entries, Extra]:
        """Slopes of the loss by u and by the parameters, from those by value (`pull`) and by penalty (`weight`)."""

    @abstractmethod
    def folded(self, rows: Tensor, bias: Tensor, extra: Extra) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder rows, bias and threshold of the equivalent JumpReLU autoencoder."""


@final
class Rectified(Kind):
    """A ReLU: for the standard kind, and for TopK and BatchTopK, which apply it to the chosen entries only."""

    def start(self, level: float) -> tuple[float, dict[str, float]]:
        """By the bias."""
        return -level, {}

    def value(self, u: Entries, extra: Extra) -> Entries:
        """Zero below zero."""
        return u.relu()

    def slopes(self, u: Entries, extra: Extra, pull: Entries, weight: Tensor) -> tuple[Entries, Extra]:
        """One where it is positive."""
        return (pull + weight) * (u > 0), {}

    def folded(self, rows: Tensor, bias: Tensor, extra: Extra) -> tuple[Tensor, Tensor, Tensor]:
        """A threshold of zero."""
        return rows, bias, torch.zeros_like(bias)


@final
class Jump(Kind):
    """JumpReLU. The threshold is stored as a logarithm, so that it stays positive."""

    extra: Mapping[str, float] = {"log_threshold": -2.3}

    def start(self, level: float) -> tuple[float, dict[str, float]]:
        """By the threshold."""
        return 0.0, {"log_threshold": math.log(level)}

    def floor(self, extra: Extra) -> Float[Tensor, "*latent"]:
        """The rectangle's lower edge."""
        return extra["log_threshold"].exp() - BANDWIDTH / 2

    def value(self, u: Entries, extra: Extra) -> Entries:
        """The line above the threshold."""
        return torch.where(u > extra["log_threshold"].exp(), u, 0)

    def penalty(self, u: Entries, extra: Extra) -> Entries:
        """1 for each latent that fires."""
        return (u > extra["log_threshold"].exp()).to(u.dtype)

    def slopes(self, u: Entries, extra: Extra, pull: Entries, weight: Tensor) -> tuple[Entries, Extra]:
        """1 above the threshold; for the threshold, the rectangle's."""
        threshold = extra["log_threshold"].exp()
        height = ((u - threshold).abs() < BANDWIDTH / 2) / BANDWIDTH
        # By the logarithm: the threshold is a factor once more.
        return pull * (u > threshold), {"log_threshold": -(threshold * pull + weight) * height * threshold}

    def folded(self, rows: Tensor, bias: Tensor, extra: Extra) -> tuple[Tensor, Tensor, Tensor]:
        """As it is."""
        return rows, bias, extra["log_threshold"].exp()


@final
class Gated(Kind):
    """A gate and a magnitude that share their direction. The floor is where the gate opens; the penalty is how far."""

    extra: Mapping[str, float] = {"r_mag": 0.0, "b_mag": 0.0}

    def start(self, level: float) -> tuple[float, dict[str, float]]:
        """By the gate's bias, for which the magnitude's bias compensates."""
        return -level, {"r_mag": 0.0, "b_mag": level}

    def value(self, u: Entries, extra: Extra) -> Entries:
        """The magnitude where the gate is open."""
        return torch.where(u > 0, (extra["r_mag"].exp() * u + extra["b_mag"]).relu(), 0)

    def slopes(self, u: Entries, extra: Extra, pull: Entries, weight: Tensor) -> tuple[Entries, Extra]:
        """The magnitude's slope through the open gate, and the gate's own."""
        growth = extra["r_mag"].exp()
        passed = pull * ((u > 0) & (growth * u + extra["b_mag"] > 0))
        return passed * growth + weight * (u > 0), {"r_mag": passed * growth * u, "b_mag": passed}

    def folded(self, rows: Tensor, bias: Tensor, extra: Extra) -> tuple[Tensor, Tensor, Tensor]:
        """The magnitude's rows and bias: the gate is open where the magnitude is above its own bias."""
        growth = extra["r_mag"].exp()
        return rows * growth[:, None], bias * growth + extra["b_mag"], extra["b_mag"].relu()


KINDS: dict[str, Kind] = {
    **dict.fromkeys(("topk", "batchtopk", "standard"), Rectified()),
    "jumprelu": Jump(),
    "gated": Gated(),
}
RANKED = ("topk", "batchtopk")
