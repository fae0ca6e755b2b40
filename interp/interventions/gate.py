"""Gate: an op that acts only where a condition on the activations holds, for each sequence or token by itself.

A condition reads one number of each token's activations, at the op's own site or at an earlier one, and says yes above
a threshold. Decided for a `token`, it holds there. Decided for a `sequence`, it is made once, on its prompt, and holds
for the whole of it and its reply: Lee et al. 2024, "Programming refusal with conditional activation steering",
https://arxiv.org/abs/2409.05907. Sequences of a batch are decided one by one.

How often a gate opens where it should and where it should not is to be measured: `rates`.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.directions.direction import Direction
from interp.interventions.ops import Observer, Op, Vectors, as_tensor, finite, numbers, reference
from interp.interventions.wrapped import Wrapped, inner, only
from interp.models.forward_pass import ForwardPass
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.models.tokens import Prompts
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeCard

Per = Literal["token", "sequence"]
Reduce = Literal["max", "mean", "last"]
_CONDITION = "when."


class Reads:
    """Yes where x · row > threshold; with `cosine`, where the cosine of x and row is."""

    def __init__(self, direction: Vectors, threshold: float, cosine: bool = False):
        row = direction.rows.squeeze(0) if isinstance(direction, Direction) else as_tensor(direction)
        if row.ndim != 1 or not row.any():
            raise InterpError(f"a condition reads one non-zero row (d_model,); got shape {tuple(row.shape)}")
        self.row, self.threshold, self.cosine = numbers(row, "a condition"), finite(threshold, "threshold"), cosine
        self.model = direction.model if isinstance(direction, Direction) else None

    def score(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """What is compared with the threshold."""
        wide = x.float()
        read = wide @ self.row.to(wide)
        return read / (wide.norm(dim=-1) * self.row.norm()).clamp(min=1e-12) if self.cosine else read

    def settings(self) -> dict[str, Any]:
        """Plain values."""
        model = self.model and self.model.model_dump()
        return {"kind": "reads", "threshold": self.threshold, "cosine": self.cosine, "model": model}

    def tensors(self) -> dict[str, Tensor]:
        """The row."""
        return {"row": self.row}


class Fires:
    """Yes where a latent of a sparse autoencoder is above the threshold."""

    def __init__(self, sae: SparseAutoencoder, latent: int, threshold: float = 0.0):
        if not 0 <= latent < sae.d_sae:
            raise InterpError(f"latent {latent} is not there; expected one from 0 to {sae.d_sae - 1}")
        self.sae, self.latent, self.threshold = sae, latent, finite(threshold, "threshold")
        self.model: ModelReference | None = sae.model

    def score(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """The latent's activation."""
        if self.sae.W_dec.device != x.device:
            self.sae = self.sae.to(x.device)
        return self.sae.encode(x.float())[..., self.latent]

    def settings(self) -> dict[str, Any]:
        """Plain values, the autoencoder's among them."""
        card = self.sae.card().model_dump()
        return {"kind": "fires", "threshold": self.threshold, "latent": self.latent, "sae": card}

    def tensors(self) -> dict[str, Tensor]:
        """The autoencoder's."""
        return self.sae.tensors()


GateCondition = Reads | Fires


