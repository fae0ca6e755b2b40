"""The kinds of autoencoder that are trained: what each does to one pre-activation, and the slopes of its loss.

A kind is written for single entries, the pre-activation u = W_enc x + b_enc of one latent on one token, with the
latent's own parameters. Training calls it on whatever entries matter: the chosen ones alone, or all of them (`step`).

- topk, batchtopk: the k largest of each token, or of a whole batch k times its tokens; value = relu(u).
- standard: value = relu(u), with a penalty on the sum of values.
- jumprelu: value = u where that is above the latent's threshold, with a penalty on how many are; what has no slope is
  given that of a rectangle around the threshold (straight-through).
- gated: value = relu(exp(r) u + b) where u > 0; the penalty is on relu(u), which has to reconstruct, too.

Standard: Bricken et al. (2023), https://transformer-circuits.pub/2023/monosemantic-features. Gated: Rajamanoharan et
al. (2024), https://arxiv.org/abs/2404.16014. JumpReLU: the same (2024), https://arxiv.org/abs/2407.14435. BatchTopK:
Bussmann et al. (2024), https://arxiv.org/abs/2412.06410.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

KindName = Literal["topk", "batchtopk", "standard", "jumprelu", "gated"]
Entries = Float[Tensor, "*entries"]
Own = dict[str, Tensor]  # parameters of each entry's latent
BANDWIDTH = 0.1  # of the rectangle, in units of the standardised input


@runtime_checkable
class Kind(Protocol):
    """See the module. `own` are the latent's parameters beside its rows and bias, by name."""

    @property
    def own(self) -> dict[str, float]:
        """The parameters of a latent beside its rows and bias, and what they start from."""
        ...

    def start(self, level: float) -> tuple[float, dict[str, float]]:
        """The bias and the parameters that every latent starts from, for W_enc x to have to be above this level."""
        ...

    def floor(self, own: Own) -> Float[Tensor, "*latent"]:
        """Below which neither an entry's value nor any of its slopes is other than zero; for each latent or for all."""
        ...

    def value(self, u: Entries, own: Own) -> Entries:
        """The latent's value."""
        ...

    def penalty(self, u: Entries, own: Own) -> Entries:
        """What the entry costs, before the penalty's weight."""
        ...

    def slopes(self, u: Entries, own: Own, pull: Entries, weight: Tensor) -> tuple[Entries, Own]:
        """Slopes of the loss by u and by the latent's parameters, given those by value and by penalty."""
        ...

    def folded(self, rows: Tensor, bias: Tensor, own: Own) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder rows, bias and threshold of the JumpReLU autoencoder that this one is."""
        ...


@final
@dataclass(frozen=True)
class Rectified:
    """A rectified line. For TopK and BatchTopK, where only the chosen entries are given, and for the standard kind."""

    own: dict[str, float] = field(default_factory=dict)

    def start(self, level: float) -> tuple[float, dict[str, float]]:
        """By the bias."""
        return -level, {}

    def floor(self, own: Own) -> Float[Tensor, "*latent"]:
        """Zero."""
        return torch.zeros(())

    def value(self, u: Entries, own: Own) -> Entries:
        """Zero below zero."""
        return u.relu()

    def penalty(self, u: Entries, own: Own) -> Entries:
        """The value."""
        return u.relu()

    def slopes(self, u: Entries, own: Own, pull: Entries, weight: Tensor) -> tuple[Entries, Own]:
        """One where it is positive."""
        return (pull + weight) * (u > 0), {}

    def folded(self, rows: Tensor, bias: Tensor, own: Own) -> tuple[Tensor, Tensor, Tensor]:
        """A threshold of zero."""
        return rows, bias, torch.zeros_like(bias)


@final
@dataclass(frozen=True)
class Jump:
    """JumpReLU. The threshold is kept as a logarithm, so that it stays positive."""

    own: dict[str, float] = field(default_factory=lambda: {"log_threshold": -2.3})

    def start(self, level: float) -> tuple[float, dict[str, float]]:
        """By the threshold."""
        return 0.0, {"log_threshold": math.log(level)}

    def floor(self, own: Own) -> Float[Tensor, "*latent"]:
        """The rectangle's lower edge."""
        return own["log_threshold"].exp() - BANDWIDTH / 2

    def value(self, u: Entries, own: Own) -> Entries:
        """The line above the threshold."""
        return torch.where(u > own["log_threshold"].exp(), u, 0)

    def penalty(self, u: Entries, own: Own) -> Entries:
        """One for each that fires."""
        return (u > own["log_threshold"].exp()).to(u.dtype)

    def slopes(self, u: Entries, own: Own, pull: Entries, weight: Tensor) -> tuple[Entries, Own]:
        """The line's above the threshold; for the threshold, the rectangle's."""
        threshold = own["log_threshold"].exp()
        height = ((u - threshold).abs() < BANDWIDTH / 2) / BANDWIDTH
        # By its logarithm: the threshold is a factor once more.
        return pull * (u > threshold), {"log_threshold": -(threshold * pull + weight) * height * threshold}

    def folded(self, rows: Tensor, bias: Tensor, own: Own) -> tuple[Tensor, Tensor, Tensor]:
        """As it is."""
        return rows, bias, own["log_threshold"].exp()


@final
@dataclass(frozen=True)
class Gated:
    """A gate and a magnitude that share their direction."""

    own: dict[str, float] = field(default_factory=lambda: {"r_mag": 0.0, "b_mag": 0.0})

    def start(self, level: float) -> tuple[float, dict[str, float]]:
        """By the gate's bias, which the magnitude's makes up for."""
        return -level, {"r_mag": 0.0, "b_mag": level}

    def floor(self, own: Own) -> Float[Tensor, "*latent"]:
        """Where the gate opens."""
        return torch.zeros(())

    def value(self, u: Entries, own: Own) -> Entries:
        """The magnitude where the gate is open."""
        return torch.where(u > 0, (own["r_mag"].exp() * u + own["b_mag"]).relu(), 0)

    def penalty(self, u: Entries, own: Own) -> Entries:
        """How far the gate is open."""
        return u.relu()

    def slopes(self, u: Entries, own: Own, pull: Entries, weight: Tensor) -> tuple[Entries, Own]:
        """The magnitude's through the open gate, and the gate's own."""
        growth = own["r_mag"].exp()
        passed = pull * ((u > 0) & (growth * u + own["b_mag"] > 0))
        return passed * growth + weight * (u > 0), {"r_mag": passed * growth * u, "b_mag": passed}

    def folded(self, rows: Tensor, bias: Tensor, own: Own) -> tuple[Tensor, Tensor, Tensor]:
        """The magnitude's rows and bias: the gate is open where the magnitude is above its own bias."""
        growth = own["r_mag"].exp()
        return rows * growth[:, None], bias * growth + own["b_mag"], own["b_mag"].relu()


KINDS: dict[str, Kind] = {
    "topk": Rectified(),
    "batchtopk": Rectified(),
    "standard": Rectified(),
    "jumprelu": Jump(),
    "gated": Gated(),
}
RANKED = ("topk", "batchtopk")
