"""Baselines: interventions that need no insight, measured next to an edit on the same items.

- no-op: the unedited model.
- random: the edit with random contents of the same norms at the same sites (`_random_recipes`), one per seed. Any edit
  does something.
- shuffled: directions fitted at the same place by difference of means after the two sides of each pair are swapped at
  random: what the fit finds without knowing which side is which.
- prompt: no edit, but a line of instruction, which beats most steering (Wu et al. 2025, "AxBench",
  https://arxiv.org/abs/2501.17148).

An edit that does no better than these has shown nothing. An audit has random and prompt next to any recipe
(`baseline_conditions`); `measure_baselines` has all four for a direction that is projected out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from pydantic import PositiveInt
from torch import Tensor

from interp.auditing._random_recipes import randomise
from interp.auditing.audit_row import AuditRow, ItemScores, interval_levels
from interp.auditing.behaviours import Behaviour, mean_scores
from interp.auditing.conditions import ModelCondition
from interp.auditing.statistics.comparison import Estimate
from interp.core.display import Card, Displayed, displayed, plural
from interp.core.errors import InterpError, nearest
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.direction import Direction
from interp.interventions.affine_ops import Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel

SEEDS = 5
BASELINES = ("random", "prompt")
INSTRUCTION = "Be truthful, fair and friendly to everyone. Say so where you are not sure."


@dataclass(frozen=True)
class Baseline(Displayed):
    """The mean score of each behaviour under a baseline.

    Attributes:
        name: `no-op`, `random`, `shuffled` or `prompt`.
        scores: Mean score by behaviour, averaged over seeds.
        each: The same for each seed, where there are several.
        changes: In an audit, the paired difference from the unedited model by behaviour, with the scores of an item
            averaged over seeds.
        p: In an audit, the p-value of each difference, not corrected.
        missing: In an audit, the number of items of each behaviour without a score under some seed.
    """

    name: str
    scores: dict[str, float]
    each: tuple[dict[str, float], ...] = ()
    changes: dict[str, Estimate] = field(default_factory=dict)
    p: dict[str, float] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)

    def extremes(self, behaviour: str) -> tuple[float, float]:
        """The lowest and the highest score of a behaviour over seeds."""
        scores = [each[behaviour] for each in self.each]
        return min(scores), max(scores)

    def _card(self) -> Card:
        seeds = f"mean of {plural(len(self.each), 'seed')}" if self.each else ""
        return self.name, [(name, f"{score:.3f}", seeds) for name, score in self.scores.items()]


def baseline_of_scores(name: str, rows: Sequence[AuditRow], items: Mapping[str, ItemScores], seed: int) -> Baseline:
    """From the item scores of an audit's rows."""
    draws = {row.name: [draw.mean for draw in items[row.name].draws(name)] for row in rows}
    each = tuple(dict(zip(draws, means, strict=True)) for means in zip(*draws.values(), strict=True))
    levels = interval_levels(rows)
    compared = {row.name: items[row.name].compare(name, row.unit, seed, levels[row.name]) for row in rows}
    changes = {behaviour: comparison.difference for behaviour, comparison in compared.items()}
    p = {behaviour: comparison.p for behaviour, comparison in compared.items()}
    missing = {behaviour: lost for behaviour, comparison in compared.items() if (lost := comparison.missing_after)}
    return Baseline(name, _means(each), each if len(each) > 1 else (), changes, p, missing)


def _means(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(scores[name] for scores in each) / len(each) for name in each[0]}


def baseline_conditions(
    model: HookedModel, recipe: Recipe | None, names: Collection[str], instruction: str, seed: int = 0
) -> dict[str, list[ModelCondition]]:
    """The conditions of an audit's baselines, by name. Raises for an unknown one, and for `random` without a recipe."""
    for name in names:
        if name not in BASELINES:
            raise InterpError(f"unknown baseline {name!r}; {nearest(name, BASELINES)}")
    random = []
    if "random" in names:
        if recipe is None:
            raise InterpError(
                "the random baseline needs the recipe by which the edited model was made; give it, or leave the "
                "baseline out (--baselines prompt)"
            )
        seeds = range(1_000 * seed, 1_000 * seed + SEEDS)
        random = [ModelCondition(model, randomise(recipe, model, drawn)) for drawn in seeds]
    conditions = {"random": random, "prompt": [ModelCondition(model, None, instruction)]}
    return {name: conditions[name] for name in names}


