"""Findings: the directions that a search fitted, with their held-out scores, and the baselines at the same sites."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import zip_longest
from typing import NamedTuple

from pydantic import PositiveInt

from interp.core.calls import checked_class
from interp.core.display import Card, Displayed, displayed, html_table, plural
from interp.core.errors import InterpError, nearest
from interp.data.contrast import Contrast
from interp.directions.controls import ControlScore
from interp.directions.direction import Direction
from interp.models.sites import Site


@dataclass(frozen=True)
class Finding(Displayed):
    """A fitted direction and its held-out scores.

    Args:
        direction: The direction.
        auroc: Probability that a held-out positive reads above a negative, from 0 to 1.
        cohens_d: Difference of the held-out means, in pooled standard deviations.
        latent: Index of the latent, where the direction is an autoencoder's decoder row.
        stability: Mean |cosine| with refits on resampled pairs (`bootstrap_stability`); None where not measured.
        alignment: Per protected direction, the absolute cosine of the angle between the two; for a subspace, the
            largest over its vectors.
        seconds: What the fit took, where measured.

    Example:
        >>> few = interp.Contrast(contrast.pairs[:8])
        >>> findings = interp.find(model, few, "resid_post.3", "diff_means", bootstrap=0)
        >>> finding = findings.best()[0]
        >>> print(finding.direction, finding.auroc)
        diff_means at resid_post.3, position -1 1.0
    """

    direction: Direction
    auroc: float
    cohens_d: float
    latent: int | None = None
    stability: float | None = None
    alignment: Mapping[str, float] = field(default_factory=dict, hash=False)
    seconds: float | None = field(default=None, compare=False)

    @property
    def row(self) -> dict[str, object]:
        """One row of a table, as plain values."""
        d = self.direction
        origin = {"method": d.method, "site": str(d.site), "position": d.position}
        scores = {"auroc": self.auroc, "cohens_d": self.cohens_d, "latent": self.latent}
        return origin | scores | {"stability": self.stability, "alignment": dict(self.alignment)}

    def __repr__(self) -> str:
        d = self.direction
        scores = f"AUROC {self.auroc:.3f}, d {_d_text(self.cohens_d)}"
        return f"Finding({d.method} at {d.site}, position {d.position}: {scores})"

    def _card(self) -> Card:
        scores = [("held-out AUROC", f"{self.auroc:.3f}", "1 separates, 0.5 is chance")]
        scores += [("Cohen's d", _d_text(self.cohens_d), "in pooled standard deviations")]
        scores += [] if self.stability is None else [("stability", f"{self.stability:.3f}", "1 is the same in refits")]
        return str(self.direction), [*scores, *([] if self.latent is None else [("latent", self.latent)])]


def _d_text(cohens_d: float) -> str:
    """Cohen's d, or a dash where the sides have nearly no spread to divide by."""
    return f"{cohens_d:.2f}" if abs(cohens_d) < 1e4 else "–"


class Failure(NamedTuple):
    """Why a method has no direction at a site and position."""

    method: str
    site: Site
    position: int
    reason: str


