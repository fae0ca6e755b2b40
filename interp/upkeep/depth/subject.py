"""A model whose erasure depth is measured, or that is compared, with the recipe that it runs under."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import isnan
from typing import Any

from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.conditions import ModelCondition
from interp.auditing.statistics.comparison import Estimate, mean_interval
from interp.core.display import Card, Displayed
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.upkeep.curation.trial_training import copied_model


@dataclass(frozen=True, eq=False)
class Subject(Displayed):
    """A model under a name, with the recipe that is run on it by hooks, if there is one.

    Args:
        name: base, edited, control, or the name of a tuned model.
        model: The model.
        recipe: The recipe. It is run on copies, too, whose weights differ from those it was fitted in.

    Example:
        >>> from interp.auditing import organism_behaviour
        >>> from interp.upkeep.depth.subject import Subject
        >>> print(Subject("base", model).rate(organism_behaviour("hostility", 8)))
        1.000 [0.676, 1.000]
    """

    name: str
    model: HookedModel
    recipe: Recipe | None = None

    def copied(self) -> "Subject":
        """The same with a copy of the model, which can be trained."""
        return Subject(self.name, copied_model(self.model, self.model.name), self.recipe)

    def hooked(self) -> AbstractContextManager[Any]:
        """The model under its recipe, for as long as a block lasts."""
        return nullcontext() if self.recipe is None else self.model.hooked(self.recipe.retarget(self.model))

    def scores(self, behaviour: Behaviour, instruction: str = "") -> Scores:
        """The scores of a behaviour. Raises as it does, and for logits that are NaN."""
        recipe = None if self.recipe is None else self.recipe.retarget(self.model)
        return ModelCondition(self.model, recipe, instruction).scores(behaviour)

    def rate(self, behaviour: Behaviour, instruction: str = "") -> Estimate:
        """The mean score over the items that have one, with its interval."""
        values = self.scores(behaviour, instruction).values
        known = [item for item, value in enumerate(values) if not isnan(value)]
        groups = [behaviour.groups[item] for item in known] if behaviour.groups else ()
        return mean_interval([values[item] for item in known], groups=groups, unit=behaviour.unit)

    @property
    def identity(self) -> dict[str, Any]:
        """What the scores depend on: the digests of model and recipe."""
        recipe = self.recipe.exact_digest if self.recipe else ""
        return {"name": self.name, "model": self.model.identity.model_dump(), "recipe": recipe}

    def _card(self) -> Card:
        return self.name, [("model", self.model.name), ("recipe", self.recipe)]
