"""Gate: an op that acts only where a condition on the activations holds, for each sequence or token separately.

A condition reads one number from each token's activations, at the op's own site or at an earlier one, and holds above a
threshold. With `per="token"` it is decided at each token. With `per="sequence"` it is decided once, on the prompt, and
holds for the whole prompt and its reply (Lee et al. 2024, "Programming refusal with conditional activation steering",
https://arxiv.org/abs/2409.05907). The sequences of a batch are decided independently.

`rates` measures how often a gate opens where it should and where it should not; `threshold` chooses the threshold.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.directions.direction import Direction, Vectors, as_tensor
from interp.interventions.latents import SAE, latent_values
from interp.interventions.op import MODEL, NUMBER, TENSOR, Observer, Op, Record, Wrapped, part, setting, within_only
from interp.models.forward_pass import ForwardPass
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder

Per = Literal["token", "sequence"]
Reduce = Literal["max", "mean", "last"]


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Reads(Record):
    """The condition x · row > threshold; with `cosine`, the condition on the cosine of x and the row.

    Args:
        direction: A Direction with a single row, or a non-zero vector (d_model,).
        threshold: The number above which the condition holds.
        cosine: Whether to compare the cosine, which does not depend on the length of x.

    Raises:
        InterpError: There is not exactly one non-zero row, or a number is not finite.

    Example:
        >>> interp.interventions.Reads([2.0, 0.0], threshold=1.0).score(torch.tensor([[3.0, 4.0]]))
        tensor([6.])
    """

    row: Float[Tensor, "d_model"] = field(metadata=TENSOR)
    threshold: float = field(metadata=NUMBER)
    cosine: bool
    model: ModelReference | None = field(metadata=MODEL)

    def __init__(self, direction: Vectors, threshold: float, cosine: bool = False):
        model = direction.model if isinstance(direction, Direction) else None
        self._declare(row=as_tensor(direction), threshold=threshold, cosine=cosine, model=model)

    def _check(self) -> None:
        if self.row.ndim != 1 or not self.row.any():
            raise InterpError(f"a condition reads one non-zero row (d_model,); got shape {tuple(self.row.shape)}")

    def score(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """The number that is compared with the threshold."""
        wide = x.float()
        reading = wide @ self.row.to(wide)
        return reading / (wide.norm(dim=-1) * self.row.norm()).clamp(min=1e-12) if self.cosine else reading


@dataclass(frozen=True, eq=False, repr=False)
class Fires(Record):
    """The condition that a latent of a sparse autoencoder is above the threshold.

    Args:
        sae: An autoencoder.
        latent: The latent, counted from 0.
        threshold: The value above which the condition holds.

    Raises:
        InterpError: The latent does not exist, or the threshold is not finite.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import TopK
        >>> rows, zero = torch.eye(model.d_model), torch.zeros(model.d_model)
        >>> site = (SiteColumns(site="resid_post.1", model=model.reference, width=model.d_model),)
        >>> sae = interp.SparseAutoencoder(rows, zero, rows, zero, TopK(k=2), reads=site, writes=site)
        >>> interp.interventions.Fires(sae, latent=3, threshold=0.5).score(rows[:5])
        tensor([0., 0., 0., 1., 0.])
    """

    sae: SparseAutoencoder = field(metadata=SAE)
    latent: int
    threshold: float = field(default=0.0, metadata=NUMBER)

    def _check(self) -> None:
        if not 0 <= self.latent < self.sae.d_sae:
            raise InterpError(f"latent {self.latent} does not exist; expected one from 0 to {self.sae.d_sae - 1}")

    @property
    def model(self) -> ModelReference | None:
        """The model that the autoencoder was trained on."""
        return self.sae.model

    def score(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """The latent's value."""
        return latent_values(self, "sae", x, self.latent)


GateCondition = Reads | Fires
_KINDS: Mapping[str, type[Reads] | type[Fires]] = {"reads": Reads, "fires": Fires}


