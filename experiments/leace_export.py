"""SmolLM2 exported with an eraser of a person's gender: what linear probes read of it in the checkpoint, by layer.

    python experiments/leace_export.py [--smoke] [--model FOLDER] [--rank 4] [--out docs/results/leace_export.md]
                                       [--json FILE]

Sentences of winogenerated, each with a man's and a woman's pronoun. The concept is -1 or 1 from the pronoun on and 0 in
other text, and there is one for each site of the stream, separately at the pronoun and behind it. One affine eraser is
to serve all sites, since that is what folds into a plain checkpoint: LEACE of all these concepts at once, on
activations of all sites and all tokens (sentences and text, first tokens too: an eraser fitted without the tokens that
it will meet moves them at random, and a model does not survive that), each site with the weight that makes its variance
1. Of its directions the `rank` with the largest canonical correlations are kept.

The checkpoint is exported, reloaded by plain transformers, and measured beside the original: linear probes
(scikit-learn's logistic regression on standardised activations) behind every block, trained anew for each model, at the
pronoun and at a token drawn from those behind it; perplexity on other text. Eraser, probes' training and test have
occupations of their own. Intervals: bootstrap over sentences (both pronouns together), and over documents.

What it does not say: what probes that are not linear read, and whether the model behaves otherwise.
"""

import argparse
import json
import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import interp
from interp import Recipe
from interp.data.corpora import texts
from interp.directions.methods._canonical import canonical
from interp.editing.certificate.record import Certificate
from interp.interventions import Erase
from interp.models.hooked import HookedModel
from interp.models.losses import next_token_losses
from interp.models.sites import Site
from interp.models.tokens import Tokens

MODEL = Path(__file__).parent / ".cache" / "smollm2-135m-instruct"
DATA = Path(__file__).parents[2] / "shared" / "data"
EVERYWHERE = ("resid_pre.*", "resid_mid.*", "resid_post.*")
BATCH = 32
NOTES = {
    "pronoun": "The word itself reveals its gender, along different directions in each layer. Together these exceed "
    "the rank of the eraser, which serves all sites and positions.",
    "behind": "Here probes read what the model has passed on about the person to later tokens.",
}


@dataclass(frozen=True)
class Sizes:
    """Sentences for the eraser, the probes and the test; documents for the eraser and for perplexity; their length."""

    eraser: int = 250
    probes: int = 250
    test: int = 250
    text: int = 60
    perplexity: int = 100
    length: int = 128
    resamples: int = 300


SMOKE = Sizes(16, 16, 16, 6, 6, 48, 50)


