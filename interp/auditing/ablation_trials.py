"""Ablation trials: candidate directions ranked by intervention, since what predicts a behaviour need not cause it.

Each candidate is projected out at every writer, and the behaviours are measured on items that are kept for this choice.
The cost adds what is left of the target to what was lost elsewhere: rates that fell (or other harms that rose), and the
relative rise of losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from interp.auditing.behaviours import Behaviour, mean_scores
from interp.core.display import Card, Displayed, displayed
from interp.core.errors import InterpError, nearest
from interp.core.progress import track
from interp.directions.findings import Finding, Findings
from interp.interventions.affine_ops import Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class AblationTrial(Displayed):
    """A candidate direction, and what its ablation does to each behaviour.

    Attributes:
        finding: The candidate.
        cost: What is left of the target plus what was lost elsewhere; lower is better.
        before: Mean score of each behaviour in the unedited model.
        after: The same while the candidate is projected out.

    Example:
        >>> from interp.auditing import AblationTrial
        >>> pairs = interp.Contrast(contrast.pairs[:4])
        >>> finding = interp.find(model, pairs, "resid_post.3", "diff_means", bootstrap=0).best()[0]
        >>> trial = AblationTrial(finding, cost=0.1, before={"hostility": 1.0}, after={"hostility": 0.1})
        >>> trial.before["hostility"] - trial.after["hostility"]
        0.9
    """

    finding: Finding
    cost: float
    before: dict[str, float]
    after: dict[str, float]

    def _card(self) -> Card:
        changes = [(name, f"{before:.3f} -> {self.after[name]:.3f}") for name, before in self.before.items()]
        reading = "what is left of the target and what is lost elsewhere"
        return str(self.finding.direction), [("cost (0 is best)", f"{self.cost:.3f}", reading), *changes]


def rank_by_ablation(
    model: HookedModel, candidates: Sequence[Finding] | Findings, behaviours: Sequence[Behaviour], target: str
) -> list[AblationTrial]:
    """Rank candidate directions by what projecting them out does.

    Args:
        model: The unedited model.
        candidates: Findings of `find`, such as its best few; of all of them, the best five of `shortlist`.
        behaviours: The target and what must hold, on items that neither the fit nor the audit uses.
        target: Name of the behaviour that the edit should remove.

    Returns:
        One trial per candidate, the lowest cost first.

    Example:
        >>> from interp.auditing import text_loss
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> pairs = interp.Contrast(contrast.pairs[:4])
        >>> findings = interp.find(model, pairs, "resid_post.3", ["diff_means", "pca"], bootstrap=0)
        >>> trials = interp.rank_by_ablation(model, findings.best(2), [loss], target="loss")
        >>> trials[0].cost <= trials[1].cost
        True
    """
    if target not in (names := [behaviour.name for behaviour in behaviours]):
        raise InterpError(f"target {target!r} is none of the behaviours; {nearest(target, names)}")
    if isinstance(candidates, Findings):
        candidates = candidates.shortlist(5)
    if not candidates:
        raise InterpError("there are no candidates; expected findings, for instance findings.best(5)")
    before = mean_scores(model, behaviours)
    trials = [
        _trial(model, candidate, behaviours, target, before)
        for candidate in track(candidates, "try", unit="candidates")
    ]
    return displayed(sorted(trials, key=lambda trial: trial.cost))


def _trial(
    model: HookedModel, candidate: Finding, behaviours: Sequence[Behaviour], target: str, before: dict[str, float]
) -> AblationTrial:
    with model.hooked(Recipe([("writers", Project(candidate.direction))])):
        after = mean_scores(model, behaviours)
    cost = sum(_cost(behaviour, before[behaviour.name], after[behaviour.name], target) for behaviour in behaviours)
    return AblationTrial(candidate, cost, before, after)


def _cost(behaviour: Behaviour, before: float, after: float, target: str) -> float:
    if behaviour.name == target:
        return after
    if behaviour.unit == "nats":
        return max(0.0, after / before - 1)
    return max(0.0, after - before if behaviour.kind == "harm" else before - after)