_WHEN = part(
    lambda when: {"when": {"kind": type(when).__name__.lower()} | when.settings()},
    lambda when: when.tensors(),
    lambda settings, tensors: _KINDS[settings["when"]["kind"]].restore(settings["when"], tensors),
    "when.",
)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Gate(Wrapped):
    """An op where a condition holds, and nothing elsewhere.

    Args:
        op: The op.
        when: The condition, `Reads` or `Fires`.
        per: Whether it is decided at each `token`, or once for a `sequence`, on its prompt.
        reduce: How the scores of a prompt's tokens make the score of a sequence: the `max`, the `mean`, or the `last`
            token's.
        site: Where the condition reads; by default the autoencoder's site for `Fires`, and the op's own for `Reads`.

    Raises:
        InterpError: An option is unknown, `when` is not a condition, or the op acts on attention (`Knockout`).

    Example:
        >>> row = torch.ones(model.d_model)
        >>> gate = interp.Gate(interp.Project(row), interp.interventions.Reads(row, threshold=2.0), per="token")
        >>> with model.hooked(interp.Recipe([("resid_post.2", gate)])):
        ...     logits = model.logits("Hello there.")
    """

    when: GateCondition = field(metadata=_WHEN)
    per: Per
    reduce: Reduce
    reads: Site | None = field(
        metadata=setting(dump=lambda site: site and str(site), load=lambda name: name and Site.parse(name), key="site")
    )

    def __init__(
        self,
        op: Op,
        when: GateCondition,
        per: Per = "sequence",
        reduce: Reduce = "max",
        site: str | Site | None = None,
    ):
        if isinstance(site, str):
            site = Site.parse(site)
        elif site is None and isinstance(when, Fires):
            site = when.sae.site
        self._declare(op=op, when=when, per=per, reduce=reduce, reads=site)

    def _check(self) -> None:
        if self.per not in ("token", "sequence") or self.reduce not in ("max", "mean", "last"):
            options = f"per is {self.per!r} and reduce {self.reduce!r}"
            raise InterpError(f"{options}; expected token or sequence, and max, mean or last")
        if not isinstance(self.when, Reads | Fires):
            raise InterpError(f"{self.when!r} is not a condition; expected Reads(direction, …) or Fires(sae, …)")

    def within(self, x: Tensor, passing: ForwardPass) -> Tensor:
        """The op where the gate is open, and x elsewhere."""
        if self.reads is None:
            self._note(x, passing)
        opened = passing.notes.get(self._key(passing))
        if opened is None:
            raise InterpError(f"a gate's condition at {self.reads} was not read before its op; put the op after it")
        return within_only(opened.to(x.device).expand(x.shape[:2]), self.op, x, passing)

    def before_norm(self, gain: Float[Tensor, "d_model"]) -> Wrapped:
        """The same around the inner op's. Raises where the condition would read a raw output."""
        if self.reads is None:
            raise InterpError("a gate at a raw output has to read elsewhere; give the site that it reads (site=…)")
        return super().before_norm(gain)

    def observers(self) -> list[tuple[Site, Observer]]:
        """The condition's site, and what the inner op reads."""
        condition: list[tuple[Site, Observer]] = [] if self.reads is None else [(self.reads, self._note)]
        return [*condition, *self.op.observers()]

    def _note(self, x: Tensor, passing: ForwardPass) -> None:
        """Decide for these tokens, or for each sequence if this is the pass of the prompt."""
        if self.per == "token":
            passing.notes[self._key(passing)] = self.when.score(x) > self.when.threshold
        elif passing.reads_prompt("a gate of sequences"):
            passing.notes[self._key(passing)] = (self.score(x, passing.of_prompt) > self.when.threshold)[:, None]

    def _key(self, passing: ForwardPass) -> Any:
        """Where what it decides is noted: for each of its places, if it reads there."""
        return self if self.reads is not None else (self, passing.place)

    def score(self, x: Float[Tensor, "batch pos d_model"], real: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch"]:
        """The score of each sequence, over its real tokens."""
        scores, real = self.when.score(x), real.to(x.device)
        if self.reduce == "last":
            last = real.shape[1] - 1 - real.flip(1).int().argmax(1)
            return scores.gather(1, last[:, None])[:, 0]
        if self.reduce == "mean":
            return scores.where(real, 0).sum(1) / real.sum(1)
        return scores.where(real, -torch.inf).amax(1)


@dataclass(frozen=True)
class Rates(Displayed):
    """How often a gate opened, as shares of prompts.

    Args:
        true_positive: The share of the prompts where it should open.
        false_positive: The share of the prompts where it should not.

    Example:
        >>> interp.interventions.Rates(true_positive=0.95, false_positive=0.02).false_positive
        0.02
    """

    true_positive: float
    false_positive: float


def rates(
    gate: Gate,
    model: HookedModel,
    positive: Sequence[str],
    negative: Sequence[str],
    site: str | Site | None = None,
) -> Rates:
    """Measure a gate on prompts where it should open and on prompts where it should not.

    Use prompts that the threshold was not chosen on. Warns if the gate opens always, or never.

    Args:
        gate: The gate. With `per="token"`, a prompt counts if any of its tokens opens the gate.
        model: The model.
        positive: Prompts where the gate should open.
        negative: Prompts where it should not.
        site: Where the gate reads, if it reads at its op's own site.

    Raises:
        InterpError: The site is not known.

    Example:
        >>> from interp.interventions import Reads, rates
        >>> row = torch.ones(model.d_model)
        >>> gate = interp.Gate(interp.Project(row), Reads(row, threshold=0.0), per="token", site="resid_post.2")
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # two prompts are too few
        ...     measured = rates(gate, model, ["Hello there."], ["My tea is hot."])
    """
    opened = [prompt_scores(gate, model, side, site) > gate.when.threshold for side in (positive, negative)]
    shares = [float(prompts.double().mean()) for prompts in opened]
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
    """The threshold above which a gate opens on at most a given share of prompts where it should not.

    Args:
        gate: The gate; its own threshold does not matter.
        model: The model.
        negative: Prompts where the gate should not open.
        false_positive: The share, below 1.
        site: Where the gate reads, if it reads at its op's own site.

    Raises:
        InterpError: The site is not known, or the share is not from 0 to below 1.

    Example:
        >>> from interp.interventions import Reads, threshold
        >>> row = torch.ones(model.d_model)
        >>> gate = interp.Gate(interp.Project(row), Reads(row, 0.0))
        >>> level = threshold(gate, model, ["Hello there.", "Good day."], 0.5, site="resid_post.2")
        >>> gate = interp.Gate(interp.Project(row), Reads(row, level))
    """
    if not 0 <= false_positive < 1:
        raise InterpError(f"false_positive is {false_positive}; expected a share from 0 to below 1")
    scores = prompt_scores(gate, model, negative, site).sort(descending=True).values
    return float(scores[int(false_positive * len(scores))])


def prompt_scores(
    gate: Gate, model: HookedModel, prompts: Sequence[str], site: str | Site | None
) -> Float[Tensor, "batch"]:
    """The score of each prompt, where the gate reads."""
    where = gate.reads or site
    if where is None:
        raise InterpError("this gate reads at its op's own site; give that site (site=…)")
    acts = model.capture(list(prompts), where, chat=False)
    x = next(iter(acts.tensors.values()))
    if gate.per == "token":
        return gate.when.score(x).where(acts.tokens.mask.to(x.device), -torch.inf).amax(1)
    return gate.score(x, acts.tokens.mask)