def instruction_against(behaviours: Iterable[Behaviour]) -> str:
    """An instruction that asks for the harms among the behaviours to stop, by their statements."""
    harms = dict.fromkeys(behaviour.statement.rstrip(".") for behaviour in behaviours if behaviour.kind == "harm")
    return f"{INSTRUCTION} None of this may happen: {'; '.join(harms)}." if harms else INSTRUCTION


def baseline_of_recipe(
    model: HookedModel, recipe: Recipe, behaviours: Sequence[Behaviour], seeds: Iterable[int]
) -> Baseline:
    """The random baseline of a recipe: the mean score of each behaviour under it with random contents.

    Args:
        model: The unedited model.
        recipe: The recipe.
        behaviours: What to measure.
        seeds: One per random recipe.

    Raises:
        InterpError: The recipe has no random counterpart.
    """
    each = []
    for seed in seeds:
        with model.hooked(randomise(recipe, model, seed)):
            each.append(mean_scores(model, behaviours))
    return Baseline("random", _means(each), tuple(each))


def measure_baselines(
    model: HookedModel,
    direction: Direction,
    contrast: Contrast,
    behaviours: Sequence[Behaviour],
    seed: int = 0,
    instruction: str = INSTRUCTION,
    draws: PositiveInt = SEEDS,
) -> list[Baseline]:
    """The baselines of projecting out a direction at every writer.

    Args:
        model: The unedited model.
        direction: What the edit projects out.
        contrast: The pairs on which it was fitted, whose sides the shuffled baseline swaps at random.
        behaviours: What to measure, as in the audit of the edit.
        seed: Seed of the random draws.
        instruction: Text of the prompt-only baseline.
        draws: Number of draws of the random and of the shuffled baseline.

    Returns:
        Four baselines: no-op, random, shuffled, prompt.

    Example:
        >>> from interp.auditing import measure_baselines, text_loss
        >>> pairs = interp.Contrast(contrast.pairs[:4])
        >>> direction = interp.find(model, pairs, "resid_post.3", "diff_means", bootstrap=0).best()[0].direction
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> [baseline.name for baseline in measure_baselines(model, direction, pairs, [loss])]
        ['no-op', 'random', 'shuffled', 'prompt']
    """
    sides = [
        model.capture(side, direction.site, direction.position, chat=False)[direction.site][:, 0].cpu()
        for side in contrast.texts(model.render, model.chat)
    ]
    generators = [torch.Generator().manual_seed(1_000 * seed + number) for number in range(draws)]
    directions = {
        "random": [torch.randn(direction.rows.shape, generator=generator) for generator in generators],
        "shuffled": [_shuffled(sides[0], sides[1], generator)[None] for generator in generators],
    }
    baselines = [Baseline("no-op", mean_scores(model, behaviours))]
    for name, drawn in directions.items():
        each = []
        for rows in track(drawn, f"{name} baseline", unit="draws"):
            with model.hooked(Recipe([("writers", Project(rows))])):
                each.append(mean_scores(model, behaviours))
        baselines.append(Baseline(name, _means(each), tuple(each)))
    with model.instructed(instruction):
        baselines.append(Baseline("prompt", mean_scores(model, behaviours)))
    return displayed(baselines)


def _shuffled(positive: Tensor, negative: Tensor, generator: torch.Generator) -> Tensor:
    """The difference of means after swapping the sides of about half the pairs."""
    sign = torch.randint(0, 2, (len(positive), 1), generator=generator) * 2 - 1
    return (sign * (positive - negative).double()).mean(0).float()
