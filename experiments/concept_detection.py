"""Detection of concepts by directions, method by method. A part of concepts.py, which says how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from interp import Contrast, HookedModel, InterpError, SparseAutoencoder
from interp.directions.contrast_activations import Sides
from interp.directions.methods.closed_form import FITS, diff_means
from interp.directions.methods.latents import separating_latent
from interp.directions.methods.reft import ReftR1, reft_r1
from interp.directions.scores import auroc, cohens_d

SEEDS, RESAMPLES = 5, 2000
COUNTED = ("diff_means", "logistic", "ridge", "lda")
Pairs = list[tuple[str, str]]


class Parts(NamedTuple):
    """Pairs of texts (with the concept, without) to fit on, to choose on, and to test on."""

    train: Pairs
    valid: Pairs
    test: Pairs


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    pairs: tuple[int, int, int]
    layers: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Detected:
    """A method's best on the validation part, and what that reads of the test part; seeds have several."""

    method: str
    place: str
    tests: list[Sides]

    @property
    def auroc(self) -> float:
        """The mean over the seeds."""
        return sum(auroc(*test) for test in self.tests) / len(self.tests)


def read(model: HookedModel, pairs: Pairs, layers: Sequence[int]) -> dict[str, Sides]:
    """Activations by layer and reading, a row a text."""
    sites, activations = [f"resid_post.{layer}" for layer in layers], []
    for side in zip(*pairs, strict=True):
        kept: dict[str, list[Tensor]] = {}
        for start in range(0, len(side), 32):
            acts = model.capture(list(side[start : start + 32]), sites)
            inner = (acts.tokens.mask & (acts.tokens.position_ids > 0))[..., None].float()
            for site in sites:
                x = acts[site].float()
                kept.setdefault(f"{site} last", []).append(x[:, -1])
                kept.setdefault(f"{site} mean", []).append((x * inner).sum(1) / inner.sum(1))
        activations.append({place: torch.cat(parts) for place, parts in kept.items()})
    return {place: Sides(activations[0][place], activations[1][place]) for place in activations[0]}


def detected(method: str, fit: Callable[[Sides], Tensor], read_parts: list[dict[str, Sides]], signed: bool) -> Detected:
    """The best of a method's directions on the validation part. Unsigned ones are turned to fit that part."""
    best = ((-1.0, 0.0), "", Sides(torch.zeros(1), torch.zeros(1)))
    train, valid, test = read_parts
    for place in train:
        try:
            row = fit(train[place])
        except InterpError:
            continue
        seen = valid[place].read(lambda x, row=row: x @ row)
        score = auroc(*seen), cohens_d(*seen)  # small parts leave ties, which go to the wider gap
        if not signed and score[0] < 0.5:
            row, score = -row, (1 - score[0], -score[1])
        if score > best[0]:
            best = (score, place, test[place].read(lambda x, row=row: x @ row))
    return Detected(method, best[1], [best[2]])


def baseline(name: str, read_parts: list[dict[str, Sides]]) -> Detected:
    """Random directions, or labels shuffled; the seed draws the same for every place."""
    runs = []
    for seed in range(SEEDS):

        def fit(sides: Sides, seed: int = seed) -> Tensor:
            draw = torch.Generator().manual_seed(seed)
            if name == "random":
                return torch.randn(sides.positive.shape[1], generator=draw)
            x = torch.cat(list(sides))[torch.randperm(2 * len(sides.positive), generator=draw)]
            return diff_means(*x.chunk(2))

        runs.append(detected(name, fit, read_parts, signed=False))
    return Detected(name, "", [test for run in runs for test in run.tests])


def largest_codes(model: HookedModel, sae: SparseAutoencoder, pairs: Pairs) -> Sides:
    """Each latent's largest activation on a text's tokens but the first."""
    sides = []
    for side in zip(*pairs, strict=True):
        codes = []
        for start in range(0, len(side), 32):
            acts = model.capture(list(side[start : start + 32]), str(sae.site))
            inner = acts.tokens.mask & (acts.tokens.position_ids > 0)
            codes.append((sae.encode(acts[sae.site].float()) * inner[..., None]).amax(1))
        sides.append(torch.cat(codes))
    return Sides(*sides)


