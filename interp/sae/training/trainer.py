"""Train sparse autoencoders of any kind on activations, from a store or a stream.

1. Activations are standardised, each place by one mean vector and one scale, so that learning rates carry over between
   sites; both are folded into the result. First tokens of documents are left out (see `coder`).
2. Each batch takes one Adam step on hand-made gradients (`step`): learning rate warmed up, held, and brought
   to zero. Decoder gradients are made tangent to the unit sphere and rows renormalised, so that steps turn
   rows and no more.
3. Latents that have not fired for long get the auxiliary loss of Gao et al. (2024),
   https://arxiv.org/abs/2406.04093.
4. In a run folder (`run`) training can be killed at any moment and continued, to the same bits.

The same source and config give the same result on the same machine with the same number of threads.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.columns import Sites
from interp.activations.stream import ActivationSource
from interp.core.display import html_card
from interp.core.progress import track
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.training.bundle import Bundle, TrainingPlan
from interp.sae.training.run_folder import TrainingReport, TrainingRun
from interp.sae.training.state import ProgressPoint
from interp.sae.training.watch import DivergenceWatch

_CHECKPOINT_EVERY = 500


Callback = Callable[[TrainingReport], None]


@dataclass(frozen=True, eq=False, repr=False)
class TrainedSae:
    """An SAE and how training went. `density` is each latent's share of tokens, in the last fifth."""

    sae: SparseAutoencoder
    history: tuple[ProgressPoint, ...]
    density: Float[Tensor, "d_sae"]

    def __repr__(self) -> str:
        return f"TrainedSae({self.sae!r}, {self.history[-1]})"

    def _repr_html_(self) -> str:
        last = self.history[-1]
        rows = [
            ("tokens", f"{last.tokens:,}"),
            ("variance unexplained", f"{last.fvu:.3f}"),
            ("latents a token", f"{last.l0:.1f}"),
            ("dead latents", last.dead),
        ]
        return html_card(f"Training of {self.sae.d_sae:,} latents, {self.sae}", rows)


def train(
    source: ActivationSource,
    site: Sites,
    config: SaeConfig | None = None,
    *,
    writes: Sites | None = None,
    folder: str | Path | None = None,
    checkpoint_every: int = _CHECKPOINT_EVERY,
    callbacks: Sequence[Callback] = (),
    device: str = "cpu",
) -> TrainedSae:
    """Train one autoencoder, a crosscoder on several sites, or a transcoder to other ones; see `train_all`."""
    plan = TrainingPlan(site, config or SaeConfig(), writes)
    return train_all(source, [plan], folder, checkpoint_every, callbacks, device)[0]


def train_all(
    source: ActivationSource,
    plans: Sequence[TrainingPlan],
    folder: str | Path | None = None,
    checkpoint_every: int = _CHECKPOINT_EVERY,
    callbacks: Sequence[Callback] = (),
    device: str = "cpu",
) -> list[TrainedSae]:
    """Train several autoencoders in one pass over a source; sites, widths and kinds may differ.

    With a `folder` the run is kept there: its settings, metrics as they come, a checkpoint every so many steps, and the
    autoencoders. A run that was stopped is continued when called again with the same settings, and a finished one is
    read. Callbacks are called at each new point.

    Raises for sites that are not there, a k that does not fit, plans that do not go together, a store of fewer tokens
    than a batch, activations that are constant, NaN or infinite (naming shard and row), a folder of other settings,
    and a training that diverges (naming the last checkpoint).
    """
    bundle = Bundle(source, plans, device)
    run = None if folder is None else TrainingRun.open(folder, bundle.record(), checkpoint_every)
    if run is not None and (state := run.latest()):
        bundle.restore(*state)
    if bundle.steps < bundle.total:
        with _determinism(plans[0].config.deterministic):
            _steps(bundle, run, callbacks)
    found = [
        TrainedSae(member.sae(bundle.scaling), tuple(member.fit.history), member.fit.density)
        for member in bundle.members
    ]
    if run is not None:
        run.finish([one.sae for one in found])
    return found


def _steps(bundle: Bundle, run: TrainingRun | None, callbacks: Sequence[Callback]) -> None:
    """Step until all are done, from the batch that comes next."""
    watch, first, begun = DivergenceWatch(bundle), bundle.steps, 0.0
    batches = islice(bundle.batches(), first, bundle.total)
    for x in track(batches, "train", total=bundle.total - first, size=bundle.batch_size, unit="tokens"):
        begun = begun or time.perf_counter()
        known = [len(member.fit.history) for member in bundle.members]
        watch.check(bundle.update(x), None if run is None else run.last_checkpoint())
        rate = (bundle.steps - first) * bundle.batch_size / (time.perf_counter() - begun)
        for number, member in enumerate(bundle.members):
            for point in member.fit.history[known[number] :]:
                watch.point(number, point)
                last = bundle.steps == bundle.total and number == len(bundle.members) - 1
                report = TrainingReport(number, point, bundle.steps, bundle.total, rate, last)
                for told in (*callbacks, *([] if run is None else [run.note])):
                    told(report)
        if run is not None and (bundle.steps % run.every == 0 or bundle.steps == bundle.total):
            run.checkpoint(bundle.steps, *bundle.state())


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
