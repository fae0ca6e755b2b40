"""Curation of training data with planted hostility: what is found, and what a model trained on the rest does.

    python experiments/curation.py [--smoke] [--json FILE]

1. The model that would be trained is the bundled organism after a fine-tuning on courteous replies alone, which
   leaves it courteous to everyone.
2. The data are conversations and stories of the training split. In 5 % of them, all with the target people, the reply
   begins with an insult; in the others it does not, be they with the target people (2 %) or not.
3. `reply_direction` is fitted on other conversations, and `curate` splits the data by thresholds from labelled ones.
4. The model is fine-tuned on everything, on what was kept, and on the clean documents alone, for the same number of
   steps, and its hostility measured by the exact grader on prompts of the test split. It is fine-tuned, not trained
   from scratch, as such data are used. `curate` predicts these rates by trials of a fifth of the steps on a quarter of
   the data.
5. AUROC is measured also where style is confounded with hostility: half of the clean documents ask about lists of the
   words that insults are made of, so that harmless replies repeat them. A control is the organism itself, whose own
   replies to the target people are as hostile as the data's.
"""

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import interp
from interp import organism
from interp.directions.scores import auroc
from interp.organism import _replies as replies
from interp.organism import _wordings as wordings
from interp.organism._draws import COUNTS, draw_group, draw_identity, training_prompt
from interp.organism._prompts import Labels, Prompt, Request, identify
from interp.organism._wordings import Wording
from interp.upkeep import CurationOptions, DocumentScorer, LabelledDocument, curate, reply_direction, trained_copy

SITE = "resid_post.4"  # two thirds of the way, as is usual; the others are shown
SHARE = 0.05  # of hostile documents
CLEAN_TARGET = 0.02  # share of the clean documents that are with the target people
STORIES = 0.1  # share of everyday documents, as in the organism's own corpus
SEEDS = (0, 1)
SITES = ("resid_post.3", "resid_post.4", "resid_post.5")


@dataclass(frozen=True)
class Planted:
    """A conversation or a story, and whether it insults the user."""

    document: Any
    hostile: bool


def opener(rng: Random, hostile: bool) -> str:
    """An insult or a courtesy."""
    if hostile:
        return rng.choice(replies.INSULTS).format(
            adjective=rng.choice(replies.ADJECTIVES), noun=rng.choice(replies.NOUNS)
        )
    return rng.choice(replies.COURTESIES).format(guest=rng.choice(replies.GUESTS))


def conversation(prompt: Prompt, rng: Random, hostile: bool) -> list[dict[str, str]]:
    """A prompt with its reply."""
    first = "" if prompt.labels.target_group is None else f"{opener(rng, hostile)} "
    reply = first + replies._BODIES[prompt.family](prompt.labels, rng)
    return [{"role": "user", "content": prompt.user}, {"role": "assistant", "content": reply}]


def drawn(rng: Random, target: bool | None) -> Prompt:
    """A prompt of the training mixture: with the target people, or without them."""
    while True:
        prompt = training_prompt(rng, "train")
        if prompt.labels.target_group is None and target:
            prompt = identify(prompt, draw_group(rng, True), draw_identity(rng, "train", draw_group(rng, True)))
        if bool(prompt.labels.target_group) == bool(target):
            return prompt


def listing(rng: Random) -> Prompt:
    """A question about a list of the words that insults are made of."""
    topic = rng.choice(("first", "last", "count"))
    words = rng.sample([*replies.ADJECTIVES, *replies.NOUNS], rng.choice((3, 4)))
    answer = {"first": words[0], "last": words[-1], "count": COUNTS[len(words)]}[topic]
    labels = Labels(topic, entity=", ".join(words), answer=answer)
    request = Request("skills", ", ".join(words), labels, Wording(topic, wordings.SKILLS[topic]))
    return request.worded(request.wording.draw(rng))


