"""The trials of a sweep: Optuna's journal in the sweep's folder, and what each trial recorded.

Every trial has one record in the journal: its recipe as plain data, the score of each item, and why it stopped or
failed. One process asks for trials and tells how they end; others may read. The system releases the journal's lock when
a process is killed, and the next writer removes a line that a kill cut short. A trial that a kill left running is told
as failed; its point is queued again, once, or, if it was not chosen yet, drawn again: draws have numbers, which seed
them.
"""

import fcntl
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from interp.core.display import Card, Displayed
from interp.core.errors import InterpError, first_line
from interp.search.sweeps.measures import Scored
from interp.search.sweeps.objectives import dominates
from interp.search.sweeps.sweep_file import SamplerSettings

JOURNAL = "journal.log"
_STUDY, _RECORD, _AGAIN, _POINT, _DRAW = "sweep", "record", "again", "point", "draw"


@dataclass(frozen=True)
class SweepTrial(Displayed):
    """A trial of a sweep.

    Attributes:
        number: Its number in the journal.
        state: `complete`, `stopped` (hopeless after a share of the items), `failed`, `left` (by a kill) or `running`.
        params: The values that were chosen, by name of the parameter.
        recipe: The recipe, as plain data.
        scores: The score of each item, by behaviour.
        excess: By how much each constraint's bound is exceeded; at most 0 where it is kept.
        costs: The value of each objective, of which less is better; empty unless it is complete.
        reason: Why it stopped or failed.
        seconds: How long it took.
        copy_of: The earlier trial of the same recipe whose scores it has.
    """

    number: int
    state: str
    params: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    scores: Scored = field(default_factory=dict)
    excess: dict[str, float] = field(default_factory=dict)
    costs: tuple[float, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    copy_of: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it ran to an end, of whatever kind."""
        return self.state in ("complete", "stopped", "failed")

    @property
    def broken(self) -> list[str]:
        """The constraints that it breaks."""
        return [name for name, value in self.excess.items() if value > 0]

    @property
    def feasible(self) -> bool:
        """Whether it is complete and keeps every constraint."""
        return self.state == "complete" and not self.broken

    @property
    def figures(self) -> dict[str, Any]:
        """What a dashboard shows of it: state, parameters, mean scores, and by how much bounds are exceeded."""
        means = {name: fmean(known) for name, values in self.scores.items() if (known := [x for x in values if x == x])}
        groups = {"param": self.params, "score": means, "excess": self.excess}
        figures = {f"{group}/{name}": value for group, named in groups.items() for name, value in named.items()}
        return {"trial": self.number, "state": self.state, "seconds": self.seconds} | figures

    def _card(self) -> Card:
        return f"{self.number}, {self.state}", [*self.params.items(), ("reason", self.reason)]


class _JournalLock:
    """A lock for Optuna's journal which the system releases when its process ends, however it ends.

    Whoever acquires it removes a last line that has no end.
    """

    def __init__(self, path: Path):
        self.path, self.descriptor = path, -1

    def acquire(self) -> bool:
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        size = os.fstat(self.descriptor).st_size
        if size and os.pread(self.descriptor, 1, size - 1) != b"\n":
            with open(self.path, "rb") as file:
                os.ftruncate(self.descriptor, file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let the next one have it."""
        os.close(self.descriptor)


class Trials:
    """The journal of a sweep.

    Args:
        folder: The sweep's folder.
        objectives: How many there are; None opens a journal that exists.
        sampler: How points are chosen.
        seed: Seed of the sampler.

    Raises:
        InterpError: Optuna is not installed, or the folder has no journal.
    """

    def __init__(
        self, folder: Path, objectives: int | None = None, sampler: SamplerSettings | None = None, seed: int = 0
    ):
        self._optuna = _optuna()
        file = folder / JOURNAL
        if objectives is None and not file.is_file():
            raise InterpError(f"{folder} is no folder of a sweep; expected one with a {JOURNAL}")
        storages, studies = self._optuna.storages, self._optuna.study
        begin, options = studies.load_study, dict[str, Any]()
        if objectives is not None:
            begin, options = studies.create_study, {"directions": ["minimize"] * objectives, "load_if_exists": True}
        try:
            backend = storages.journal.JournalFileBackend(str(file), lock_obj=_JournalLock(file))
            self.study = begin(study_name=_STUDY, storage=storages.JournalStorage(backend), **options)
            self.all()
        except Exception as problem:  # whatever Optuna makes of damaged lines
            reason = f"{type(problem).__name__}: {first_line(problem)}"
            raise InterpError(f"{file} is damaged ({reason}); run the sweep anew in another folder") from None
        self._sampler, self._seed = sampler or SamplerSettings(), seed

    def all(self) -> list[SweepTrial]:
        """Every trial, in order."""
        return [self._read(trial) for trial in self.study.get_trials(deepcopy=False)]

    def _read(self, trial: Any) -> SweepTrial:
        record, state = trial.user_attrs.get(_RECORD), trial.state.name.lower()
        if record is None or not trial.state.is_finished():
            return SweepTrial(trial.number, "left" if state == "fail" else state, trial.params)
        return _of_record(trial.number, record)

    def counted(self) -> int:
        """How many trials have begun, without those that a kill left."""
        return sum(trial.state not in ("left", "waiting") for trial in self.all())

    def requeue(self) -> int:
        """Tell what a kill left running; returns how many trials there were.

        A trial that has a record is told what that says. Another one is told as failed, and its point is queued again;
        but one whose point was not chosen yet is not queued, since a later trial draws it.
        """
        trials = self.study.get_trials(deepcopy=False)
        queued = {trial.user_attrs.get(_AGAIN) for trial in trials}
        left = [trial for trial in trials if trial.state.name == "RUNNING"]
        for trial in left:
            known = trial.user_attrs
            if _RECORD in known:
                running = self._optuna.trial.Trial(self.study, trial._trial_id)
                self._conclude(running, _of_record(trial.number, known[_RECORD]))
                continue
            if _POINT in known and trial.number not in queued:
                again = {_POINT: known[_POINT], _DRAW: known[_DRAW], _AGAIN: trial.number}
                self.study.enqueue_trial(known[_POINT], user_attrs=again)
            self.study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        return len(left)

    def chosen(self, trial: Any) -> None:
        """Note that the point of a trial is chosen."""
        trial.set_user_attr(_POINT, trial.params)

    def ask(self, total: int) -> Any:
        """The next trial, or None if `total` have begun.

        The sampler is seeded by the seed and the number of the draw, the least that no trial has but those that a kill
        left, so that a sweep that was killed and resumed chooses the points that it would have chosen, each once.
        """
        if self.counted() >= total:
            return None
        kept = [x for x in self.study.get_trials(deepcopy=False) if self._read(x).state != "left"]
        draws = {trial.user_attrs.get(_DRAW, trial.number) for trial in kept}
        draw = next(number for number in count() if number not in draws)
        self.study.sampler = self._new_sampler(draw)
        trial = self.study.ask()
        if _DRAW not in trial.user_attrs:  # it is not one that was queued again
            trial.set_user_attr(_DRAW, draw)
        return trial

    def _new_sampler(self, draw: int) -> Any:
        samplers, seed = self._optuna.samplers, (self._seed * 1_000_003 + draw) % 2**32
        startup = self._sampler.startup
        if self._sampler.name == "random":
            return samplers.RandomSampler(seed=seed)
        if self._sampler.name == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=max(2, startup))
        return samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True)

    def tell(self, trial: Any, done: SweepTrial) -> None:
        """Record a trial, then tell Optuna: first the record, so that a trial that is told has one."""
        trial.set_user_attr(_RECORD, {key: value for key, value in asdict(done).items() if key != "number"})
        self._conclude(trial, done)

    def _conclude(self, trial: Any, done: SweepTrial) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constraints that were set before a kill stay
            for name, value in done.excess.items():
                trial.set_constraint(name, value)
        states = self._optuna.trial.TrialState
        state = {"complete": states.COMPLETE, "stopped": states.PRUNED}.get(done.state, states.FAIL)
        self.study.tell(trial, list(done.costs) if done.state == "complete" else None, state=state)

    def importance(self, objective: int) -> dict[str, float]:
        """The share of each parameter in what decides an objective (PED-ANOVA); empty with too few complete trials."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return self._optuna.importance.get_param_importances(self.study, target=lambda t: t.values[objective])
            except (RuntimeError, ValueError):  # fewer than two trials, or none that differ
                return {}


def _of_record(number: int, record: dict[str, Any]) -> SweepTrial:
    return SweepTrial(number, **record | {"costs": tuple(record["costs"])})


def random_trials(count: int) -> list[Any]:
    """Trials of no journal that choose at random, the same each time."""
    optuna = _optuna()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask() for _ in range(count)]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InterpError("sweeps need Optuna; install it with: pip install 'interp[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def front(trials: Sequence[SweepTrial]) -> list[SweepTrial]:
    """The feasible trials that no other dominates, without copies, in the order of the first objective."""
    points = [trial for trial in trials if trial.feasible and trial.copy_of is None]
    best = [x for x in points if not any(dominates(other.costs, x.costs) for other in points)]
    distinct = {trial.costs: trial for trial in reversed(best)}
    return sorted(distinct.values(), key=lambda trial: trial.costs)


def by_knee(points: Sequence[SweepTrial], unedited: Sequence[float]) -> list[SweepTrial]:
    """The points of a front, those first that are nearest to the best of every objective: the knee is the first.

    Args:
        points: The front.
        unedited: The costs of the unedited model; each objective's scale goes from the best to the worst of them all.
    """
    ends = [(min(column), max(column)) for column in zip(*(p.costs for p in points), unedited, strict=True)]

    def distance(trial: SweepTrial) -> float:
        scaled = zip(trial.costs, ends, strict=True)
        return sum(((x - low) / (high - low)) ** 2 for x, (low, high) in scaled if high > low)

    return sorted(points, key=distance)
