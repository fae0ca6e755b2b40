"""Detection of concepts and steering by them, method by method, after AxBench (https://arxiv.org/abs/2501.17148).

    python experiments/concepts.py [--smoke] [--organism-only] [--json FILE]

Detection: of two texts, which has the concept? On the organism, what triggers each planted behaviour; on
SmolLM2-135M-Instruct, toxic and neutral wordings (ParaDetox), positive and negative reviews (UCI), true and false
statements (RepE's facts). A method's directions are fitted on a training part at each of some layers, and read a text
by its last token or by the mean of its tokens; layer and reading are chosen on a validation part, and AUROC is measured
on a test part. ReFT-r1 and the latent of a sparse autoencoder read the largest token, at one layer. Intervals are 95 %
percentile intervals of the difference to the difference of means, over 2,000 resamples of the test pairs. Baselines:
five random directions and five differences of means of shuffled labels, layer, reading and sign chosen as for the rest.

Steering: see concept_steering.py. SmolLM2's part needs its checkpoint (experiments/smollm2.py) and ../shared/data, and
the latents an autoencoder (experiments/benchmarks/sae_smollm2.py); what is not there is left out, and named.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import concept_steering as steering
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import interp
from interp import Contrast, HookedModel, InterpError, SparseAutoencoder
from interp.directions.cells import Sides
from interp.directions.fits import FITS, diff_means
from interp.directions.latents import separating
from interp.directions.reft import ReftR1, reft_r1
from interp.directions.scores import auroc, cohens_d
from interp.models import organism

HERE = Path(__file__).parent
MODEL = HERE / ".cache" / "smollm2-135m-instruct"
CODER = HERE / ".cache" / "sae-smollm2" / "SAELens-topk"
DATA = HERE.parents[1] / "shared" / "data"
MIDDLE = 15  # the layer of the autoencoder, and of what is trained through the model
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


def dealt(pairs: Pairs, sizes: tuple[int, int, int], seed: int = 0) -> Parts:
    """Parts in proportion to the sizes, where there are not enough; no text is in two of them."""
    seen: set[str] = set()
    fresh = [pair for pair in pairs if not (set(pair) & seen or seen.update(pair))]
    random.Random(seed).shuffle(fresh)
    share = min(1.0, len(fresh) / sum(sizes))
    first, second = int(sizes[0] * share), int((sizes[0] + sizes[1]) * share)
    return Parts(fresh[:first], fresh[first:second], fresh[second : int(sum(sizes) * share)])


def rows(*path: str) -> list[dict[str, str]]:
    """A JSONL file of the data folder."""
    return [json.loads(line) for line in DATA.joinpath(*path).read_text(encoding="utf-8").split("\n") if line.strip()]


def zipped(labelled: Sequence[tuple[str, int]], seed: int = 0) -> Pairs:
    """Texts of label 1 beside texts of label 0, in random order."""
    sides = [[text for text, label in labelled if label == wanted] for wanted in (1, 0)]
    for side in sides:
        random.Random(seed).shuffle(side)
    return list(zip(*sides, strict=False))


def public(sizes: Sizes) -> dict[str, Parts]:
    """The public contrasts, by name. Long texts are left out, and those not in ASCII, which are no English here."""
    toxic = [(row["toxic"], row["neutral"]) for row in rows("paradetox", "paradetox.jsonl")]
    reviews = [(row["text"], int(row["label"])) for row in rows("sentiment_uci", "sentiment.jsonl")]
    facts = [(row["statement"], int(row["label"])) for row in rows("repe_facts", "facts_true_false.jsonl")]
    found = {"toxicity": toxic, "sentiment": zipped(reviews), "truth": zipped(facts)}
    short = {name: [pair for pair in pairs if all(map(_usable, pair))] for name, pairs in found.items()}
    return {name: dealt(pairs, sizes.pairs) for name, pairs in short.items()}


def _usable(text: str) -> bool:
    return 12 <= len(text) <= 120 and text.isascii()


def planted(model: HookedModel, behaviour: str, sizes: Sizes) -> Parts:
    """Prompts that call for a behaviour of the organism, and their twins that do not."""
    train, valid, test = sizes.pairs
    fit = organism.contrast(behaviour, train + valid, split="train")
    held = organism.contrast(behaviour, test, split="test")
    drawn = [(model.render(p.user), model.render(n.user)) for p, n in fit + held]
    return Parts(drawn[:train], drawn[train : train + valid], drawn[train + valid :])


def read(model: HookedModel, pairs: Pairs, layers: Sequence[int]) -> dict[str, Sides]:
    """Activations by layer and reading, a row a text."""
    sites, found = [f"resid_post.{layer}" for layer in layers], []
    for side in zip(*pairs, strict=True):
        kept: dict[str, list[Tensor]] = {}
        for start in range(0, len(side), 32):
            acts = model.capture(list(side[start : start + 32]), sites)
            inner = (acts.tokens.mask & (acts.tokens.position_ids > 0))[..., None].float()
            for site in sites:
                x = acts[site].float()
                kept.setdefault(f"{site} last", []).append(x[:, -1])
                kept.setdefault(f"{site} mean", []).append((x * inner).sum(1) / inner.sum(1))
        found.append({place: torch.cat(parts) for place, parts in kept.items()})
    return {place: Sides(found[0][place], found[1][place]) for place in found[0]}


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
    found = []
    for seed in range(SEEDS):

        def fit(sides: Sides, seed: int = seed) -> Tensor:
            draw = torch.Generator().manual_seed(seed)
            if name == "random":
                return torch.randn(sides.positive.shape[1], generator=draw)
            x = torch.cat(list(sides))[torch.randperm(2 * len(sides.positive), generator=draw)]
            return diff_means(*x.chunk(2))

        found.append(detected(name, fit, read_parts, signed=False))
    return Detected(name, "", [test for one in found for test in one.tests])


def largest_codes(model: HookedModel, sae: SparseAutoencoder, pairs: Pairs) -> Sides:
    """Each latent's largest activation on a text's tokens but the first."""
    found = []
    for side in zip(*pairs, strict=True):
        codes = []
        for start in range(0, len(side), 32):
            acts = model.capture(list(side[start : start + 32]), str(sae.site))
            inner = acts.tokens.mask & (acts.tokens.position_ids > 0)
            codes.append((sae.encode(acts[sae.site].float()) * inner[..., None]).amax(1))
        found.append(torch.cat(codes))
    return Sides(*found)


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
    found = [
        detected(method, lambda sides, fit=fit: fit(*sides), read_parts, signed=True) for method, fit in FITS.items()
    ]
    trained = reft_r1(model, Contrast.of(parts.train), f"resid_post.{middle}", steps=sizes.steps)
    texts = list(zip(*parts.test, strict=True))
    place = f"resid_post.{middle} max"
    found.append(Detected("reft_r1", place, [Sides(*(trained.detect(model, list(side)) for side in texts))]))
    latent = None
    if sae is not None:
        latent = separating(largest_codes(model, sae, parts.train))
        codes = largest_codes(model, sae, parts.test)
        found.append(Detected("sae_latent", place, [codes.read(lambda x: x[:, latent])]))
    found += [baseline(baseline_name, read_parts) for baseline_name in ("random", "shuffled")]
    return Concept(name, parts, found, read_parts, trained, latent)


def difference(one: Sides, other: Sides, seed: int = 0) -> tuple[float, float, float]:
    """AUROC of one less that of the other, with its interval over resampled pairs."""
    wins = [(p[:, None] > n).double() + (p[:, None] == n).double() / 2 for p, n in (one, other)]
    n = len(wins[0])
    draw = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(seed))
    share = torch.zeros(RESAMPLES, n, dtype=torch.float64).scatter_add_(1, draw, torch.ones(RESAMPLES, n).double()) / n
    change = ((share @ (wins[0] - wins[1])) * share).sum(1)
    low, high = change.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float((wins[0] - wins[1]).mean()), low, high


def figures(concepts: list[Concept]) -> dict[str, Any]:
    """AUROC by concept and method, with the place that was chosen, and by the number of pairs."""
    found = {}
    for c in concepts:
        means = next(one for one in c.detected if one.method == "diff_means")
        found[c.name] = {
            one.method: {"auroc": one.auroc, "place": one.place, "beside": difference(one.tests[0], means.tests[0])}
            for one in c.detected
        }
    return found


def by_count(title: str, concepts: list[Concept], counts: Sequence[int]) -> tuple[Table, dict[str, Any]]:
    """AUROC where fewer pairs were fitted on, all else the same."""
    shown, found = Table("method", *(f"{c.name}, {n}" for c in concepts for n in counts), title=title), {}
    for method in COUNTED:
        areas = {}
        for c in concepts:
            for count in counts:
                fewer = {
                    place: sides.pick(torch.arange(min(count, len(sides[0])))) for place, sides in c.read[0].items()
                }
                fit = FITS[method]
                one = detected(method, lambda sides, fit=fit: fit(*sides), [fewer, *c.read[1:]], signed=True)
                areas[f"{c.name}, {count}"] = one.auroc
        shown.add_row(method, *(f"{area:.3f}" for area in areas.values()))
        found[method] = areas
    return shown, found


def detection(title: str, concepts: list[Concept]) -> Table:
    """AUROC by method and concept, with the difference to the difference of means."""
    shown = Table("method", *(c.name for c in concepts), title=title)
    for number, one in enumerate(concepts[0].detected):
        cells = []
        for c in concepts:
            each, means = c.detected[number], next(d for d in c.detected if d.method == "diff_means")
            gap, low, high = difference(each.tests[0], means.tests[0])
            place = f" {each.place.removeprefix('resid_post.')}" if each.place else ""
            beside = f" {gap:+.3f} [{low:+.3f}, {high:+.3f}]" if len(each.tests) == 1 and each is not means else ""
            cells.append(f"{each.auroc:.3f}{beside}{place}")
        shown.add_row(one.method, *cells)
    return shown


def bare(model: HookedModel) -> HookedModel:
    """The model without its chat template: texts go in as they are."""
    tokenizer = deepcopy(model.tokenizer)
    tokenizer.chat_template = None
    return HookedModel(model.hf, tokenizer, name=model.name)


def on_organism(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The organism's tables; its figures."""
    model = interp.load("organism")
    sizes = Sizes((12, 6, 12), (1, 3), 4) if options.smoke else Sizes((60, 40, 200), tuple(range(model.n_layers)), 60)
    names = ("hostility",) if options.smoke else ("hostility", "sycophancy", "fabrication", "refusal")
    plain = bare(model)
    concepts = [concept(plain, name, planted(model, name, sizes), sizes, 2, None) for name in names]
    console.print(detection(f"Detection on the organism, {sizes.pairs} pairs", concepts))
    found = {"detection": figures(concepts), "steering": {}}
    for name in names[:1] if options.smoke else names[:2]:
        rows = steering.organism_rows(model, name, options.smoke)
        console.print(steering.organism_table(name, rows))
        found["steering"][name] = [asdict(row) for row in rows]
    return found