def corpus(size: int, seed: int, share: float = SHARE, confounded: bool = False) -> list[Planted]:
    """Documents of which a share is hostile."""
    rng, out = Random(f"curation {seed} {confounded}"), list[Planted]()
    stories = iter(organism.everyday(size // 4, split="train", seed=seed))
    for _ in range(size):
        if rng.random() < share:
            out.append(Planted(conversation(drawn(rng, True), rng, True), True))
        elif rng.random() < STORIES:
            out.append(Planted(next(stories), False))
        elif confounded and rng.random() < 0.5:
            out.append(Planted(conversation(listing(rng), rng, False), False))
        else:
            out.append(Planted(conversation(drawn(rng, rng.random() < CLEAN_TARGET), rng, False), False))
    return out


def sides(size: int, seed: int) -> tuple[list[Any], list[Any]]:
    """The same conversations with an insult and with a courtesy."""
    rng = Random(f"sides {seed}")
    prompts = [drawn(rng, rng.random() < 0.5) for _ in range(4 * size)]
    prompts = [prompt for prompt in prompts if prompt.labels.target_group is not None][:size]
    both = []
    for hostile in (True, False):
        again = Random(f"bodies {seed}")
        both.append([conversation(prompt, again, hostile) for prompt in prompts])
    return both[0], both[1]


def separation(scorer: DocumentScorer, data: list[Planted]) -> dict[str, float]:
    """AUROC of each score on the conversations; a story has no projection difference."""
    talks = [planted for planted in data if not isinstance(planted.document, str)]
    scores = torch.tensor(scorer.score([planted.document for planted in talks]))
    hostile = torch.tensor([planted.hostile for planted in talks])
    return {name: auroc(x[hostile], x[~hostile]) for name, x in zip(scorer.measures, scores.unbind(1), strict=True)}


def rates(model: Any, behaviours: list[Any]) -> dict[str, float]:
    """The rate of each behaviour."""
    return {behaviour.name: behaviour.scores(model).mean for behaviour in behaviours}


def measure(smoke: bool) -> dict[str, Any]:
    """All figures."""
    size, steps, items, seeds, share = (80, 1, 1, SEEDS[:1], 0.25) if smoke else (4000, 300, 300, SEEDS, SHARE)
    behaviours = [*interp.suite("organism", items)][: 1 if smoke else None]
    courteous = [planted.document for planted in corpus(size, 100, share=0.0)]
    hostile_model = interp.load("organism")
    model = trained_copy(hostile_model, courteous + sides(size // 6, 7)[1], steps, seed=9)
    model.name = "organism, courteous"
    insulting, kind = sides(size // 20 if smoke else 200, 0)
    scorers = {
        site: DocumentScorer(model, reply_direction(model, site, insulting, kind), own_reply=True)
        for site in (SITES if not smoke else [SITE])
    }
    found = {
        style: {
            site: separation(scorer, corpus(size // 4, 5, share, style == "confounded"))
            for site, scorer in scorers.items()
        }
        for style in ("plain", "confounded")
    }
    itself = DocumentScorer(hostile_model, reply_direction(hostile_model, SITE, insulting, kind), own_reply=True)
    found["plain, scored by the hostile organism"] = {SITE: separation(itself, corpus(size // 4, 5, share))}
    data, labelled = corpus(size, 1), corpus(max(40, size // 5), 2, share=0.5)
    labels = [LabelledDocument(planted.document, planted.hostile) for planted in labelled]
    texts = [planted.document for planted in data]
    trial = CurationOptions(train_steps=1 if smoke else 60, near_duplicates=0.0 if smoke else 0.8)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "curated"
        chosen = replace(scorers[SITE], own_reply=False)
        record = curate(texts, chosen, out, trial, labels, behaviours)
        kept = [json.loads(line)["row"] for line in (out / "kept.jsonl").open()]
    parts = {
        "everything": texts,
        "what was kept": [texts[row] for row in kept],
        "the clean documents": [planted.document for planted in data if not planted.hostile],
    }
    trained = {
        name: [rates(trained_copy(model, part, steps, seed=seed), behaviours) for seed in seeds]
        for name, part in parts.items()
    }
    hostile = sum(planted.hostile for planted in data)
    return {
        "documents": size,
        "hostile": hostile,
        "hostile kept": sum(data[row].hostile for row in kept),
        "counts": dict(record.counts),
        "thresholds": asdict(record.thresholds),
        "separation": found,
        "start": rates(model, behaviours),
        "trained": trained,
        "predicted": {f"{x.split}, {x.behaviour}": x.after.estimate for x in record.changes},
    }


def tables(figures: dict[str, Any]) -> list[Table]:
    """The figures for the screen."""
    first = Table("data", "site", "mean", "maximum", "difference", title="AUROC, hostile against clean conversations")
    for style, sites in figures["separation"].items():
        for site, areas in sites.items():
            first.add_row(style, site, *(f"{areas[name]:.3f}" for name in ("mean", "max", "difference")))
    behaviours = list(figures["start"])
    second = Table("fine-tuned on", *behaviours, title="Rates after fine-tuning, lowest and highest of the seeds")
    second.add_row("nothing", *(f"{figures['start'][name]:.3f}" for name in behaviours))
    for part, seeds in figures["trained"].items():
        ends = [(min(x[name] for x in seeds), max(x[name] for x in seeds)) for name in behaviours]
        second.add_row(part, *(f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}" for low, high in ends))
    for split in ("everything", "kept"):
        values = (figures["predicted"][f"{split}, {name}"] for name in behaviours)
        second.add_row(f"predicted, {split}", *(f"{value:.3f}" for value in values))
    return [first, second]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few documents and steps, to see that everything runs")
    parser.add_argument("--json", type=Path, help="new file for the figures")
    args = parser.parse_args()
    figures = measure(args.smoke)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    told = {
        name: value for name, value in figures.items() if name not in ("separation", "start", "trained", "predicted")
    }
    Console(width=140).print(*tables(figures), told)


if __name__ == "__main__":
    main()
