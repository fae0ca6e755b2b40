"""Train sparse autoencoders of any kind on activations, from a store or a stream.

1. Activations are standardised: each site has one mean vector and one scale, so that learning rates carry over between
   sites. Both are folded into the result. First tokens of documents are left out (see `coder`).
2. Each batch takes one Adam step on gradients derived by hand (`gradients`). The learning rate rises, stays level, and
   falls to zero. Decoder gradients are made tangent to the unit sphere and rows are normalised again, so that a step
   only turns them.
3. Latents that have not fired for long get the auxiliary loss of Gao et al. (2024),
   https://arxiv.org/abs/2406.04093.
4. With a run folder (`run_folder`) training can be killed at any moment and continued, to the same bits.
5. Training that diverges stops, and the error names the last good checkpoint.

The same source and config give the same result on the same machine with the same number of threads.
"""

import math
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.columns import Sites
from interp.activations.stream import ActivationSource
from interp.core.display import Card, Displayed, displayed, plural
from interp.core.errors import InterpError, note, on_interrupt
from interp.core.progress import start_run, track
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.training.bundle import Bundle, Member, TrainingPlan
from interp.sae.training.gradients import GradientStep
from interp.sae.training.latent_shard import LatentShard
from interp.sae.training.run_folder import TrainingReport, TrainingRun
from interp.sae.training.state import ProgressPoint

_CHECKPOINT_EVERY = 500
_REMEMBERED, _NEEDED = 50, 20  # steps whose median the newest is compared with
_SUSTAINED = 3  # steps in a row

Callback = Callable[[TrainingReport], None]


@dataclass(frozen=True, eq=False)
class TrainedSae(Displayed):
    """A trained autoencoder and the course of its training.

    Attributes:
        sae: The autoencoder.
        history: About 50 points of progress.
        density: Share of tokens on which each latent fires, in the last fifth of the steps.
    """

    sae: SparseAutoencoder
    history: tuple[ProgressPoint, ...]
    density: Float[Tensor, "d_sae"]

    def _card(self) -> Card:
        last, latents = self.history[-1], self.sae.d_sae
        rows = [("tokens", f"{last.tokens:,}"), ("FVU", f"{last.fvu:.3f}", "0 is perfect, 1 no better than the mean")]
        dead = ("dead latents", f"{last.dead:,}", f"of {plural(latents, 'latent')}; 0 is best")
        return str(self.sae), [*rows, ("L0", f"{last.l0:.1f}", "latents per token"), dead]


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
    overwrite: bool = False,
) -> TrainedSae:
    """Train one autoencoder, or a crosscoder on several sites, or a transcoder from some sites to others.

    `train_all` trains several in one pass over the source. `finetune` trains a result further, on the model's output.

    Args:
        source: A `Store`, a `Stream` or a `PairedStore`.
        site: The site it reads, such as "resid_post.3". Several sites make it a crosscoder.
        config: How to train; the defaults of `SaeConfig` if None.
        writes: The sites that a transcoder predicts; None for an autoencoder.
        folder: A run folder, from which a training that was stopped continues; None keeps nothing on disk.
        checkpoint_every: Steps between checkpoints in the folder.
        callbacks: Called with a `TrainingReport` at each point of progress; see `tracker`.
        device: Where to train, such as "cuda".
        overwrite: Start anew in a folder that holds an earlier run, which is removed.

    Returns:
        The autoencoder, for raw activations, and its history.

    Raises:
        InterpError: As `train_all` does.

    Example:
        >>> from interp.activations import Stream
        >>> from interp.sae import SaeConfig, train
        >>> stream = Stream(model, ["The baker sold bread to the doctor."] * 40, "resid_post.1", context=16)
        >>> train(stream, "resid_post.1", SaeConfig(d_sae=32, k=2, batch_size=64, tokens=640)).sae
        <autoencoder of resid_post.1: 32 latents, kind='topk' k=2, width 192>
    """
    plan = TrainingPlan(site, config or SaeConfig(), writes)
    return train_all(source, [plan], folder, checkpoint_every, callbacks, device, overwrite)[0]


