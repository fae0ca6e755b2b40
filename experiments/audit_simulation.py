"""How often the intervals of an audit hold the truth, and how often an edit that does nothing is called significant.

    python experiments/audit_simulation.py [--smoke] [--audits 1000] [--json FILE]

Simulated audits with a known truth. Shares: each item has a latent uniform number before and after, the same one for
`share` of the items (so scores are correlated), and scores 1 below the rate. Losses: log-normal, multiplied by
log-normal noise. In clusters of five, half the items' numbers are those of their cluster (of losses: half the variance
is). Each cell is 1,000 audits; every audit calls `interp.auditing.statistics.comparison.compare_scores`, as
`interp audit` does. Cells
whose type-I error comes out above 5.5 % are simulated again, with four times as many other audits: of 1,000 at a true
5 %, every fourth is. The last line puts behaviours side by side, with nothing changed in any, and counts audits in
which Holm finds a change.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from math import exp
from pathlib import Path

import numpy as np
from numpy import ndarray

from interp.auditing.behaviours import Unit
from interp.auditing.statistics.comparison import PairedComparison, compare_scores
from interp.auditing.statistics.significance import holm

SIZES = (50, 200, 500)
RANGE = (0.93, 0.97)
LEVEL, MOST = 0.05, 0.055


@dataclass(frozen=True)
class Setting:
    """What is drawn. `rate` is the rate before (of losses: 0, unused), `change` the truth of after - before."""

    unit: Unit
    cluster: int
    n: int
    rate: float
    share: float
    change: float

    @property
    def groups(self) -> tuple[str, ...]:
        """The cluster of each item."""
        return tuple(str(item // self.cluster) for item in range(self.n)) if self.cluster > 1 else ()

    @property
    def after(self) -> float:
        """The truth of the mean afterwards."""
        return self.change + (self.rate if self.unit == "rate" else 3 * exp(0.4**2 / 2))

    def draw(self, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
        """Scores before and after."""
        if self.unit == "nats":
            before, noise = 3 * np.exp(0.4 * self._normal(rng)), 0.1 * self._normal(rng)
            return before, before * np.exp(noise - 0.1**2 / 2) + self.change
        first, second = self._uniform(rng), self._uniform(rng)
        second = np.where(rng.random(self.n) < self.share, first, second)
        return (first < self.rate).astype(float), (second < self.rate + self.change).astype(float)

    def _uniform(self, rng: np.random.Generator) -> ndarray:
        draws = rng.random(self.n)
        if self.cluster == 1:
            return draws
        common = np.repeat(rng.random(self.n // self.cluster), self.cluster)
        return np.where(rng.random(self.n) < 0.5, common, draws)

    def _normal(self, rng: np.random.Generator) -> ndarray:
        draws = rng.normal(size=self.n)
        if self.cluster == 1:
            return draws
        return (draws + np.repeat(rng.normal(size=self.n // self.cluster), self.cluster)) / 2**0.5


@dataclass(frozen=True)
class Result:
    """Shares of audits: whose intervals hold the truth, and that found a difference."""

    setting: Setting
    difference: float
    after: float
    significant: float
    p_values: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        """Plain values, without each p-value."""
        shares = {"difference": self.difference, "after": self.after, "significant": self.significant}
        return asdict(self.setting) | shares


def simulate(setting: Setting, audits: int, seed: int = 0) -> Result:
    """Audits of the setting, each with draws of its own."""
    comparisons = [_compared(setting, [seed, audit]) for audit in range(audits)]
    inside = [comparison.difference.low <= setting.change <= comparison.difference.high for comparison in comparisons]
    after = [comparison.after.low <= setting.after <= comparison.after.high for comparison in comparisons]
    p_values = tuple(comparison.p for comparison in comparisons)
    return Result(
        setting,
        float(np.mean(inside)),
        float(np.mean(after)),
        float(np.mean(np.asarray(p_values) <= LEVEL)),
        p_values,
    )


def _compared(setting: Setting, seed: list[int]) -> PairedComparison:
    before, after = setting.draw(np.random.default_rng([*seed, setting.n, int(1000 * setting.rate), setting.cluster]))
    return compare_scores(before.tolist(), after.tolist(), setting.groups, setting.unit, seed=seed[1])


def settings(smoke: bool = False) -> Iterator[Setting]:
    """All that is simulated."""
    sizes, rates, shares = (SIZES[1:2], (0.1,), (0.5,)) if smoke else (SIZES, (0.02, 0.1, 0.5), (0.5, 0.9))
    for cluster in (1, 5):
        for rate, share, change in product(rates, shares, (0.0, 0.1)):
            yield from (Setting("rate", cluster, n, rate, share, change) for n in sizes)
        for change in (0.0, 0.1):
            yield from (Setting("nats", cluster, n, 0.0, 0.0, change) for n in sizes)


def family(results: Iterable[Result]) -> float:
    """The share of audits in which Holm finds a change among behaviours of which none changed."""
    columns = [result.p_values for result in results if result.setting.change == 0]
    audits = zip(*columns, strict=False)  # as many as each has
    return float(np.mean([min(holm(p_values)) <= LEVEL for p_values in audits]))


def outside(result: Result) -> bool:
    """Whether the interval of the difference holds the truth too seldom or too often."""
    return not RANGE[0] <= result.difference <= RANGE[1]


def table(results: list[Result]) -> str:
    """One row a kind of behaviour; in each cell coverage of the difference, of the mean afterwards, and significant."""
    sizes = sorted({result.setting.n for result in results})
    head = "| scores | clusters of | same latent | rate | change | " + " | ".join(f"n {n}" for n in sizes) + " |"
    rows = [head, "|---|---|---|---|---|" + "---|" * len(sizes)]
    kinds = dict.fromkeys((s.unit, s.cluster, s.share, s.rate, s.change) for s in (r.setting for r in results))
    for kind in kinds:
        unit, cluster, share, rate, change = kind
        group = [r for r in results if (r.setting.unit, r.setting.cluster, *_rest(r.setting)) == kind]
        cells = [f"{r.difference:.3f}{'*' if outside(r) else ''} / {r.after:.3f} / {r.significant:.3f}" for r in group]
        first = ["0 or 1", cluster, f"{share:g}", f"{rate:g}"] if unit == "rate" else ["losses", cluster, "", ""]
        rows.append("| " + " | ".join(map(str, [*first, f"{change:g}", *cells])) + " |")
    return "\n".join(rows)


def _rest(setting: Setting) -> tuple[float, float, float]:
    return setting.share, setting.rate, setting.change


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few settings, 60 audits of each")
    parser.add_argument("--audits", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    for setting in settings(options.smoke):
        results.append(simulate(setting, 60 if options.smoke else options.audits))
        print(results[-1].to_json(), file=sys.stderr, flush=True)
    print(table(results))
    for result in (r for r in results if r.setting.change == 0 and r.significant > MOST):
        again = simulate(result.setting, 4 * len(result.p_values), seed=1)
        print(f"\nAgain, {len(again.p_values)} audits: {again.to_json()}")
        results[results.index(result)] = again
    nothing = [result.significant for result in results if result.setting.change == 0]
    mean = float(np.mean([result.difference for result in results]))
    figures = {
        "coverage": mean,
        "outside": sum(map(outside, results)),
        "settings": len(results),
        "type_one_most": max(nothing),
        "family": family(results),
    }
    print(
        f"\nCoverage of differences {mean:.3f} over all; outside {RANGE[0]} to {RANGE[1]} (*): {figures['outside']} of "
        f"{len(results)}. Type-I error of one behaviour: at most {max(nothing):.3f}, mean {np.mean(nothing):.3f}. "
        f"After Holm, audits of {len(nothing)} unchanged behaviours that find a change: {figures['family']:.3f}."
    )
    if options.json:
        options.json.write_text(
            json.dumps({"claims": figures, "settings": [result.to_json() for result in results]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
