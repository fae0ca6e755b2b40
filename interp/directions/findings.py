"""Findings: the directions that a search fitted, how well each does on held-out pairs, and what stands beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

from interp.core.display import html_table
from interp.core.errors import InterpError, nearest
from interp.data.contrast import Contrast
from interp.directions.controls import ControlScore
from interp.directions.direction import Direction
from interp.models.sites import Site


@dataclass(frozen=True)
class Finding:
    """A fitted direction and its held-out scores; `latent` is set where it is an autoencoder's decoder row.

    `stability` (see there) is None where it was not measured. `alignment` gives, for each protected direction, the
    cosine of the angle between the two, without sign; with a subspace, the largest that any vector in it has.
    """

    direction: Direction
    auroc: float
    cohens_d: float
    latent: int | None = None
    stability: float | None = None
    alignment: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def row(self) -> dict[str, object]:
        """One row of the table, plain values."""
        d = self.direction
        place = {"method": d.method, "site": str(d.site), "position": d.position}
        scores = {"auroc": self.auroc, "cohens_d": self.cohens_d, "latent": self.latent}
        return place | scores | {"stability": self.stability, "alignment": dict(self.alignment)}


class Failure(NamedTuple):
    """Why a method found nothing at a site and position."""

    method: str
    site: Site
    position: int
    reason: str


@dataclass(frozen=True, repr=False)
class Findings:
    """All findings on one contrast, of which `held_out` pairs were kept for the scores.

    `baselines` hold two at each site and position; they are no findings, and neither `best` nor `shortlist` has them.
    `failures` name what could not be fitted.
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

    @property
    def methods(self) -> list[str]:
        """The methods that found something."""
        return sorted({row.direction.method for row in self.rows})

    def best(self, count: int = 1, method: str | None = None) -> list[Finding]:
        """The findings that separate held-out pairs best: by AUROC, then by Cohen's d. Raises where there is none."""
        chosen = [row for row in self.rows if method in (None, row.direction.method)]
        if not chosen:
            raise InterpError(f"no finding by {method!r}; {nearest(str(method), self.methods)}")
        return sorted(chosen, key=lambda row: (-row.auroc, -row.cohens_d))[:count]

    def shortlist(self, count: int) -> list[Finding]:
        """The best of each method in turn, so that a method whose scores are alike crowds out no other."""
        by_method = [self.best(len(self), method) for method in self.methods]
        turns = zip_longest(*by_method)
        return [finding for turn in turns for finding in turn if finding is not None][:count]

    def beside(self, finding: Finding) -> dict[str, float]:
        """The baselines at a finding's site and position, by name."""
        d = finding.direction
        return {b.name: b.auroc for b in self.baselines if (b.site, b.position) == (d.site, d.position)}

    def grid(self) -> list[dict[str, object]]:
        """Held-out AUROC: a row for each site and position, a column for each method and baseline; None where none."""
        scored = [(f.direction.method, f.direction.site, f.direction.position, f.auroc) for f in self.rows]
        scored += [(b.name, b.site, b.position, b.auroc) for b in self.baselines]
        names, places = (dict.fromkeys(part) for part in zip(*((s[0], s[1:3]) for s in scored), strict=True))
        areas = {(name, site, position): area for name, site, position, area in scored}
        return [
            {"site": str(place[0]), "position": place[1]} | {name: areas.get((name, *place)) for name in names}
            for place in places
        ]

    def __repr__(self) -> str:
        return f"Findings({len(self)} on {self.contrast.name}; best: {self.best()[0].row})"

    def _repr_html_(self) -> str:
        header = ["method", "site", "position", "held-out AUROC", "Cohen's d", "stability"]
        best = self.best(12)
        cells = [[*list(f.row.values())[:3], f"{f.auroc:.3f}", f"{f.cohens_d:.2f}", _shown(f.stability)] for f in best]
        place = list(best[0].row.values())[1:3]
        cells += [[f"{name} (baseline)", *place, f"{area:.3f}", "", ""] for name, area in self.beside(best[0]).items()]
        cells += [[f.method, f.site, f.position, f"not fitted: {f.reason}", "", ""] for f in self.failures[:3]]
        return html_table(f"Findings on {self.contrast.name}: best of {len(self)}", header, cells)


def _shown(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"