def train_all(
    source: ActivationSource,
    plans: Sequence[TrainingPlan],
    folder: str | Path | None = None,
    checkpoint_every: int = _CHECKPOINT_EVERY,
    callbacks: Sequence[Callback] = (),
    device: str = "cpu",
    overwrite: bool = False,
    shard: LatentShard | None = None,
) -> list[TrainedSae]:
    """Train several autoencoders in one pass over a source; sites, widths and kinds may differ.

    For a single one, call `train`, which is `train_all` of one plan.

    Args:
        source: As for `train`.
        plans: What to train. All plans share the batch size, the number of tokens and `deterministic`; batches are
            drawn with the first plan's seed.
        folder: Keeps settings, metrics, checkpoints and the autoencoders. A run that was stopped continues when called
            again with the same settings; a finished one is read.
        checkpoint_every: Steps between checkpoints.
        callbacks: Called with a `TrainingReport` at each new point of progress. A callback whose attribute `replays` is
            true, such as `LiveCurves`, also gets the stored points of a run that is continued or read.
        device: Where to train.
        overwrite: Start anew in a folder that holds an earlier run, which is removed once the plans fit the source.
        shard: This process's part of the latents, where several processes train together (`process_group`).

    Returns:
        One result per plan, in their order; of several processes, the first has them and the others none.

    Raises:
        InterpError: A site is missing, k does not fit, plans do not share their batches, the source has fewer tokens
            than a batch, activations are constant or not finite (shard and row are named), the folder has other
            settings or is in use, or training diverges (the last checkpoint is named).

    Example:
        >>> from interp.activations import Stream
        >>> from interp.sae import SaeConfig, TrainingPlan, train_all
        >>> stream = Stream(model, ["The baker sold bread to the doctor."] * 40, ["resid_post.1", "mlp_out.1"])
        >>> config = SaeConfig(d_sae=32, k=2, batch_size=64, tokens=128)
        >>> plans = [TrainingPlan("resid_post.1", config), TrainingPlan("resid_post.1", config, writes="mlp_out.1")]
        >>> [str(trained.sae) for trained in train_all(stream, plans)]
        ['autoencoder of resid_post.1', 'transcoder from resid_post.1 to mlp_out.1']
    """
    bundle = Bundle(source, plans, device, shard)
    if folder is None:
        with on_interrupt("nothing of the training is kept; with folder=… the same call would continue it"):
            return _train(bundle, None, callbacks)
    going_on = f"the same call{' without overwrite' if overwrite else ''} continues from the newest checkpoint"
    with (
        on_interrupt(f"{going_on} in {folder}"),
        TrainingRun.opened(folder, bundle.record(), checkpoint_every, overwrite, shard) as run,
    ):
        return _train(bundle, run, callbacks)


def _train(bundle: Bundle, run: TrainingRun | None, callbacks: Sequence[Callback]) -> list[TrainedSae]:
    if run is not None and (state := run.latest()):
        bundle.restore(*state)
        _replay(bundle, callbacks)
    if bundle.steps < bundle.total:
        with _determinism(bundle.members[0].plan.config.deterministic):
            _steps(bundle, run, callbacks)
    elif run is not None and not bundle.shard.rank:
        note(f"opened the finished run in {run.folder}; overwrite=True trains anew")
    trained = [
        TrainedSae(member.sae(bundle.scaling), tuple(member.fit.history), member.fit.density)
        for member in bundle.members
    ]
    if bundle.shard.rank:
        return []
    if run is not None:
        run.finish([result.sae for result in trained])
    return displayed(trained)


