"""A sweep: many recipes of a space tried on a model, and the best trade-offs confirmed on items that no trial saw.

1. Fit or read what directions need, once; measure the unedited model.
2. Each trial: choose a recipe of the space (Optuna), build it, measure it part by part, stop it where it is hopeless.
3. Confirm the front: its points, random edits of the same shapes, and no edit, on other items.

Everything is in the sweep's folder: `sweep.json` (settings, digests of model and items), `journal.log` (every trial),
`scores/` (of the unedited model, and of what was confirmed), `confirm.json`. The same command continues a sweep that
was stopped, by Ctrl-C or by a kill.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from interp.auditing._random_recipes import randomise
from interp.auditing.behaviours import Behaviour
from interp.auditing.conditions import ModelCondition, ScoreCache
from interp.core.config import differences
from interp.core.display import plural
from interp.core.errors import DISK_REMEDY, InterpError, first_line, is_of_disk, note, on_interrupt
from interp.core.files import lock_folder, remove_strays, require_free, sha256_file, write_json
from interp.core.progress import track
from interp.core.shards.ray_actors import connected
from interp.core.shards.workers import map_in_order
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.loading import load, model_beside
from interp.search.recipe_file import RecipeFile
from interp.search.space import choose
from interp.search.sweeps._fits import Fits, files_of
from interp.search.sweeps.confirmation import ConfirmedPoint, confirmed_point, write_confirmed
from interp.search.sweeps.measures import Bench, Measures, Scored
from interp.search.sweeps.objectives import Goals
from interp.search.sweeps.stopping import StoppingRule
from interp.search.sweeps.sweep_file import SETTINGS, SweepFile, read_settings
from interp.search.sweeps.trials import JOURNAL, SweepTrial, Trials, by_knee, front, random_trials

_FAILURES = 10  # trials that fail before any other ends
_REPLIES = "replies.json"
_MADE_BEFORE = (_REPLIES, "scores", JOURNAL)  # these come before the settings
_DRAWS = 50  # points that are drawn to see whether the space has a valid one


@dataclass(frozen=True)
class Workbench:
    """A sweep's settings with its model: everything that a process needs to run trials."""

    settings: SweepFile
    model: HookedModel
    measures: Measures
    folder: Path  # that paths in the settings are relative to
    out: Path
    base: Scored | None = None  # scores of the unedited model, if they are known

    @classmethod
    def open(cls, settings: SweepFile, folder: Path, out: Path, model: HookedModel | None = None) -> "Workbench":
        """Load the model and read the items."""
        name = model_beside(settings.model, folder)
        model = model or load(name, dtype=settings.dtype, device=settings.device)
        replies = out / _REPLIES
        measures = Measures.read(settings.measure, model, settings.seed, settings.stop.shares, folder, replies)
        return cls(settings, model, measures, folder, out)

    @cached_property
    def goals(self) -> Goals:
        """Objectives and constraints."""
        settings = self.settings
        behaviours = self.measures.choose.values()
        return Goals.of(behaviours, settings.objectives, settings.constraints, settings.bounds)

    @cached_property
    def cache(self) -> ScoreCache:
        """Scores of the unedited model, and of what is confirmed."""
        return ScoreCache(self.out / "scores")

    @cached_property
    def bench(self) -> Bench:
        """What measures recipes; the first use measures the unedited model."""
        return Bench(self.model, self.measures, self.cache, self.goals.objectives, base=self.base)

    @cached_property
    def fits(self) -> Fits:
        """Fits directions, each once."""
        return Fits(self.model, self.settings.recipe, self.folder, self.out / "activations")

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same when a sweep is continued."""
        model, settings = self.model.identity, self.settings.model_dump(mode="json")
        digests = {"model": model.digest, "settings": model.settings, "items": self.measures.digests}
        files = sorted(files_of(self.settings.recipe, self.folder))
        digests |= {"files": {name: sha256_file(self.folder / name) for name in files}}
        return {"settings": settings, "digests": digests, "folder": str(self.folder.resolve())}

    @property
    def described(self) -> dict[str, Any]:
        """What readers of the folder need besides."""
        goals = self.goals
        signs = [goals.sign(name) for name in goals.objectives]
        return {"objectives": list(goals.objectives), "signs": signs, "unedited": goals.costs(self.bench.base)}

    def build(self, recipe: Mapping[str, Any]) -> Recipe:
        """The recipe of plain data, as a trial records it."""
        described = RecipeFile.parse(dict(recipe), "recipe")
        return described.build(self.model, self.fits.of(described), self.folder, self.fits.autoencoders)

    def choose(self, journal: Trials, trial: Any) -> "ChosenTrial":
        """Choose the point of a trial, and look whether its recipe was measured before."""
        recipe, known = dict[str, Any](), journal.all()
        try:
            recipe = choose(self.settings.recipe, trial)
            journal.chosen(trial)
            done = _copied(known, recipe)
        except Exception as problem:
            done = _failed(problem, trial.number)
        points = {x.number: x.scores for x in front(known)} if self.settings.stop.shares and not done else {}
        return ChosenTrial(trial.number, recipe, points, done)

    def measure(self, trial: "ChosenTrial") -> dict[str, Any]:
        """How a trial ends, as its record has it. An error is recorded, unless it is the disk's: the sweep goes on."""
        began = time.perf_counter()
        try:
            done = trial.done or self._measured(trial)
        except Exception as problem:
            done = _failed(problem, trial.number)
        return done | {"seconds": round(time.perf_counter() - began, 3)}

    def _measured(self, trial: "ChosenTrial") -> dict[str, Any]:
        stop = self.settings.stop
        rule = StoppingRule(self.goals, self.bench.base, len(stop.shares), stop.error, stop.gain)
        hopeless = (lambda scores: rule.reason(scores, trial.points)) if stop.shares else (lambda scores: "")
        scores, reason = self.bench.measure(self.build(trial.recipe), hopeless)
        if reason:
            done = {name: values for name, values in scores.items() if values}
            base = {name: self.bench.base[name][: len(values)] for name, values in done.items()}
            return {"state": "stopped", "scores": scores, "excess": self.goals.broken(base, done), "reason": reason}
        excess, costs = self.goals.broken(self.bench.base, scores), tuple(self.goals.costs(scores))
        return {"state": "complete", "scores": scores, "excess": excess, "costs": costs}


