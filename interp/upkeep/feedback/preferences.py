"""Directions of what people reject: fitted on some prompts, scored on others, with the recipe that removes each.

1. Verdicts become pairs of a rejected and a chosen reply, read at their last token. Three tenths of the prompts are
   held out, the same for all groups of raters.
2. `interp.find` chooses a method and a site on the other prompts. The direction's separation is measured on the
   held-out ones: AUROC with a bootstrap interval over pairs.
3. The recipe projects the direction out of every writer; its cost is the rise of the loss on held-out replies.
4. Where raters split by group, each group has its own direction and recipe, at one site, with the cosine of every two
   and the separation of each by the verdicts of the other. None is made of all of them: their mean would be nobody's.

Limitations: a direction that separates replies need not be what the model uses; audit the recipe before it is exported.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from interp.auditing.damage import Damage, measure_damage
from interp.auditing.statistics.comparison import Estimate
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError
from interp.core.files import new_folder, require_free, write_json
from interp.data import Contrast, TurnPair
from interp.directions.contrast_activations import capture_sides
from interp.directions.direction import Direction
from interp.directions.finder import find
from interp.directions.scores import auroc
from interp.interventions.affine_ops import Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.upkeep._records import read_record
from interp.upkeep.feedback.agreement import RaterAgreement, measure_agreement
from interp.upkeep.feedback.judgements import Judgements

RECORD, ADJUDICATE = "feedback.json", "adjudicate.jsonl"
EVERYONE = "everyone"
_HELD_OUT, _RESAMPLES, _FEWEST = 0.3, 500, 4


@dataclass(frozen=True)
class PreferenceDirection(Displayed):
    """The direction of what a group of raters rejects.

    Attributes:
        group: The group; `everyone` where raters do not split.
        direction: How and where it was fitted, as text.
        separation: AUROC of held-out rejected against chosen replies, by whose verdicts they are.
        cosine: With the direction of each other group.
        damage: What its removal costs.
    """

    group: str
    direction: str
    separation: Mapping[str, Estimate]
    cosine: Mapping[str, float]
    damage: Damage


@dataclass(frozen=True)
class Feedback(Displayed):
    """What raters prefer.

    Attributes:
        name: The judgements.
        comparisons: How many there are.
        undecided: On how many of them raters differ.
        agreement: How far raters agree.
        opposed: On how many comparisons each two groups have opposite verdicts, of how many that both decide.
        directions: One, or one for each group where raters split.
    """

    name: str
    comparisons: int
    undecided: int
    agreement: RaterAgreement
    opposed: Mapping[str, tuple[int, int]]
    directions: tuple[PreferenceDirection, ...]

    @classmethod
    def read(cls, folder: str | Path) -> "Feedback":
        """Read the record of a folder that `fit_feedback` wrote. Raises where there is none, or a damaged one."""
        return read_record(cls, Path(folder) / RECORD, "feedback")

    def rows(self) -> list[dict[str, Any]]:
        """A row for each direction and whose verdicts it is measured by."""
        return [
            {"direction of": x.group, "by verdicts of": name, "AUROC": str(area), "fitted": x.direction}
            for x in self.directions
            for name, area in x.separation.items()
        ]

    def _card(self) -> Card:
        split = "raters split by group" if self.agreement.split else "raters do not split by group"
        opposed = [(f"opposed {pair}", f"{count} of {of}") for pair, (count, of) in self.opposed.items()]
        counts = [("comparisons", self.comparisons), ("undecided", self.undecided)]
        return self.name, [*counts, ("groups", split), *opposed]


def fit_feedback(
    judgements: Judgements,
    model: HookedModel,
    out: str | Path,
    sites: str | Sequence[str] = "resid_post.*",
    methods: str | Sequence[str] = "closed_form",
    seed: int = 0,
) -> Feedback:
    """Measure agreement, and fit directions and recipes of what people reject.

    Args:
        judgements: What raters said.
        model: The model whose activations are read.
        out: New folder: `feedback.json`, `adjudicate.jsonl`, and a direction and a recipe in `everyone`, or in
            `group_0` and so on, in the order of the record's directions.
        sites: Where to search, as in `interp.find`.
        methods: Methods to try, as in `interp.find`.
        seed: Draws the held-out prompts and the intervals.

    Raises:
        InterpError: `out` exists, krippendorff is not installed, or too few comparisons are decided.

    Example:
        >>> import json
        >>> from interp.upkeep import Judgements, fit_feedback
        >>> replies = {"chosen": "Good day.", "rejected": "Go away."}
        >>> rows = [{"prompt": f"what is {n} plus 1?"} | replies for n in range(20)]
        >>> _ = (tmp / "pairs.jsonl").write_text("\\n".join(map(json.dumps, rows)))
        >>> judgements = Judgements.read(tmp / "pairs.jsonl")
        >>> fit_feedback(judgements, model, tmp / "feedback", "resid_post.3", "diff_means").directions[0].group
        'everyone'
    """
    require_free(out)
    agreement = measure_agreement(judgements, seed)
    names = judgements.group_names
    groups = {name: list(judgements.decided(name)) for name in names}
    parts = groups if agreement.split else {EVERYONE: list(judgements.decided())}
    held_out = _held_out(judgements, seed)
    fits: dict[str, Direction] = {}
    tests: dict[str, Contrast] = {}
    for name, pairs in parts.items():
        train, tests[name] = _parts(name, pairs, held_out)
        where = [str(next(iter(fits.values())).site)] if fits else sites
        fits[name] = find(model, train, where, methods, bootstrap=0, seed=seed).best()[0].direction
    with new_folder(out) as staging:
        directions = []
        for name, direction in fits.items():
            recipe = Recipe([("writers", Project(direction))], note=f"Projects out what {name} rejects: {direction}.")
            texts = tests[name].texts(model.render, model.chat)[1]
            separation = {other: _separation(model, direction, test, seed) for other, test in tests.items()}
            cosine = {x: float(direction.rows[0] @ fits[x].rows[0]) for x in fits if x != name}
            damage = measure_damage(model, recipe, texts)
            directions.append(PreferenceDirection(name, str(direction), separation, cosine, damage))
            folder = staging / (f"group_{names.index(name)}" if agreement.split else EVERYONE)
            direction.save(folder / "direction")
            recipe.save(folder / "recipe")
        undecided = judgements.undecided()
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in undecided)
        (staging / ADJUDICATE).write_text("".join(lines), encoding="utf-8")
        counts = len(judgements.comparisons), len(undecided)
        record = Feedback(judgements.name, *counts, agreement, _opposed(groups), tuple(directions))
        write_json(staging / RECORD, asdict(record))
    return record


def _held_out(judgements: Judgements, seed: int) -> set[str]:
    prompts = sorted({comparison.first.prompt for comparison in judgements.comparisons})
    return set(Random(seed).sample(prompts, round(_HELD_OUT * len(prompts))))


def _parts(name: str, pairs: list[TurnPair], held_out: set[str]) -> tuple[Contrast, Contrast]:
    test = tuple(pair for pair in pairs if pair.negative.prompt in held_out)
    train = tuple(pair for pair in pairs if pair.negative.prompt not in held_out)
    if min(len(train), len(test)) < _FEWEST:
        raise InterpError(
            f"{name}: {len(train)} decided comparisons to fit and {len(test)} held out; expected at least {_FEWEST} of "
            "each; give more, on more prompts"
        )
    return Contrast(train, name), Contrast(test, name)


def _separation(model: HookedModel, direction: Direction, test: Contrast, seed: int) -> Estimate:
    """AUROC of rejected against chosen replies, with the interval of resampled pairs."""
    site, position = direction.site, direction.position
    sides = capture_sides(model, test, [site], [position])[site, position]
    rejected, chosen = (direction.read(side)[:, 0] for side in (sides.positive, sides.negative))
    draws = torch.from_numpy(np.random.default_rng(seed).integers(len(test), size=(_RESAMPLES, len(test))))
    areas = [auroc(rejected[draw], chosen[draw]) for draw in draws]
    low, high = np.quantile(areas, [0.025, 0.975])
    return Estimate(auroc(rejected, chosen), float(low), float(high), len(test))


def _opposed(groups: Mapping[str, list[TurnPair]]) -> dict[str, tuple[int, int]]:
    """On how many comparisons each two groups differ, of how many that both decide."""
    opposed = {}
    sides = {name: {(pair.positive, pair.negative) for pair in pairs} for name, pairs in groups.items()}
    for name, other in combinations(groups, 2):
        against = len(sides[name] & {pair[::-1] for pair in sides[other]})
        opposed[f"{name} and {other}"] = (against, against + len(sides[name] & sides[other]))
    return opposed