@dataclass(frozen=True)
class Concept:
    """All that was detected of one concept, and what steering goes on with."""

    name: str
    parts: Parts
    detected: list[Detected]
    read: list[dict[str, Sides]]
    reft: ReftR1
    latent: int | None


def concept(
    model: HookedModel, name: str, parts: Parts, sizes: Sizes, middle: int, sae: SparseAutoencoder | None
) -> Concept:
    """Detection of one concept by every method."""
    read_parts = [read(model, part, sizes.layers) for part in parts]
    results = [
        detected(method, lambda sides, fit=fit: fit(*sides), read_parts, signed=True) for method, fit in FITS.items()
    ]
    trained = reft_r1(model, Contrast.of(parts.train), f"resid_post.{middle}", steps=sizes.steps)
    texts = list(zip(*parts.test, strict=True))
    place = f"resid_post.{middle} max"
    results.append(Detected("reft_r1", place, [Sides(*(trained.detect(model, list(side)) for side in texts))]))
    latent = None
    if sae is not None:
        latent = separating_latent(largest_codes(model, sae, parts.train))
        codes = largest_codes(model, sae, parts.test)
        results.append(Detected("sae_latent", place, [codes.read(lambda x: x[:, latent])]))
    results += [baseline(baseline_name, read_parts) for baseline_name in ("random", "shuffled")]
    return Concept(name, parts, results, read_parts, trained, latent)


def difference(scores: Sides, reference: Sides, seed: int = 0) -> tuple[float, float, float]:
    """AUROC of the scores less that of a reference's, with its interval over resampled pairs."""
    wins = [(p[:, None] > n).double() + (p[:, None] == n).double() / 2 for p, n in (scores, reference)]
    n = len(wins[0])
    draw = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(seed))
    share = torch.zeros(RESAMPLES, n, dtype=torch.float64).scatter_add_(1, draw, torch.ones(RESAMPLES, n).double()) / n
    change = ((share @ (wins[0] - wins[1])) * share).sum(1)
    low, high = change.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float((wins[0] - wins[1]).mean()), low, high


def figures(concepts: list[Concept]) -> dict[str, Any]:
    """AUROC by concept and method, with the place that was chosen, and by the number of pairs."""
    by_concept = {}
    for c in concepts:
        means = next(result for result in c.detected if result.method == "diff_means")
        by_concept[c.name] = {
            result.method: {
                "auroc": result.auroc,
                "place": result.place,
                "beside": difference(result.tests[0], means.tests[0]),
            }
            for result in c.detected
        }
    return by_concept


def by_count(title: str, concepts: list[Concept], counts: Sequence[int]) -> tuple[Table, dict[str, Any]]:
    """AUROC where fewer pairs were fitted on, all else the same."""
    shown, by_method = Table("method", *(f"{c.name}, {n}" for c in concepts for n in counts), title=title), {}
    for method in COUNTED:
        areas = {}
        for c in concepts:
            for count in counts:
                fewer = {
                    place: sides.pick(torch.arange(min(count, len(sides[0])))) for place, sides in c.read[0].items()
                }
                fit = FITS[method]
                result = detected(method, lambda sides, fit=fit: fit(*sides), [fewer, *c.read[1:]], signed=True)
                areas[f"{c.name}, {count}"] = result.auroc
        shown.add_row(method, *(f"{area:.3f}" for area in areas.values()))
        by_method[method] = areas
    return shown, by_method


def detection(title: str, concepts: list[Concept]) -> Table:
    """AUROC by method and concept, with the difference to the difference of means."""
    shown = Table("method", *(c.name for c in concepts), title=title)
    for number, result in enumerate(concepts[0].detected):
        cells = []
        for c in concepts:
            each, means = c.detected[number], next(d for d in c.detected if d.method == "diff_means")
            gap, low, high = difference(each.tests[0], means.tests[0])
            place = f" {each.place.removeprefix('resid_post.')}" if each.place else ""
            gap_text = f" {gap:+.3f} [{low:+.3f}, {high:+.3f}]" if len(each.tests) == 1 and each is not means else ""
            cells.append(f"{each.auroc:.3f}{gap_text}{place}")
        shown.add_row(result.method, *cells)
    return shown
