"""Damage: what the removal of a direction costs on texts, and what the edited model still writes.

    1. the loss of up to 16 texts, of 64 tokens each, without and with the edit
    2. the greedy continuations of neutral openings that either model writes, and the unedited model's loss of them

It is measured before an edit is saved. A direction that leans on a coordinate far larger than the others (as the
oblique directions of LDA can) may separate a contrast well, and still destroy the model when it is removed. `harmless`
refuses a direction that raises the loss by more than `LIMIT`. On SmolLM2-135M-Instruct, directions of sentiment that
raise the loss of prose by 0.0 to 0.2 nats per token raise that of the contrast's own texts, which are five tokens long
and about the concept, by up to 0.8.

Limitations: a few texts show a model that is broken, not one that is slightly worse. The audit measures that.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.directions.direction import Direction
from interp.directions.findings import Finding
from interp.interventions.affine_ops import Project
from interp.interventions.recipe import Recipe
from interp.interventions.steering_scale import OPENINGS, mean_loss
from interp.models.continuations import Continuations
from interp.models.hooked import HookedModel

LIMIT = 1.0  # nats per token
_TEXTS, _TOKENS, _OPENINGS, _NEW_TOKENS = 16, 64, 4, 12


@dataclass(frozen=True)
class Damage(Displayed):
    """What an edit does to text, in nats per token.

    Attributes:
        loss_before: The loss of the texts without the edit.
        loss_after: Their loss with it.
        written_before: The unedited model's loss of what it writes itself after neutral openings; None where it writes
            nothing.
        written_after: Its loss of what the edited model writes there.
        limit: By how much the loss of the texts may rise.

    Example:
        >>> from interp.auditing.damage import Damage
        >>> print(Damage(loss_before=2.96, loss_after=8.63, written_before=0.8, written_after=5.1))
        text loss 2.96 -> 8.63 nats per token (limit +1.0), what it writes 0.80 -> 5.10
    """

    loss_before: float
    loss_after: float
    written_before: float | None = None
    written_after: float | None = None
    limit: float = LIMIT

    @property
    def harmless(self) -> bool:
        """Whether the loss rises by no more than the limit."""
        return self.loss_after - self.loss_before <= self.limit  # NaN is not

    def __str__(self) -> str:
        before, after = ("none" if x is None else f"{x:.2f}" for x in (self.written_before, self.written_after))
        losses = f"text loss {self.loss_before:.2f} -> {self.loss_after:.2f} nats per token"
        return f"{losses} (limit +{self.limit}), what it writes {before} -> {after}"


def measure_damage(model: HookedModel, edit: Direction | Recipe, texts: Sequence[str], limit: float = LIMIT) -> Damage:
    """Measure what an edit does to text.

    Args:
        model: The model.
        edit: A recipe, or a direction, which is projected out of every writer.
        texts: Texts as the model reads them; the first 16 are used, cut to 64 tokens.
        limit: By how much the loss may rise, in nats per token.

    Raises:
        InterpError: No text has two tokens.

    Example:
        >>> from interp.auditing.damage import measure_damage
        >>> direction = interp.Direction.of(torch.eye(model.d_model)[0], "resid_post.3")
        >>> measure_damage(model, direction, ["The mill is by the river."]).harmless
        True
    """
    return next(_damages(model, [edit], texts, limit))


def _damages(
    model: HookedModel, edits: Iterable[Direction | Recipe], texts: Sequence[str], limit: float = LIMIT
) -> Iterator[Damage]:
    """What each edit costs; the unedited model is measured once."""
    batch = model.tokens(list(texts[:_TEXTS]), cut=_TOKENS)
    before, written_before = model.loss(batch), _written(model, ())
    for edit in edits:
        recipe = edit if isinstance(edit, Recipe) else Recipe([("writers", Project(edit))])
        with model.hooked(recipe):
            after = model.loss(batch)
        yield Damage(before, after, written_before, _written(model, recipe), limit)


def _written(model: HookedModel, recipe: Recipe | tuple[()]) -> float | None:
    """The unedited model's loss of what it writes under a recipe after neutral openings."""
    openings = OPENINGS[:_OPENINGS]
    ends = model.generate(openings, recipe, max_new_tokens=_NEW_TOKENS, chat=False)
    pairs = [(opening, end) for opening, end in zip(openings, ends, strict=True) if end.strip()]
    return mean_loss(model, Continuations.of(model, *map(list, zip(*pairs, strict=True)))) if pairs else None


def harmless(
    model: HookedModel, candidates: Sequence[Finding], texts: Sequence[str], force: bool = False
) -> tuple[Finding, Damage]:
    """The first candidate, with what its removal costs.

    Args:
        model: The model.
        candidates: Findings, the preferred one first.
        texts: As in `measure_damage`.
        force: Take it whatever it costs.

    Raises:
        InterpError: It costs more than `LIMIT`. The message has the next candidate that does not.

    Example:
        >>> from interp.auditing.damage import harmless
        >>> findings = interp.find(model, contrast, "resid_post.3", "diff_means", bootstrap=0)
        >>> finding, damage = harmless(model, findings.best(), ["The mill is by the river."])
        >>> damage.harmless
        True
    """
    damages = _damages(model, (finding.direction for finding in candidates), texts)
    (first, *others), damage = candidates, next(damages)
    if damage.harmless or force:
        return first, damage
    offers = (f"{x.direction} costs less ({cost})" for x, cost in zip(others, damages, strict=True) if cost.harmless)
    offer = next(offers, "no other candidate costs less")
    problem = f"removing {first.direction} costs too much: {damage}"
    raise InterpError(f"{problem}; {offer}; give its method, site and position, or force the first (--force)")