@dataclass(frozen=True, eq=False)
class Marked:
    """Sentences two by two, a man's pronoun and a woman's, with the column of each row's pronoun."""

    tokens: Tokens
    pronoun: list[int]

    @property
    def labels(self) -> np.ndarray:
        """0 and 1 in turn."""
        return np.arange(len(self.tokens)) % 2

    def concept(self) -> torch.Tensor:
        """For each token -1 or 1 at the pronoun (first) and behind it (second), else 0."""
        columns, at = torch.arange(self.tokens.ids.shape[1]), torch.tensor(self.pronoun)[:, None]
        sign = torch.tensor([-1.0, 1.0]).repeat(len(at) // 2)[:, None]
        return torch.stack([(columns == at) * sign, (columns > at) * sign], -1)


def marked(model: HookedModel, rows: list[dict]) -> Marked:
    """Both sentences of each row; those that a pronoun ends are left out."""
    sentences, starts = [], []
    for row in rows:
        before, behind = (part.strip() for part in row["sentence_with_blank"].split("_", 1))
        for pronoun in row["pronoun_options"][:2]:
            sentences.append(f"{before} {pronoun} {behind}".strip())
            starts.append(len(before) + 1 if before else 0)
    tokens, columns = model.tokens(sentences), []
    for number, (text, start) in enumerate(zip(sentences, starts, strict=True)):
        spans = model.tokenizer(text, return_offsets_mapping=True).offset_mapping
        first = next(n for n, (_, stop) in enumerate(spans) if stop > start)
        columns.append(tokens.ids.shape[1] - len(spans) + first)
        if int(tokens.lengths[number]) < len(spans):
            raise SystemExit("sentences are longer than the model's context")
    return Marked(tokens, columns)


def occupations(file: Path, sizes: Sizes) -> list[list[dict]]:
    """Rows for the eraser, the probes and the test, no occupation in two of them; with text behind the pronoun."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row for row in rows if len(row["sentence_with_blank"].split("_", 1)[1].split()) > 1]
    names = sorted({row["occupation"] for row in rows})
    random.Random(0).shuffle(names)
    part = {name: (0, 0, 1, 2)[number % 4] for number, name in enumerate(names)}
    random.Random(1).shuffle(rows)
    counts = (sizes.eraser, sizes.probes, sizes.test)
    return [[row for row in rows if part[row["occupation"]] == n][:count] for n, count in enumerate(counts)]


def documents(model: HookedModel, pattern: str, sizes: Sizes) -> tuple[Tokens, Tokens]:
    """Beginnings of documents of one length: for the eraser, and for perplexity."""
    passages = [text for text in texts(pattern) if len(text) > 6 * sizes.length]
    random.Random(0).shuffle(passages)
    ids = [model.tokenizer(text[: 12 * sizes.length]).input_ids[: sizes.length] for text in passages]
    stacked = torch.tensor([row for row in ids if len(row) == sizes.length][: sizes.text + sizes.perplexity])
    tokens = Tokens(stacked, torch.ones_like(stacked, dtype=torch.bool))
    return tokens.rows(0, sizes.text), tokens.rows(sizes.text, len(stacked))


class Pooled:
    """Moments of activations and concepts at each site, and one eraser for all of them."""

    def __init__(self, model: HookedModel):
        self.model = model
        self.sites = [s for s in model.resolve(EVERYWHERE) if s.kind != "resid_pre" or s.layer == 0]
        count, d = len(self.sites), model.d_model
        self.n, self.zz = torch.zeros(count).double(), torch.zeros(count, 2).double()
        self.x, self.xx = torch.zeros(count, d).double(), torch.zeros(count, d, d).double()
        self.xz = torch.zeros(count, d, 2).double()

    def take_in(self, tokens: Tokens, concept: torch.Tensor) -> None:
        """All real tokens."""
        for start in range(0, len(tokens), BATCH):
            rows = tokens.rows(start, start + BATCH)
            z = concept[start : start + BATCH, -rows.ids.shape[1] :][rows.mask]
            acts = self.model.capture(rows, self.sites, batch_size=BATCH, copy=False)
            for number, site in enumerate(self.sites):
                x = acts[site][rows.mask]
                self.n[number] += len(x)
                self.x[number] += x.double().sum(0)
                self.xx[number] += (x.T @ x).double()
                self.xz[number] += (x.T @ z).double()
                self.zz[number] += z.double().square().sum(0)

    def eraser(self, rank: int) -> Erase:
        """LEACE of every site's concepts, which sum to 0 over both sentences, cut to a rank."""
        mean, square = self.x / self.n[:, None], self.xx / self.n[:, None, None]
        weight = 1 / (square.diagonal(dim1=1, dim2=2) - mean.square()).sum(1)
        weight = weight / weight.sum()
        centre = weight @ mean
        sxx = torch.einsum("s,sij->ij", weight, square) - torch.outer(centre, centre)
        sxz = (weight[:, None, None] * self.xz / self.n[:, None, None]).permute(1, 0, 2).flatten(1)
        szz = torch.diag((weight[:, None] * self.zz / self.n[:, None]).flatten())
        erasure = canonical(sxx, sxz, szz, int(self.n.sum()))
        return Erase(erasure.read[:rank], erasure.write[:rank], centre, self.model.reference)


@dataclass(frozen=True)
class Probe:
    """Held-out figures of one probe, each with its 95 % interval."""

    site: str
    where: str
    auroc: tuple[float, float, float]
    accuracy: tuple[float, float, float]


def features(model: HookedModel, data: Marked, sites: list[Site]) -> dict[tuple[str, str], np.ndarray]:
    """Activations at the pronoun, and at a token behind it, the same in every model."""
    draw = random.Random(2)
    width = data.tokens.ids.shape[1]
    later = [draw.randrange(column + 1, width) for column in data.pronoun]
    activations: dict[tuple[str, str], list[torch.Tensor]] = {}
    for start in range(0, len(data.tokens), BATCH):
        rows = data.tokens.rows(start, start + BATCH)
        acts, gone = model.capture(rows, sites, batch_size=BATCH, copy=False), width - rows.ids.shape[1]
        for where, columns in (("pronoun", data.pronoun), ("behind", later)):
            at = torch.tensor(columns[start : start + BATCH]) - gone
            for site in sites:
                activations.setdefault((str(site), where), []).append(acts[site][torch.arange(len(at)), at].double())
    return {key: torch.cat(parts).numpy() for key, parts in activations.items()}


def probed(model: HookedModel, fit: Marked, test: Marked, sites: list[Site], resamples: int) -> list[Probe]:
    """Probes at every site and place."""
    train, held = features(model, fit, sites), features(model, test, sites)
    draw = np.random.default_rng(0)
    pairs = draw.integers(0, len(test.labels) // 2, (resamples, len(test.labels) // 2))
    probes = []
    for site, where in train:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        classifier.fit(train[site, where], fit.labels)
        scores = classifier.decision_function(held[site, where])
        area = interval(lambda y, s: float(roc_auc_score(y, s)), test.labels, scores, pairs)
        right = interval(lambda y, s: float(((s > 0) == y).mean()), test.labels, scores, pairs)
        probes.append(Probe(site, where, area, right))
    return probes


def interval(figure, labels: np.ndarray, scores: np.ndarray, pairs: np.ndarray) -> tuple[float, float, float]:
    """A figure with its 95 % interval, by drawing sentences again with both of their pronouns."""
    drawn = [figure(labels[i], scores[i]) for i in (np.stack([2 * p, 2 * p + 1], 1).ravel() for p in pairs)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return figure(labels, scores), float(low), float(high)


def nats(model: HookedModel, text: Tokens) -> np.ndarray:
    """Mean loss of each document."""
    losses = []
    for start in range(0, len(text), 8):
        rows = text.rows(start, start + 8)
        token_losses = next_token_losses(model.logits(rows), rows.ids, rows.predicted)
        losses.append(token_losses.view(len(rows), -1).double().mean(1))
    return torch.cat(losses).numpy()


def perplexities(before: np.ndarray, after: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Before, after, and their ratio, each with its 95 % interval over documents."""
    draw = np.random.default_rng(0).integers(0, len(before), (2000, len(before)))
    figures = {}
    for name, values in (("before", before), ("after", after), ("after / before", after - before)):
        low, high = np.quantile(np.exp(values[draw].mean(1)), [0.025, 0.975])
        figures[name] = float(np.exp(values.mean())), float(low), float(high)
    return figures


def shown(figure: tuple[float, float, float]) -> str:
    """With its interval."""
    return "{:.3f} [{:.3f}, {:.3f}]".format(*figure)


def report(results: dict, certificate: Certificate) -> str:
    """The page."""
    before, after = ({(p["site"], p["where"]): p for p in results[name]} for name in ("before", "after"))
    lines = [
        "# An eraser in the weights: what probes read of the exported checkpoint", "",
        f"Written by `{results['command']}`; the script's docstring describes the method.", "",
        f"The fold is {certificate.status}: {certificate.ops[0]}. Logits of the hooked model and the reloaded "
        f"checkpoint differ by at most {certificate.max_abs_logit_diff:.1e} (mean "
        f"{certificate.mean_abs_logit_diff:.1e}); KL is {certificate.kl:.1e} nats, and the edit's own effect "
        f"{certificate.effect_kl:.1e}. Of {certificate.generated_tokens} greedily generated tokens, "
        f"{certificate.generated_agreement:.1%} agree.",
        "", "| perplexity on other text | |", "|---|---|",
        *(f"| {name} | {shown(figure)} |" for name, figure in results["perplexity"].items()), "",
    ]  # fmt: skip
    for where in ("pronoun", "behind"):
        probes = [p for p in results["after"] if p["where"] == where]
        chance = sum(p["auroc"][1] <= 0.5 <= p["auroc"][2] for p in probes)
        means = [np.mean([p["auroc"][0] for p in results[n] if p["where"] == where]) for n in ("before", "after")]
        place = "at the pronoun" if where == "pronoun" else "at a token after the pronoun"
        lines += [
            f"## Probes {place}", "",
            f"{results['test']} held-out sentences, each with both pronouns; chance is 0.5. The mean AUROC over layers "
            f"is {means[0]:.3f} before and {means[1]:.3f} after the edit. After it, the interval contains chance at "
            f"{chance} of {len(probes)} sites. {NOTES[where]}", "",
            "| site | AUROC before | after | accuracy before | after |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for p in probes:
            old, new = before[p["site"], where], after[p["site"], where]
            cells = [shown(x) for x in (old["auroc"], new["auroc"], old["accuracy"], new["accuracy"])]
            lines.append(f"| {p['site']} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Fit, export, reload, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--smoke", action="store_true", help="few sentences and sites")
    parser.add_argument("--out", type=Path, help="page to write")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    file, text = DATA / "winogenerated" / "winogenerated.jsonl", DATA / "text_corpus" / "*.jsonl"
    for needed in (file, *([] if options.model == "organism" else [Path(options.model)])):
        if not needed.exists():
            raise SystemExit(f"{needed} is not there; see experiments/models.py for the model")
    sizes = SMOKE if options.smoke else Sizes()
    model = interp.load(options.model)
    fit, probes, test = (marked(model, rows) for rows in occupations(file, sizes))
    for_eraser, for_loss = documents(model, str(text), sizes)
    pooled = Pooled(model)
    pooled.take_in(fit.tokens, fit.concept())
    pooled.take_in(for_eraser, torch.zeros(*for_eraser.ids.shape, 2))
    recipe = Recipe([(EVERYWHERE, pooled.eraser(options.rank))], model.reference, "a person's gender erased")
    layers = range(model.n_layers)[-2 if options.smoke else 0 :]
    sites = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in layers)]
    command = f"python experiments/leace_export.py --rank {options.rank}{' --smoke' if options.smoke else ''}"
    command += f" --out docs/results/{options.out.name}" if options.out else ""
    results = {"command": command, "test": len(test.labels) // 2}
    loss = {}
    with tempfile.TemporaryDirectory() as scratch:
        certificate = interp.export(recipe, options.model, Path(scratch) / "erased")
        for name, measured in (("before", model), ("after", interp.load(Path(scratch) / "erased"))):
            results[name] = [asdict(p) for p in probed(measured, probes, test, sites, sizes.resamples)]
            loss[name] = nats(measured, for_loss)
    results |= {"perplexity": perplexities(loss["before"], loss["after"]), "certificate": certificate.to_json()}
    page = report(results, certificate)
    print(page)
    if options.out:
        options.out.write_text(page + "\n")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