def _replay(bundle: Bundle, callbacks: Sequence[Callback]) -> None:
    """Give the points of earlier calls to the callbacks that have a true attribute `replays`."""
    points = [(number, point) for number, member in enumerate(bundle.members) for point in member.fit.history]
    for index, (number, point) in enumerate(points, 1):
        last = index == len(points) and bundle.steps == bundle.total
        report = TrainingReport(number, point, point.tokens // bundle.batch_size, bundle.total, 0.0, last)
        for callback in callbacks:
            if getattr(callback, "replays", False):
                callback(report)


def _steps(bundle: Bundle, run: TrainingRun | None, callbacks: Sequence[Callback]) -> None:
    """Take the steps that are left, from the batch that comes next."""
    watches, first, began = [_DivergenceWatch(member) for member in bundle.members], bundle.steps, 0.0
    batches = islice(bundle.batches(), first, bundle.total)
    tokens = (bundle.total - first) * bundle.batch_size
    for x in track(batches, "train", total=tokens, size=bundle.batch_size, unit="tokens"):
        began = began or time.perf_counter()
        known = [len(member.fit.history) for member in bundle.members]
        checkpoint = None if run is None else run.last_checkpoint()
        for watch, step in zip(watches, bundle.update(x), strict=True):
            watch.check(step, checkpoint)
        rate = (bundle.steps - first) * bundle.batch_size / (time.perf_counter() - began)
        for number, member in enumerate(bundle.members):
            for point in member.fit.history[known[number] :]:
                watches[number].point(point)
                last = bundle.steps == bundle.total and number == len(bundle.members) - 1
                report = TrainingReport(number, point, bundle.steps, bundle.total, rate, last)
                for callback in (*callbacks, *([] if run is None else [run.note])):
                    callback(report)
        if run is not None and (bundle.steps % run.every == 0 or bundle.steps == bundle.total):
            run.checkpoint(bundle.steps, *bundle.state())


@contextmanager
def _determinism(required: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(required or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class _DivergenceWatch:
    """Stops a training that goes wrong. Compares the variance unexplained: a penalty may grow by design."""

    def __init__(self, member: Member):
        self._fit, self._config, self._reads = member.fit, member.plan.config, member.plan.reads
        self._past: deque[float] = deque(maxlen=_REMEMBERED)
        self._high, self._warned = 0, False

    def check(self, step: GradientStep, checkpoint: Path | None) -> None:
        """Raise if the loss is not finite, or the variance unexplained has been far above its past for some steps."""
        fvu, past = float(step.fvu), self._past
        if not math.isfinite(float(step.loss)):
            self._stop(f"the loss is {float(step.loss)}", checkpoint)
        high = len(past) >= _NEEDED and fvu > self._config.spike * statistics.median(past)
        self._high = self._high + 1 if high else 0
        if self._high >= _SUSTAINED:
            self._stop(f"variance unexplained is {fvu:.3g}, after {statistics.median(past):.3g} before", checkpoint)
        if not high:
            past.append(fvu)

    def point(self, point: ProgressPoint) -> None:
        """Warn, once, about too many dead latents."""
        d_sae = self._config.d_sae
        if point.dead > self._config.dead_limit * d_sae and not self._warned and not self._fit.shard.rank:
            self._warned = True
            warnings.warn(
                f"{point.dead:,} of {d_sae:,} latents are dead after {point.tokens:,} tokens; lower lr or d_sae, or "
                "raise aux_weight",
                stacklevel=2,
            )

    def _stop(self, what: str, checkpoint: Path | None) -> None:
        last = f"the last good checkpoint is {checkpoint}" if checkpoint else "it has no checkpoint (give a folder)"
        diverged = f"training of {self._reads} diverged at step {self._fit.steps}: {what}"
        raise InterpError(f"{diverged}; choose a lower lr than {self._fit.rate:.2g}; {last}")


def tracker(name: Literal["trackio", "wandb"], /, project: str, **options: Any) -> Callback:
    """A callback for `train` that logs each point on a dashboard and ends its run with the last step.

    Args:
        name: The package to log with. Both have the same interface.
        project: The dashboard's project.
        options: Further arguments of the package's `init`, such as `name` or `config`.

    Raises:
        InterpError: The package is not installed.

    Example:
        >>> from interp.sae import tracker
        >>> train(stream, "resid_post.1", callbacks=[tracker("wandb", "saes")])  # doctest: +SKIP
    """
    package = start_run(name, project, **options)

    def callback(report: TrainingReport) -> None:
        values = asdict(report.point) | {"tokens_per_second": report.tokens_per_second}
        package.log({f"sae-{report.number}/{key}": value for key, value in values.items()}, step=report.step)
        if report.last:
            package.finish()

    return callback