class Gate(Wrapped):
    """An op where a condition holds. `site` is where the condition reads: the op's own if not given.

    For a `sequence` its prompt's tokens are reduced to the largest score, the mean, or the last token's.
    """

    def __init__(
        self,
        op: Op,
        when: GateCondition,
        per: Per = "sequence",
        reduce: Reduce = "max",
        site: str | Site | None = None,
    ):
        super().__init__(op)
        if per not in ("token", "sequence") or reduce not in ("max", "mean", "last"):
            raise InterpError(
                f"per is {per!r} and reduce {reduce!r}; expected token or sequence, and max, mean or last"
            )
        if not isinstance(when, Reads | Fires):
            raise InterpError(f"{when!r} is no condition; expected Reads(direction, threshold) or Fires(sae, latent)")
        self.when, self.per, self.reduce = when, per, reduce
        own = when.sae.site if isinstance(when, Fires) else None
        self.reads = Site.parse(site) if isinstance(site, str) else site or own

    def within(self, x: Tensor, passing: ForwardPass) -> Tensor:
        """The op where the gate is open, and x elsewhere."""
        if self.reads is None:
            self._note(x, passing)
        opened = passing.notes.get(self)
        if opened is None:
            raise InterpError(f"a gate's condition at {self.reads} was not read before its op; put the op behind it")
        opened = opened.to(x.device)
        return only(opened.expand(x.shape[:2]), self.op.within(x, passing), x) if opened.any() else x

    def observers(self) -> list[tuple[Site, Observer]]:
        """The condition's site."""
        own: list[tuple[Site, Observer]] = [] if self.reads is None else [(self.reads, self._note)]
        return [*own, *self.op.observers()]

    def _note(self, x: Tensor, passing: ForwardPass) -> None:
        """Decide: of these tokens, or, where this is the pass of the prompt, of each sequence."""
        if self.per == "token":
            passing.notes[self] = self.when.score(x) > self.when.threshold
        elif passing.begins:
            passing.notes[self] = (self.score(x, passing.of_prompt) > self.when.threshold)[:, None]

    def score(self, x: Float[Tensor, "batch pos d_model"], real: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch"]:
        """Each sequence's number, over its real tokens."""
        scores, real = self.when.score(x), real.to(x.device)
        if self.reduce == "last":
            last = real.shape[1] - 1 - real.flip(1).int().argmax(1)
            return scores.gather(1, last[:, None])[:, 0]
        if self.reduce == "mean":
            return scores.where(real, 0).sum(1) / real.sum(1)
        return scores.where(real, -torch.inf).amax(1)

    @property
    def model(self) -> ModelReference | None:
        """The op's, or else the condition's."""
        return self.op.model or self.when.model

    def settings(self) -> dict[str, Any]:
        """The condition, how it decides, and the op."""
        how = {"per": self.per, "reduce": self.reduce, "site": self.reads and str(self.reads)}
        return super().settings() | how | {"when": self.when.settings()}

    def tensors(self) -> dict[str, Tensor]:
        """Those of the condition and of the op."""
        return super().tensors() | {_CONDITION + name: x for name, x in self.when.tensors().items()}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Gate":
        """The inverse of `settings` and `tensors`."""
        own = {name.removeprefix(_CONDITION): x for name, x in tensors.items() if name.startswith(_CONDITION)}
        when = _condition(settings["when"], own)
        return cls(inner(settings, tensors), when, settings["per"], settings["reduce"], settings["site"])


@dataclass(frozen=True)
class Rates:
    """How often a gate opened: on prompts where it should, and where it should not; shares of prompts."""

    true_positive: float
    false_positive: float


def rates(
    gate: Gate,
    model: HookedModel,
    positive: Sequence[str],
    negative: Sequence[str],
    site: str | Site | None = None,
) -> Rates:
    """Measure a gate on prompts where it should open and on others; use ones that the threshold was not chosen on.

    `site` is needed where the gate reads at its op's own. Decided for tokens, a prompt counts if any token opens it.
    Warns of a gate that opened always, or never.
    """
    where = gate.reads or site
    if where is None:
        raise InterpError("this gate reads where its op is put; say where that is (site=…)")
    shares = [float(_opened(gate, model, list(side), where).double().mean()) for side in (positive, negative)]
    if min(shares) == 1 or max(shares) == 0:
        how = "always" if min(shares) else "never"
        warnings.warn(
            f"the gate opened {how}: on {shares[0]:.0%} of the positive prompts, on {shares[1]:.0%} of the negative; "
            f"choose another threshold than {gate.when.threshold:g}",
            stacklevel=2,
        )
    return Rates(*shares)


def threshold(
    gate: Gate, model: HookedModel, negative: Sequence[str], false_positive: float, site: str | Site | None = None
) -> float:
    """The threshold above which the gate would open on at most this share of prompts where it should not."""
    where = gate.reads or site
    if where is None or not 0 <= false_positive < 1:
        raise InterpError(f"site is {where} and false_positive {false_positive}; expected a site, and a share below 1")
    scores = _scores(gate, model, list(negative), where).sort(descending=True).values
    return float(scores[int(false_positive * len(scores))])


def _opened(gate: Gate, model: HookedModel, prompts: Prompts, site: str | Site) -> Bool[Tensor, "batch"]:
    return _scores(gate, model, prompts, site) > gate.when.threshold


def _scores(gate: Gate, model: HookedModel, prompts: Prompts, site: str | Site) -> Float[Tensor, "batch"]:
    acts = model.capture(prompts, site)
    x = next(iter(acts.tensors.values()))
    if gate.per == "token":
        return gate.when.score(x).where(acts.tokens.mask.to(x.device), -torch.inf).amax(1)
    return gate.score(x, acts.tokens.mask)


def _condition(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GateCondition:
    if settings["kind"] == "fires":
        sae = SparseAutoencoder.of(SaeCard.parse(settings["sae"], "the gate's autoencoder"), tensors)
        return Fires(sae, settings["latent"], settings["threshold"])
    reads = Reads(tensors["row"], settings["threshold"], settings["cosine"])
    reads.model = reference(settings["model"])
    return reads
