"""Thresholds of a recipe's gate, one per language, from a few labelled prompts, with the error rates that they have.

A gate that was fitted in one language reads other numbers in another, so one threshold opens it too seldom or too
often. Of n prompts where the gate should stay shut, the threshold is the (r + 1)-th largest score, with r such that
another such prompt opens the gate with probability (r + 1) / (n + 1), at most the share asked for. For exchangeable
prompts the false-positive rate of such a threshold is Beta(r + 1, n - r) whatever the scores' distribution (Wilks
1941), so its interval is exact, and needs no second sample. The prompts where the gate should open choose nothing, and
measure.

Limitations: scores that tie make the false-positive rate lower than that. The prompts have to be like those of use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, floor

from interp.auditing.statistics.comparison import Estimate
from interp.auditing.statistics.intervals import LEVEL, Z, bisect, wilson
from interp.core.display import Card, Displayed, displayed
from interp.core.errors import InterpError, located
from interp.interventions.gate import Gate, prompt_scores
from interp.models.hooked import HookedModel
from interp.models.sites import Site


@dataclass(frozen=True)
class GateThreshold(Displayed):
    """The threshold of a gate in a language.

    Attributes:
        language: The language.
        threshold: The gate opens above it.
        false_positive: The expected share of prompts that open it though they should not, with its interval.
        true_positive: The share of the prompts that open it as they should, with its interval.
        before: The two shares, false and true positives, under the gate's own threshold.
    """

    language: str
    threshold: float
    false_positive: Estimate
    true_positive: Estimate
    before: tuple[Estimate, Estimate]

    def _card(self) -> Card:
        wrong, right = self.before
        rows = [("false positives", self.false_positive, f"before {wrong}")]
        rows += [("true positives", self.true_positive, f"before {right}")]
        return self.language, [("threshold", self.threshold), *rows]


def calibrate_gate(
    gate: Gate,
    model: HookedModel,
    examples: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    false_positive: float = 0.05,
    site: str | Site | None = None,
) -> list[GateThreshold]:
    """Recalibrate a gate in each language.

    Args:
        gate: The gate; its own threshold is what the new ones are compared with.
        model: The model.
        examples: By language, prompts where the gate should open and prompts where it should not, as the model reads
            them (`model.chat`).
        false_positive: The expected share of prompts that open the gate though they should not, at most.
        site: Where the gate reads, if it reads at its op's own site.

    Raises:
        InterpError: The share is not between 0 and 1, a language has no prompts on one side, or too few where the gate
            should not open: a share of 0.05 needs 19.

    Example:
        >>> from interp.auditing import calibrate_gate
        >>> row = torch.ones(model.d_model)
        >>> gate = interp.Gate(interp.Project(row), interp.interventions.Reads(row, 0.0), site="resid_post.2")
        >>> sides = [[model.chat(f"{n} {word}?") for n in range(9)] for word in ("plus", "minus")]
        >>> english, = calibrate_gate(gate, model, {"en": (sides[0], sides[1])}, false_positive=0.1)
        >>> english.language, round(english.false_positive.estimate, 3)
        ('en', 0.1)
    """
    if not 0 < false_positive < 1:
        raise InterpError(f"false_positive is {false_positive}; expected a share between 0 and 1")
    thresholds = list[GateThreshold]()
    for language, sides in examples.items():
        n = len(sides[1])
        allowed = floor(false_positive * (n + 1) + 1e-9) - 1
        if not sides[0] or allowed < 0:
            needed = floor(1 / false_positive - 1e-9)
            raise InterpError(
                f"language {language!r} has {len(sides[0])} prompts where the gate should open and {n} where it should "
                f"not; expected at least 1 and {needed}, for a share of {false_positive:g}"
            )
        with located(f"language {language!r}"):
            opening, shut = (prompt_scores(gate, model, side, site).double().tolist() for side in sides)
        level = sorted(shut, reverse=True)[allowed]
        old = tuple(_share(scores, gate.when.threshold) for scores in (shut, opening))
        wrong = Estimate((allowed + 1) / (n + 1), *_beta_interval(allowed + 1, n - allowed), n)
        thresholds.append(GateThreshold(language, level, wrong, _share(opening, level), (old[0], old[1])))
    return displayed(thresholds)


def _share(scores: Sequence[float], threshold: float) -> Estimate:
    share = sum(score > threshold for score in scores) / len(scores)
    return Estimate(share, *wilson(share, float(len(scores)), Z), len(scores))


@cache
def _beta_interval(a: int, b: int) -> tuple[float, float]:
    """The two-sided interval of a Beta distribution of whole numbers, by the binomial sum that is its distribution."""
    n = a + b - 1

    def at_most(x: float) -> float:
        return sum(comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))

    tail = (1 - LEVEL) / 2
    return bisect(lambda x: at_most(x) >= tail, 0.0, 1.0), bisect(lambda x: at_most(x) >= 1 - tail, 0.0, 1.0)