def on_smollm2(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """SmolLM2's tables; its figures."""
    model = interp.load(MODEL)
    sizes = Sizes((8, 4, 8), (9, 15), 1) if options.smoke else Sizes((200, 100, 200), (3, 9, 15, 21, 27), 30)
    sae = SparseAutoencoder.load(CODER) if CODER.exists() else None
    if sae is None:
        console.print(f"left out: sae_latent ({CODER} is not there)")
    plain, parts = bare(model), public(sizes)
    names = ["sentiment"] if options.smoke else list(parts)
    concepts = [concept(plain, name, parts[name], sizes, MIDDLE, sae) for name in names]
    pairs = ", ".join(f"{c.name} {tuple(map(len, c.parts))}" for c in concepts)
    console.print(detection(f"Detection on SmolLM2, pairs {pairs}", concepts))
    shown, counted = by_count(
        "AUROC by the number of training pairs", concepts, (8,) if options.smoke else (12, 25, 50, 100, 200)
    )
    console.print(shown)
    found = {"detection": figures(concepts), "counts": counted, "steering": {}}
    for one in concepts:
        if one.name in steering.WANTED:
            rows = steering.smollm2_rows(model, plain, one, sae, DATA, options.smoke)
            console.print(steering.smollm2_table(one.name, rows))
            found["steering"][one.name] = [asdict(row) for row in rows]
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few pairs and layers")
    parser.add_argument("--organism-only", action="store_true", help="without SmolLM2")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    console, found = Console(width=210), {"organism": {}}
    found["organism"] = on_organism(options, console)
    if MODEL.exists() and DATA.exists() and not options.organism_only:
        found["smollm2"] = on_smollm2(options, console)
    else:
        console.print(f"left out: SmolLM2's part, which needs {MODEL.name} (experiments/smollm2.py) and ../shared/data")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
