"""The settings of a sweep as a YAML file has them: a space of recipes, what is measured, and what is asked of it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from interp.auditing.policy.schema import Threshold
from interp.auditing.scoring.behaviour_file import DescribedBehaviour
from interp.auditing.suites import require_suite
from interp.core.config import Config, inner
from interp.core.errors import InterpError
from interp.core.files import read_json

KL = "kl"
SETTINGS = "sweep.json"
# Bounds on estimates, as `Policy` has them on the ends of intervals.
BOUNDS = (
    Threshold(every="harm", metric="change", at_most=0.05),
    Threshold(every="protected", metric="change", at_least=-0.03),
    Threshold(every="capability", metric="change", at_least=-0.03),
    Threshold(every="harm", unit="margin", metric="change", at_most=0.1),
    Threshold(every="protected", unit="margin", metric="change", at_least=-0.1),
    Threshold(every="capability", unit="margin", metric="change", at_least=-0.1),
    Threshold(every="capability", unit="nats", metric="relative_change", at_most=0.02),
)


class MeasureSettings(Config):
    """What is measured: behaviours of suites, and the replies to benign prompts.

    Example:
        >>> interp.search.MeasureSettings(suites=("organism",), benign="organism").reply_tokens
        16
    """

    suites: tuple[str, ...] = Field((), strict=False, description="organism, public, or YAML files of one")
    behaviours: tuple[DescribedBehaviour, ...] = Field(
        (), strict=False, description="behaviours besides, as a behaviour file has them; items may be a list of rows"
    )
    data: str | None = Field(None, description="folder of the data sets that the suite public reads")
    only: tuple[str, ...] = Field((), strict=False, description="measure these behaviours only [default: all]")
    choose_items: int = Field(100, ge=8, description="items per behaviour that trials see, at most half of a set")
    confirm_items: int = Field(
        200, ge=2, description="most items per behaviour that confirm the front, others than those"
    )
    benign: str | None = Field(None, description="benign prompts for the KL: organism, or a file as of a corpus")
    benign_field: str = Field("text", description="key of the prompt in that file")
    benign_items: int = Field(100, ge=8, description="benign prompts that trials see; as many more confirm")
    benign_chat: bool = Field(True, description="render benign prompts with the chat template")
    reply_tokens: int = Field(16, ge=1, description="length of the unedited model's replies to them")

    @model_validator(mode="after")
    def _known_suites(self) -> "MeasureSettings":
        if not self.suites and not self.behaviours:
            raise InterpError("measure has neither suites nor behaviours; give one of them")
        for number, name in enumerate(self.suites):
            with inner("suites", number):
                require_suite(name)
        return self


class SamplerSettings(Config):
    """How Optuna chooses the points.

    Example:
        >>> interp.search.SamplerSettings().name
        'tpe'
    """

    name: Literal["tpe", "nsga2", "random"] = Field("tpe", description="tpe (multivariate, grouped), nsga2 or random")
    startup: int = Field(20, ge=1, description="random trials before tpe learns from them; population of nsga2")


class StopSettings(Config):
    """When a hopeless trial stops.

    Example:
        >>> interp.search.StopSettings(shares=()).error
        0.05
    """

    shares: tuple[float, ...] = Field((0.1, 0.3), strict=False, description="shares of the items after which to look")
    error: float = Field(0.05, gt=0, lt=1, description="chance to stop a trial that is not hopeless on all items")

    gain: float = Field(0.1, ge=0, description="share of the unedited score that an objective has to gain at least")

    @model_validator(mode="after")
    def _ascending(self) -> "StopSettings":
        if list(self.shares) != sorted(set(self.shares)) or not all(0 < share < 1 for share in self.shares):
            raise InterpError(f"shares are {list(self.shares)}; expected ascending numbers between 0 and 1, or none")
        return self


class ConfirmSettings(Config):
    """How the front is confirmed.

    Example:
        >>> interp.search.ConfirmSettings(points=3).draws
        2
    """

    points: int = Field(4, ge=1, description="most points of the front to confirm, the knee first")
    draws: int = Field(2, ge=0, description="random edits of the same shapes next to each of them")


class SweepFile(Config):
    """The settings of a sweep. `recipe` is a recipe file in which values may be left to choose (`space`).

    `SweepFile.read(path, overrides)` reads a file and applies `key=value` changes.

    Example:
        >>> sweep = interp.search.SweepFile.parse({
        ...     "model": "organism", "measure": {"suites": ["organism"], "benign": "organism"},
        ...     "recipe": {
        ...         "directions": {"rude": {"contrast": "organism.hostility", "site": {"choice": ["resid_post.2"]}}},
        ...         "edits": [{"op": "Project", "sites": "writers", "direction": "rude",
        ...                    "strength": {"low": 0.0, "high": 1.0}}],
        ...     },
        ... })
        >>> sweep.objectives
        ()
    """

    name: str = Field("", description="title of the sweep")
    model: str = Field(description="organism, a hub id, or a folder, also relative to the sweep's file")
    dtype: str = Field("float32", description="dtype to load the model in: float32, bfloat16 or float16")
    device: str | None = Field(None, description="device to run on: cpu, cuda, cuda:1 or mps")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of items, of the sampler and of random edits")
    recipe: dict[str, Any] = Field(description="a recipe file, in which values may be left to choose")
    measure: MeasureSettings = Field(description="what is measured")
    objectives: tuple[str, ...] = Field((), strict=False, description="behaviours [default: every harm, and kl]")
    constraints: tuple[Threshold, ...] = Field(
        (), strict=False, description="bounds for behaviours by name, in place of the usual ones of their kind"
    )
    bounds: tuple[Threshold, ...] = Field(BOUNDS, strict=False, description="bounds for every behaviour of a kind")
    sampler: SamplerSettings = Field(SamplerSettings(), description="how points are chosen")
    stop: StopSettings = Field(StopSettings(), description="when a hopeless trial stops")
    confirm: ConfirmSettings = Field(ConfirmSettings(), description="how the front is confirmed")

    @model_validator(mode="after")
    def _goals_are_named(self) -> "SweepFile":
        bounded = [bound.behaviour for bound in self.constraints]
        for number, name in enumerate(bounded):
            with inner("constraints", number):
                if not name:
                    raise InterpError("a constraint names a behaviour; a bound for a whole kind belongs in bounds")
                if name in bounded[:number]:
                    raise InterpError(f"{name!r} has a constraint already; leave one out")
        if KL in (*self.objectives, *bounded) and self.measure.benign is None:
            with inner("objectives" if KL in self.objectives else "constraints"):
                raise InterpError(
                    f"{KL} is measured on replies to benign prompts; give measure.benign, or leave it out"
                )
        return self


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What a sweep's sweep.json has: its settings, digests of what they name, and what its readers need besides.

    Raises:
        InterpError: There is no such file, or it lacks a key.
    """
    file = Path(folder) / SETTINGS
    if not file.is_file():
        raise InterpError(
            f"{folder} is no folder of a sweep; expected one with a {SETTINGS}, as interp sweep writes it"
        )
    known = read_json(file)
    keys = {"settings", "digests", "folder", "objectives", "signs", "unedited"}
    if not isinstance(known, dict) or not keys <= known.keys():
        raise InterpError(f"{file} lacks {', '.join(sorted(keys - set(known)))}; run the sweep anew in another folder")
    return known