@dataclass(frozen=True)
class ChosenTrial:
    """A trial whose point is chosen: its recipe, the front's scores by trial, and how it ends, if that is known."""

    number: int
    recipe: dict[str, Any]
    points: dict[int, Scored]
    done: dict[str, Any]


def _copied(known: Sequence[SweepTrial], recipe: dict[str, Any]) -> dict[str, Any]:
    """How the first trial of the same recipe ended; empty if there is none."""
    same = ("state", "scores", "excess", "costs", "reason")
    ended = (x for x in known if x.recipe == recipe and x.state in ("complete", "stopped"))
    return next(({name: getattr(x, name) for name in same} | {"copy_of": x.number} for x in ended), {})


def _failed(problem: Exception, number: int) -> dict[str, Any]:
    if is_of_disk(problem):  # which is not the trial's fault: it is queued again
        raise InterpError(f"trial {number}: {first_line(problem)}; {DISK_REMEDY}") from problem
    kind = "" if isinstance(problem, InterpError) else f"{type(problem).__name__}: "
    return {"state": "failed", "reason": kind + first_line(problem)}


def run_sweep(
    settings: SweepFile,
    out: str | Path,
    trials: int,
    workers: int | str = 1,
    folder: str | Path = ".",
    model: HookedModel | None = None,
    say: Callable[[str], None] = lambda text: None,
    ended: Callable[[SweepTrial], None] = lambda trial: None,
) -> list[SweepTrial]:
    """Run a sweep into a folder, or continue the one that is there, and confirm its front.

    Args:
        settings: The space, what is measured and what is asked of it.
        out: Folder of the sweep.
        trials: How many trials it has in the end, those of earlier calls included.
        workers: Processes that run trials side by side; one runs them in this process. A text is the address of a Ray
            cluster (extra `ray`). Points are then chosen before the last ones that are in work have ended.
        folder: Folder that paths in the settings are relative to.
        model: The model, if it is loaded already; with several workers each process loads its own.
        say: Called with a line of text about each step.
        ended: Called with each trial of this call as it ends.

    Returns:
        Every trial.

    Raises:
        InterpError: The folder holds another sweep or is in use, the space has no valid point, a setting names nothing,
            or all of the first trials failed.

    Example:
        >>> settings = interp.search.SweepFile.read("toxicity.yaml")  # doctest: +SKIP
        >>> interp.search.run_sweep(settings, "sweeps/toxicity", trials=60)  # doctest: +SKIP
    """
    if trials < 1 or (isinstance(workers, int) and workers < 1):
        raise InterpError(f"trials is {trials} and workers {workers}; expected at least 1 of each")
    target, root = Path(out), Path(folder)
    _require_valid_point(settings)
    busy = f"{target} is in use by another sweep; wait for it, or choose another folder"
    cluster = connected(workers) if isinstance(workers, str) else nullcontext()  # before anything is measured
    with cluster, _kept_once_begun(target), lock_folder(target, busy):
        require_same(target, {"settings": settings.model_dump(mode="json")})
        remove_strays(target)
        if not (target / SETTINGS).is_file():  # without them, nothing says which model's replies these are
            (target / _REPLIES).unlink(missing_ok=True)
        work = Workbench.open(settings, root, target, model if workers == 1 else None)
        require_same(target, work.identity)
        journal = Trials(target, len(work.goals.objectives), settings.sampler, settings.seed)
        if not (target / SETTINGS).is_file():
            write_json(target / SETTINGS, work.identity | work.described)
        _warn(work, say)
        if left := journal.requeue():
            say(f"resumed     {plural(left, 'trial')} that a kill left running")
        with on_interrupt(f"the same command continues the sweep in {target}"):
            run_trials(work, journal, trials, ended, workers)
        _require_some_success(journal, 1)
        done = journal.all()
        _note_constant(work.goals, done)
        with on_interrupt(f"the same command continues the confirmation in {target}"):
            confirm(work, done, workers)
        return done


