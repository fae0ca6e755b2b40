"""A sweep as it is in its folder: settings, trials, front, what was confirmed, and what each parameter decides."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interp.core.display import Card, Displayed, plural
from interp.search.sweeps.confirmation import ConfirmedPoint, read_confirmed
from interp.search.sweeps.sweep_file import SETTINGS, SweepFile, read_settings
from interp.search.sweeps.trials import SweepTrial, Trials, by_knee, front


@dataclass(frozen=True)
class SweepRecord(Displayed):
    """A sweep that has begun.

    Attributes:
        folder: Its folder.
        settings: Its settings.
        objectives: The behaviours that are minimised or maximised.
        signs: 1 for an objective that is minimised, -1 for one that is maximised: a value times it is its cost.
        unedited: The costs of the unedited model.
        trials: Every trial.
        confirmed: What was confirmed; empty while nothing is.
        importance: For each objective, the share of each parameter in what decides it.
    """

    folder: Path
    settings: SweepFile
    objectives: tuple[str, ...]
    signs: tuple[int, ...]
    unedited: tuple[float, ...]
    trials: tuple[SweepTrial, ...]
    confirmed: tuple[ConfirmedPoint, ...]
    importance: Mapping[str, Mapping[str, float]]

    @classmethod
    def read(cls, folder: str | Path) -> "SweepRecord":
        """Read a sweep's folder.

        Args:
            folder: As `run_sweep` writes it; the sweep may be running.

        Raises:
            InterpError: The folder is not that of a sweep.
        """
        path = Path(folder)
        known, journal = read_settings(path), Trials(path)
        settings = SweepFile.parse(known["settings"], str(path / SETTINGS))
        names = tuple(known["objectives"])
        importance = {name: journal.importance(number) for number, name in enumerate(names)}
        trials = tuple(journal.all())
        signs, unedited = tuple(known["signs"]), tuple(known["unedited"])
        return cls(path, settings, names, signs, unedited, trials, read_confirmed(path), importance)

    @property
    def front(self) -> list[SweepTrial]:
        """The feasible trials that no other dominates, the knee first."""
        return by_knee(front(self.trials), self.unedited)

    @property
    def title(self) -> str:
        """How many trials there are, by state."""
        states = [trial.state for trial in self.trials if trial.state != "waiting"]
        words = {"left": "cut off by a kill"}
        counts = ", ".join(f"{states.count(state)} {words.get(state, state)}" for state in dict.fromkeys(states))
        return f"{self.settings.name or self.folder.name}: {plural(len(states), 'trial')} ({counts})"

    @property
    def reasons(self) -> dict[str, int]:
        """Why trials stopped or failed, or which bound they broke, each with their number."""
        whys = [why for x in self.trials for why in ([x.reason] if x.reason else [f"breaks {b}" for b in x.broken])]
        return dict(Counter(whys).most_common())

    def rows(self) -> list[dict[str, Any]]:
        """The front as a table, the knee first, and the unedited model."""
        names = [f"{trial.number}{'' if place else ' (knee)'}" for place, trial in enumerate(self.front)]
        shown = zip(names, self.front, strict=True)
        points = [{"trial": name, **self._named(x.costs), "edit": _words(x.params)} for name, x in shown]
        return [*points, {"trial": "unedited", **self._named(self.unedited), "edit": ""}]

    def values(self, costs: tuple[float, ...]) -> tuple[float, ...]:
        """The means of the objectives, given their costs."""
        return tuple(sign * cost for sign, cost in zip(self.signs, costs, strict=True))

    def _named(self, costs: tuple[float, ...]) -> dict[str, float]:
        return dict(zip(self.objectives, self.values(costs), strict=True))

    def confirmed_rows(self) -> dict[str, list[dict[str, Any]]]:
        """What was confirmed, a table per point."""
        tables = {}
        for point in self.confirmed:
            tables[f"Trial {point.trial} on confirming items, {len(self.confirmed)} simultaneous intervals"] = [
                {
                    "behaviour": change.name,
                    "kind": change.kind,
                    "before": change.before.estimate,
                    "after": change.after.estimate,
                    "change": change.change,
                    "on choosing items": change.chosen,
                    "shrinkage": change.shrinkage,
                    "random edits": ", ".join(f"{value:+z.3f}" for value in change.random),
                    "bound": {True: "kept", False: "broken", None: ""}[change.kept],
                }
                for change in point.changes
            ]
        return tables

    def arm_rows(self) -> list[dict[str, Any]]:
        """The change of each objective on the confirming items: of the no-op, of points, and of random edits."""
        arms: dict[str, dict[str, float | None]] = {}
        for point in self.confirmed:
            changes = {name: point[name] for name in self.objectives}
            arms["no-op"] = {name: change.no_op for name, change in changes.items()}
            arms[f"trial {point.trial}"] = {name: change.change.estimate for name, change in changes.items()}
            for draw in range(len(point.changes[0].random)):
                arm = f"random edit {draw + 1} like trial {point.trial}"
                arms[arm] = {name: change.random[draw] for name, change in changes.items()}
        return [{"arm": arm} | values for arm, values in arms.items()]

    def importance_rows(self) -> list[dict[str, Any]]:
        """The share of each parameter, by objective."""
        names = dict.fromkeys(name for shares in self.importance.values() for name in shares)
        return [
            {"parameter": name} | {objective: shares.get(name, 0.0) for objective, shares in self.importance.items()}
            for name in names
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        trials = [{key: value for key, value in asdict(trial).items() if key != "scores"} for trial in self.trials]
        front_numbers = [trial.number for trial in self.front]
        values = {"objectives": list(self.objectives), "unedited": list(self.unedited), "front": front_numbers}
        values |= {"knee": front_numbers[0] if front_numbers else None, "arms": self.arm_rows()}
        confirmed = [asdict(point) for point in self.confirmed]
        return values | {"trials": trials, "confirmed": confirmed, "importance": dict(self.importance)}

    def _card(self) -> Card:
        return self.title, [(f"trial {row['trial']}", str(row)) for row in self.rows()]


def _words(params: Mapping[str, Any]) -> str:
    """Parameters in short: the last part of each name, and numbers to three places."""
    values = {name.rpartition(".")[2]: f"{x:.3g}" if isinstance(x, float) else x for name, x in params.items()}
    return ", ".join(f"{name} {value}" for name, value in values.items())
