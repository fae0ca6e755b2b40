"""Several autoencoders in training on one source: which columns of its batches each reads and writes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.columns import SiteColumns, Sites, parse_sites
from interp.activations.stream import ActivationSource
from interp.core.display import Displayed, plural
from interp.core.errors import InterpError
from interp.sae.coder import SparseAutoencoder, require_k
from interp.sae.config import SaeConfig
from interp.sae.training.gradients import GradientStep
from interp.sae.training.latent_shard import LatentShard
from interp.sae.training.standardisation import Standardisation, geometric_median
from interp.sae.training.state import TrainingState

_STANDARDISED_ON = 16
_MEDIAN_OF = 4  # batches


@dataclass(frozen=True)
class TrainingPlan(Displayed):
    """One autoencoder to train.

    Args:
        reads: The site it reads, or several for a crosscoder.
        config: How to train.
        writes: The sites it predicts, for a transcoder; None for those that it reads.

    Example:
        >>> from interp.sae import SaeConfig, TrainingPlan
        >>> TrainingPlan("mlp_in.3", SaeConfig(kind="batchtopk", k=16), writes="mlp_out.3").config.k
        16
    """

    reads: Sites
    config: SaeConfig = field(default_factory=SaeConfig)
    writes: Sites | None = None


class Member:
    """A plan in training, and the columns that it reads and writes."""

    def __init__(
        self,
        plan: TrainingPlan,
        places: Sequence[SiteColumns],
        source: ActivationSource,
        device: str,
        shard: LatentShard,
    ):
        shard.require(plan.config)
        self.plan, self.reads = plan, source.places(plan.reads)
        self.writes = self.reads if plan.writes is None else source.places(plan.writes)
        self._read, self._written = (_columns(side, places) for side in (self.reads, self.writes))
        d_in, d_out = (sum(place.width for place in side) for side in (self.reads, self.writes))
        readers = len(self.reads) if plan.config.layered else 1
        if readers > 1:
            self._require_layers(readers)
        self.fit = TrainingState(plan.config, d_in, None if plan.writes is None else d_out, readers, device, shard)

    def _require_layers(self, readers: int) -> None:
        read, written = ([place.width for place in side] for side in (self.reads, self.writes))
        if len(written) != readers or len(set(read)) > 1 or len(set(written)) > 1:
            places = f"reads {len(read)} places and writes {len(written)}"
            widths = f"of widths {sorted(set(read))} and {sorted(set(written))}"
            raise InterpError(f"a layered transcoder {places}, {widths}; expected as many, each side of one width")
        if self.plan.config.d_sae % readers:
            raise InterpError(f"d_sae is {self.plan.config.d_sae}; expected a multiple of the {readers} layers")

    def update(self, x: Float[Tensor, "batch d_all"], total: int) -> GradientStep:
        """One step on standardised activations of all sites."""
        target = None if self.plan.writes is None else _taken(x, self._written)
        return self.fit.update(_taken(x, self._read), total, target)

    def start(self, x: Float[Tensor, "row d_all"]) -> None:
        """Set the decoder bias to the geometric median."""
        self.fit.weights.b_dec.copy_(geometric_median(_taken(x, self._written)))

    def sae(self, scaling: Standardisation) -> SparseAutoencoder:
        """The autoencoder, for raw activations."""
        tensors, nonlinearity = self.fit.folded(scaling.part(self._read), scaling.part(self._written))
        return SparseAutoencoder(
            **tensors, nonlinearity=nonlinearity, reads=self.reads, writes=self.writes, config=self.plan.config
        )

    def record(self) -> dict[str, Any]:
        """What distinguishes it from other members."""
        sides = {"reads": self.reads, "writes": self.writes}
        named = {name: [str(place) for place in side] for name, side in sides.items()}
        return {**named, "config": self.plan.config.model_dump(mode="json")}


class Bundle:
    """Plans that train on the same batches, drawn with the first plan's seed."""

    def __init__(
        self, source: ActivationSource, plans: Sequence[TrainingPlan], device: str, shard: LatentShard | None = None
    ):
        if not plans:
            raise InterpError("no plans; expected at least one autoencoder to train")
        config = plans[0].config
        for plan in plans:
            _check(plan, config)
        rows = source.trainable()
        if rows is not None and rows < config.batch_size:
            size = config.batch_size
            raise InterpError(f"{source} has {plural(rows, 'token')} to train on; expected a batch of {size} or more")
        self.source, self.device, self.shard = source, device, shard or LatentShard()
        self.batch_size, self.total = config.batch_size, max(1, config.tokens // config.batch_size)
        self._seed = config.seed
        named = [site for plan in plans for side in (plan.reads, plan.writes or ()) for site in parse_sites(side)]
        self._sites = list(dict.fromkeys(named))
        self._places = source.places(self._sites)
        self._widths = tuple(place.width for place in self._places)
        self.members = [Member(plan, self._places, source, device, self.shard) for plan in plans]
        self._scaling: Standardisation | None = None

    @property
    def steps(self) -> int:
        """Steps done."""
        return self.members[0].fit.steps

    @property
    def scaling(self) -> Standardisation:
        """The standardisation of all sites, measured on the first batches."""
        if self._scaling is None:
            batches = islice(self.batches(), _STANDARDISED_ON)
            self._scaling = Standardisation.of(batches, self._widths)
            if not (self._scaling.mean.isfinite() & self._scaling.scale.isfinite()).all():
                raise InterpError(self.blame() or f"{self.source}: activations overflow float32; harvest again")
            self._start()
        return self._scaling

    def _start(self) -> None:
        members = [member for member in self.members if member.plan.config.start == "median"]
        if members:
            x = self.scaling(torch.cat([*islice(self.batches(), _MEDIAN_OF)]))
            for member in members:
                member.start(x)

    def batches(self) -> Iterator[Float[Tensor, "batch d_all"]]:
        """Raw activations of all sites side by side, without end."""
        return self.source.batches(self._sites, self.batch_size, self._seed, first_tokens=False)

    def update(self, x: Float[Tensor, "batch d_all"]) -> list[GradientStep]:
        """One step of each member. Raises if activations are not finite."""
        standard = self.scaling(x.to(self.device))
        steps = [member.update(standard, self.total) for member in self.members]
        if not all(math.isfinite(float(step.loss)) for step in steps) and (blame := self.blame()):
            raise InterpError(blame)
        return steps

    def blame(self) -> str:
        """Where the source holds a NaN or an infinity, empty if nowhere."""
        bad = self.source.first_not_finite(self._sites)
        return f"{self.source}: {bad} holds NaN or infinite activations; harvest again" if bad else ""

    def record(self) -> dict[str, Any]:
        """What a run must share with this one to be continued by it."""
        plans = [member.record() for member in self.members]
        return {"plans": plans, "source": str(self.source), "digest": self.source.digest, "device": self.device}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that continuing from here needs: tensors, and plain values."""
        tensors = {"mean": self.scaling.mean, "scale": self.scaling.scale}
        plain = {}
        for number, member in enumerate(self.members):
            named, plain[str(number)] = member.fit.state()
            tensors |= {f"{number}.{name}": tensor for name, tensor in named.items()}
        return tensors, plain

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self._scaling = Standardisation(tensors["mean"], tensors["scale"], self._widths)
        for number, member in enumerate(self.members):
            named = {name.partition(".")[2]: x for name, x in tensors.items() if name.startswith(f"{number}.")}
            member.fit.restore(named, plain[str(number)])


def _check(plan: TrainingPlan, first: SaeConfig) -> None:
    config = plan.config
    require_k(config.k, config.d_sae)
    for name in ("batch_size", "tokens", "deterministic"):
        if getattr(config, name) != getattr(first, name):
            values = f"{getattr(config, name)} in one plan and {getattr(first, name)} in another"
            raise InterpError(f"{name} is {values}; plans of one pass share their batches, so give all the same")
    if plan.writes is None and (config.skip or config.layered):
        name = "skip" if config.skip else "layered"
        raise InterpError(f"{name} is for transcoders; give the sites that it writes (writes=)")


def _columns(side: Sequence[SiteColumns], places: Sequence[SiteColumns]) -> list[slice]:
    columns, begin = {}, 0
    for place in places:
        columns[str(place)] = slice(begin, begin + place.width)
        begin += place.width
    return [columns[str(place)] for place in side]


def _taken(x: Tensor, columns: Sequence[slice]) -> Tensor:
    """Those columns; adjacent ones are not copied."""
    if all(left.stop == right.start for left, right in pairwise(columns)):
        return x[:, columns[0].start : columns[-1].stop]
    return torch.cat([x[:, part] for part in columns], dim=1)