@contextmanager
def _kept_once_begun(out: Path) -> Iterator[None]:
    """Make a folder, and remove it again if an error comes before it holds a sweep."""
    made = not out.exists()
    if not out.is_dir():
        require_free(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except InterpError:
        if made and not (out / SETTINGS).is_file():
            shutil.rmtree(out)
        raise


def confirm(work: Workbench, done: Sequence[SweepTrial], workers: int | str = 1) -> tuple[ConfirmedPoint, ...]:
    """Measure the best of a front on the confirming items, and write what they do there. Scores are kept as they come.

    Args:
        work: The sweep.
        done: Its trials.
        workers: Processes that measure, or the address of a Ray cluster.
    """
    base, behaviours, wanted = work.bench.base, work.measures.confirm, work.settings.confirm
    ranked = by_knee(front(done), work.goals.costs(base))[: wanted.points]
    arms: dict[object, Recipe | None] = {"unedited": None}
    for point in ranked:
        arms[point.number] = recipe = work.build(point.recipe)
        arms |= {(point.number, n): randomise(recipe, work.model, work.settings.seed + n) for n in range(wanted.draws)}
    conditions = {arm: ModelCondition(work.model, recipe) for arm, recipe in arms.items()}
    work.cache.fill(list(product(conditions.values(), behaviours.values())), workers, "confirm")
    scores = {arm: _scored(condition, behaviours, work.cache) for arm, condition in conditions.items()}
    # Measured although the unedited model was
    no_op = _scored(conditions["unedited"], behaviours, ScoreCache()) if ranked else {}
    goals = replace(work.goals, behaviours=behaviours)
    confirmed = tuple(
        confirmed_point(
            goals,
            point.number,
            (base, point.scores),
            (scores["unedited"], scores[point.number]),
            [scores[point.number, n] for n in range(wanted.draws)],
            no_op,
            len(ranked),
            work.settings.seed,
        )
        for point in ranked
    )
    write_confirmed(work.out, confirmed)
    return confirmed


def _scored(condition: ModelCondition, behaviours: Mapping[str, Behaviour], cache: ScoreCache) -> Scored:
    return {name: list(cache.scores(condition, behaviour).values) for name, behaviour in behaviours.items()}


def _require_valid_point(settings: SweepFile) -> None:
    """Raise where no drawn point of the space can be read as a recipe."""
    problem: InterpError | None = None
    for trial in random_trials(_DRAWS):
        try:
            RecipeFile.parse(choose(settings.recipe, trial), "recipe")
            return
        except InterpError as raised:
            problem = problem or raised
    raise InterpError(f"none of {_DRAWS} points of the space is a recipe: {problem}")


def require_same(out: Path, identity: dict[str, Any]) -> None:
    """Raise, by name, where a folder holds a sweep of other settings, or of files or a model that have changed."""
    if (out / SETTINGS).is_file():
        known = read_settings(out)
        written = SweepFile.parse(known["settings"], str(out / SETTINGS))  # with defaults for keys that came later
        known["settings"] = written.model_dump(mode="json")
        if changed := differences({key: known[key] for key in identity}, identity):
            remedy = "a sweep goes on as it began: give the same, or another folder"
            raise InterpError(f"{out}: {'; '.join(changed)}; {remedy}")
        if not (out / JOURNAL).is_file() or not (out / JOURNAL).stat().st_size:
            raise InterpError(f"{out / JOURNAL} is gone or empty; run the sweep anew in another folder")
    elif any(path.name not in _MADE_BEFORE and not path.name.startswith(".") for path in out.iterdir()):
        raise InterpError(f"{out} holds other files, and no {SETTINGS}; choose another folder")


def _warn(work: Workbench, say: Callable[[str], None]) -> None:
    """Say what the unedited model scores, and which constraints it breaks already."""
    base = work.bench.base
    say("unedited    " + ", ".join(f"{name} {np.nanmean(base[name]):.3f}" for name in base))
    for name, excess in work.goals.broken(base, base).items():
        if excess > 0:
            bound = work.goals.constraints[name]
            note(f"{name}: the unedited model breaks its bound already ({bound}), by {excess:.3g}")


def _note_constant(goals: Goals, done: Sequence[SweepTrial]) -> None:
    complete = [trial.costs for trial in done if trial.state == "complete"]
    for name, column in zip(goals.objectives, zip(*complete, strict=True), strict=False):
        if len(column) > 1 and len(set(column)) == 1:
            value = f"{goals.sign(name) * column[0]:z.3f}"
            note(f"{name} is {value} in all {len(column)} complete trials: what is left to choose does not move it")


def run_trials(
    work: Workbench,
    journal: Trials,
    total: int,
    ended: Callable[[SweepTrial], None] = lambda trial: None,
    workers: int | str = 1,
) -> None:
    """Run trials until `total` have begun. This process chooses their points and records them, in order."""
    running, left = dict[int, Any](), max(0, total - journal.counted())
    reopened = partial(_reopened, work.settings, work.folder, work.out.resolve(), work.bench.base)
    opened = (lambda: work) if workers == 1 else reopened

    def chosen() -> Iterator[ChosenTrial]:
        while (trial := journal.ask(total)) is not None:
            running[trial.number] = trial
            yield work.choose(journal, trial)

    with closing(map_in_order(opened, Workbench.measure, chosen(), workers, work.model.device.type)) as pairs:
        for asked, done in track(pairs, "sweep", left, unit="trials"):
            trial = running.pop(asked.number)
            if done["state"] != "failed":
                done |= _copied(journal.all(), asked.recipe)  # of one that had not ended when this one was chosen
            record = SweepTrial(**{"number": asked.number, "params": trial.params, "recipe": asked.recipe} | done)
            journal.tell(trial, record)
            ended(record)
            _require_some_success(journal, _FAILURES)


def _reopened(settings: SweepFile, folder: Path, out: Path, base: Scored) -> Workbench:
    """The sweep in another process, which reads the same model and files."""
    work = replace(Workbench.open(settings, folder, out), base=base)
    require_same(out, work.identity)
    return work


def _require_some_success(journal: Trials, fewest: int) -> None:
    """Raise where all trials that ended have failed, and these are so many or more."""
    ended = [trial for trial in journal.all() if trial.ended]
    if len(ended) >= fewest and all(trial.state == "failed" for trial in ended):
        raise InterpError(f"all of the first {plural(len(ended), 'trial')} failed; the last: {ended[-1].reason}")