@checked_class("interp.find(model, contrast) gives them")
@dataclass(frozen=True)
class Findings(Displayed):
    """All findings on one contrast.

    Args:
        rows: The findings, in the order of the search, which iteration and `findings[0]` have too; `best` sorts them.
        contrast: The pairs they were fitted and scored on.
        held_out: Number of pairs kept for the scores.
        baselines: Two scores per site and position. `best` and `shortlist` leave them out.
        failures: What could not be fitted, and why.

    Example:
        >>> few = interp.Contrast(contrast.pairs[:8])
        >>> findings = interp.find(model, few, "resid_post.3", ["diff_means", "lda"], bootstrap=0)
        >>> [finding.direction.method for finding in findings.shortlist(2)]
        ['diff_means', 'lda']
        >>> sorted(findings.baselines_at(findings.best()[0]))
        ['random', 'shuffled']
    """

    rows: tuple[Finding, ...]
    contrast: Contrast
    held_out: int
    baselines: tuple[ControlScore, ...] = ()
    failures: tuple[Failure, ...] = ()

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Finding:
        return self.rows[number]

    @property
    def methods(self) -> list[str]:
        """The methods that have a finding, sorted."""
        return sorted({row.direction.method for row in self.rows})

    @property
    def seconds(self) -> dict[str, float]:
        """What the fits of each method took in all, where measured."""
        total: dict[str, float] = {}
        for row in self.rows:
            total[row.direction.method] = total.get(row.direction.method, 0.0) + (row.seconds or 0.0)
        return total

    def best(self, count: PositiveInt = 1, method: str | None = None) -> list[Finding]:
        """The `count` findings with the highest held-out AUROC, then Cohen's d. Raises where a method has none."""
        chosen = [row for row in self.rows if method in (None, row.direction.method)]
        if not chosen:
            raise InterpError(f"no finding by {method!r}; {nearest(str(method), self.methods)}")
        return displayed(sorted(chosen, key=lambda row: (-row.auroc, -row.cohens_d))[:count])

    def shortlist(self, count: int) -> list[Finding]:
        """The best of each method in turn, so that a method with many similar scores leaves room for others."""
        by_method = [self.best(len(self), method) for method in self.methods]
        turns = zip_longest(*by_method)
        return displayed([finding for turn in turns for finding in turn if finding is not None][:count])

    def baselines_at(self, finding: Finding) -> dict[str, float]:
        """The baselines' AUROC at a finding's site and position, by name."""
        d = finding.direction
        return {b.name: b.auroc for b in self.baselines if (b.site, b.position) == (d.site, d.position)}

    def grid(self) -> list[dict[str, object]]:
        """Held-out AUROC: one row per site and position, one column per method and baseline; None where not fitted."""
        scored = [(f.direction.method, f.direction.site, f.direction.position, f.auroc) for f in self.rows]
        scored += [(b.name, b.site, b.position, b.auroc) for b in self.baselines]
        names, places = (dict.fromkeys(part) for part in zip(*((s[0], s[1:3]) for s in scored), strict=True))
        areas = {(name, site, position): area for name, site, position, area in scored}
        return displayed(
            [
                {"site": str(place[0]), "position": place[1]} | {name: areas.get((name, *place)) for name in names}
                for place in places
            ]
        )

    @property
    def reading(self) -> str:
        """What the best held-out AUROC says next to the baseline of shuffled sides, and what to do next."""
        best = self.best()[0]
        shuffled = round(self.baselines_at(best).get("shuffled", 0.0), 3)
        tied = [method for method in self.methods if round(self.best(1, method)[0].auroc, 3) == 1]
        if shuffled == 1 and tied == self.methods:
            return "all methods separate; AUROC cannot rank them here: rank their directions with rank_by_ablation"
        if shuffled >= round(best.auroc, 3):
            return "no method separates better than shuffled sides do: AUROC is no evidence of a direction here"
        if len(tied) > 1:
            return f"{', '.join(tied)} separate; AUROC cannot rank them: use rank_by_ablation"
        return ""

    def _notes(self) -> list[str]:
        few = f"only {plural(self.held_out, 'pair')} held out, so the scores say little; give more pairs"
        return [line for line in (self.reading, few if self.held_out < 5 else "") if line]

    def _card(self) -> Card:
        best = [(f.direction, f"AUROC {f.auroc:.3f}", "") for f in self.best(3)]
        return f"{len(self)} on {self.contrast.name}", [*best, *((line, "") for line in self._notes())]

    def _repr_html_(self) -> str:
        header = ["method", "site", "position", "held-out AUROC", "Cohen's d", "stability"]
        best = self.best(12)
        cells = [[*list(f.row.values())[:3], f"{f.auroc:.3f}", _d_text(f.cohens_d), f.stability] for f in best]
        place, baselines = list(best[0].row.values())[1:3], self.baselines_at(best[0])
        cells += [[f"{name} (baseline)", *place, f"{area:.3f}"] for name, area in baselines.items()]
        table = html_table(f"Findings on {self.contrast.name}: best of {len(self)}", header, cells)
        failures = [f"not fitted: {f.method} at {f.site}, position {f.position}: {f.reason}" for f in self.failures[:3]]
        return table + "".join(f"<div>{escape(line)}</div>" for line in [*self._notes(), *failures])
