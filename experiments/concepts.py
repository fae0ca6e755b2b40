"""Detection of concepts and steering by them, method by method, after AxBench (https://arxiv.org/abs/2501.17148).

    python experiments/concepts.py [--smoke] [--only organism|smollm2] [--json FILE]

Detection: of two texts, which has the concept? On the organism, what triggers each planted behaviour; on
SmolLM2-135M-Instruct, toxic and neutral wordings (ParaDetox), positive and negative reviews (UCI), true and false
statements (RepE's facts). A method's directions are fitted on a training part at each of some layers, and read a text
by its last token or by the mean of its tokens; layer and reading are chosen on a validation part, and AUROC is measured
on a test part. ReFT-r1 and the latent of a sparse autoencoder read the largest token, at one layer. Intervals are 95 %
percentile intervals of the difference to the difference of means, over 2,000 resamples of the test pairs. Baselines:
five random directions and five differences of means of shuffled labels, layer, reading and sign chosen as for the rest.

Steering: see concept_steering.py. SmolLM2's part needs its checkpoint (experiments/models.py) and ../shared/data, and
the latents an autoencoder (experiments/benchmarks/sae_smollm2.py); what is not there is left out, and named.
"""

import argparse
import json
import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import concept_steering as steering
from concept_detection import Pairs, Parts, Sizes, by_count, concept, detection, figures
from rich.console import Console

import interp
from interp import HookedModel, SparseAutoencoder, organism

HERE = Path(__file__).parent
MODEL = HERE / ".cache" / "smollm2-135m-instruct"
CODER = HERE / ".cache" / "sae-smollm2" / "SAELens-topk"
DATA = HERE.parents[1] / "shared" / "data"
MIDDLE = 15  # the layer of the autoencoder, and of what is trained through the model


def dealt(pairs: Pairs, sizes: tuple[int, int, int], seed: int = 0) -> Parts:
    """Parts in proportion to the sizes, where there are not enough; no text is in two of them."""
    seen: set[str] = set()
    fresh = [pair for pair in pairs if pair[0] != pair[1] and not (set(pair) & seen or seen.update(pair))]
    random.Random(seed).shuffle(fresh)
    share = min(1.0, len(fresh) / sum(sizes))
    first, second = int(sizes[0] * share), int((sizes[0] + sizes[1]) * share)
    return Parts(fresh[:first], fresh[first:second], fresh[second : int(sum(sizes) * share)])


def rows(*path: str) -> list[dict[str, str]]:
    """A JSONL file of the data folder."""
    return [json.loads(line) for line in DATA.joinpath(*path).read_text(encoding="utf-8").split("\n") if line.strip()]


def zipped(labelled: Sequence[tuple[str, int]], seed: int = 0) -> Pairs:
    """Texts of label 1 beside texts of label 0, in random order."""
    sides = [[text for text, label in labelled if label == target] for target in (1, 0)]
    for side in sides:
        random.Random(seed).shuffle(side)
    return list(zip(*sides, strict=False))


def public(sizes: Sizes) -> dict[str, Parts]:
    """The public contrasts, by name. Long texts are left out, and those not in ASCII, which are no English here."""
    toxic = [(row["toxic"], row["neutral"]) for row in rows("paradetox", "paradetox.jsonl")]
    reviews = [(row["text"], int(row["label"])) for row in rows("sentiment_uci", "sentiment.jsonl")]
    facts = [(row["statement"], int(row["label"])) for row in rows("repe_facts", "facts_true_false.jsonl")]
    contrasts = {"toxicity": toxic, "sentiment": zipped(reviews), "truth": zipped(facts)}
    short = {name: [pair for pair in pairs if all(map(_usable, pair))] for name, pairs in contrasts.items()}
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
    results = {"detection": figures(concepts), "steering": {}}
    for name in names[:1] if options.smoke else names[:2]:
        rows = steering.organism_rows(model, name, options.smoke)
        console.print(steering.organism_table(name, rows))
        results["steering"][name] = [asdict(row) for row in rows]
    return results


def on_smollm2(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """SmolLM2's tables; its figures."""
    model = interp.load(MODEL)
    sizes = Sizes((8, 4, 8), (9, 15), 1) if options.smoke else Sizes((150, 75, 150), (3, 9, 15, 21, 27), 20)
    sae = SparseAutoencoder.load(CODER) if CODER.exists() else None
    if sae is None:
        console.print(f"left out: sae_latent ({CODER} is not there)")
    plain, parts = bare(model), public(sizes)
    names = ["sentiment"] if options.smoke else list(parts)
    concepts = [concept(plain, name, parts[name], sizes, MIDDLE, sae) for name in names]
    pairs = ", ".join(f"{c.name} {tuple(map(len, c.parts))}" for c in concepts)
    console.print(detection(f"Detection on SmolLM2, pairs {pairs}", concepts))
    shown, counted = by_count(
        "AUROC by the number of training pairs", concepts, (8,) if options.smoke else (12, 25, 50, 100, 150)
    )
    console.print(shown)
    results = {"detection": figures(concepts), "counts": counted, "steering": {}}
    for c in concepts:
        if c.name in steering.WANTED:
            rows = steering.smollm2_rows(model, plain, c, sae, DATA, options.smoke)
            console.print(steering.smollm2_table(c.name, rows))
            results["steering"][c.name] = [asdict(row) for row in rows]
    return results


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few pairs and layers")
    parser.add_argument("--only", choices=("organism", "smollm2"), help="one part of it")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    console, results = Console(width=210), {}
    if options.only != "smollm2":
        results["organism"] = on_organism(options, console)
    if options.only != "organism" and MODEL.exists() and DATA.exists():
        results["smollm2"] = on_smollm2(options, console)
    elif options.only != "organism":
        console.print(f"left out: SmolLM2's part, which needs {MODEL.name} (experiments/models.py) and ../shared/data")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
