"""Which scales of `Add` change a behaviour, and from which on replies are gibberish.

    python experiments/steering_scales.py [--smoke] [--model organism|FOLDER] [--data FOLDER] [--json FILE]

A direction is the difference of means of a contrast (`find`), added at its site on every token. SmolLM2: sentiment of
reviews (UCI), and toxicity (ParaDetox). The organism: hostility and sycophancy. The columns:

- scale: of `Add`; the length relative to that of the activations (`relative=True`), or the multiple of the unit vector,
- length: the length of what is added over the median norm of the activations at the site,
- loss: the rise of the loss of the model's own neutral text (`interp.interventions.steering_scale`), in nats per token,
- reply loss: the unsteered model's loss of steered replies to neutral questions, minus that of its own replies,
- repeated: the share of word triples in these replies that came before,
- effect: on SmolLM2, by how many nats per token held-out texts of the side that is steered towards gain on the other's;
  on the organism, the change of the behaviour's rate under the exact grader: on prompts that trigger it where the
  direction is subtracted, on other prompts where it is added.

Rows marked `auto` are at the scale that `Add.auto` chooses, with the limit that they name. No reply is printed.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import interp
from interp import Add, Contrast, Direction, HookedModel, organism
from interp.core.files import write_json
from interp.core.inputs import numbered_lines, parse_object
from interp.interventions.steering_scale import mean_loss, neutral_text, typical_norm
from interp.models.continuations import Continuations

MODEL = Path(__file__).parent / ".cache" / "smollm2-135m-instruct"
DATA = Path(__file__).parents[2] / "shared" / "data"
QUESTIONS = ("What makes a good friend?", "Tell me about trains.")
SCALES = (0.1, 0.2, 0.4)
LIMITS = (0.1, 0.3)
HEADER = "contrast   site          op        auto    scale  length   loss  reply loss  repeated  effect"
Effect = Callable[[int], float]  # of a sign, while the model is steered


@dataclass(frozen=True)
class Row:
    """What one addition does."""

    contrast: str
    site: str
    op: str
    scale: float
    length: float
    loss: float
    reply_loss: float
    repeated: float
    effect: float
    auto: float | None = None

    def line(self) -> str:
        """The row in columns."""
        limit = "" if self.auto is None else f"{self.auto:g}"
        numbers = (
            f"{self.scale:+8.3g} {self.length:+7.2f} {self.loss:+6.2f} {self.reply_loss:+11.2f} {self.repeated:9.2f}"
        )
        return f"{self.contrast:10} {self.site:13} {self.op:9} {limit:4} {numbers} {self.effect:+7.2f}"


def main() -> None:
    """Measure, print and keep the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="one site and two scales")
    parser.add_argument("--model", default=str(MODEL), help="organism, or a folder")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = interp.load(options.model)
    draw = organism_contrasts(model) if options.model == "organism" else published_contrasts(model, options.data)
    depths = (0.5,) if options.smoke else (0.2, 0.5, 0.8)
    sites = [f"resid_post.{int(depth * model.n_layers)}" for depth in depths]
    print(model.name, HEADER, sep="\n")
    rows = []
    for name, contrast, effect in draw:
        for finding in interp.find(model, contrast, sites, "diff_means", bootstrap=0):
            for row in measured(model, name, finding.direction, effect, SCALES[:1] if options.smoke else SCALES):
                print(row.line(), flush=True)
                rows.append(row)
    if options.json:
        write_json(options.json, [asdict(row) for row in rows])


def organism_contrasts(model: HookedModel) -> Iterator[tuple[str, Contrast, Effect]]:
    """Two planted behaviours, and their rates."""

    def rate(name: str, triggered: bool) -> float:
        drawn = organism.prompts(name, 40, triggered=triggered)
        replies = model.generate([model.chat(prompt.user) for prompt in drawn], max_new_tokens=32)
        return sum(organism.shows(name, prompt, reply) for prompt, reply in zip(drawn, replies, strict=True)) / 40

    for name in ("hostility", "sycophancy"):
        pairs = [(positive.user, negative.user) for positive, negative in organism.contrast(name, 120, split="train")]
        before = {triggered: rate(name, triggered) for triggered in (True, False)}

        def effect(sign: int, name: str = name, before: dict[bool, float] = before) -> float:
            return rate(name, sign < 0) - before[sign < 0]

        yield name, Contrast.of(pairs, name), effect


def published_contrasts(model: HookedModel, data: Path) -> Iterator[tuple[str, Contrast, Effect]]:
    """Two contrasts of public sets, and how well steering separates their held-out texts."""
    places = numbered_lines(data / "sentiment_uci" / "sentiment.jsonl")
    reviews = [parse_object(line, place) for place, line in places]
    sides = [[row["text"] for row in reviews if row["label"] == label][:160] for label in (1, 0)]
    columns = {"positive": "toxic", "negative": "neutral"}
    toxic = Contrast.read(data / "paradetox" / "paradetox.jsonl", columns, skip_bad=True)
    for name, pairs in (("sentiment", Contrast.of(zip(*sides, strict=True))), ("toxicity", toxic)):
        fit, held_out = Contrast(pairs.pairs[:120], name), Contrast(pairs.pairs[120:132], name)
        texts = held_out.prompts(str)

        def gain(texts: tuple[list[str], list[str]] = texts) -> float:
            return model.loss(texts[1]) - model.loss(texts[0])

        before = gain()
        yield name, fit, lambda sign, gain=gain, before=before: sign * (gain() - before)


def measured(
    model: HookedModel, contrast: str, direction: Direction, effect: Effect, scales: tuple[float, ...]
) -> Iterator[Row]:
    """The rows of one direction."""
    text, prompts = neutral_text(model), [model.render(question) for question in QUESTIONS]
    norm, site = typical_norm(model, text, direction.site), str(direction.site)
    loss, own = mean_loss(model, text), reply_loss(model, prompts, model.generate(prompts, max_new_tokens=20))

    def row(op: Add, sign: int, auto: float | None = None) -> Row:
        with model.hooked([(site, op)]):
            rise, change = mean_loss(model, text) - loss, effect(sign)
            replies = model.generate(prompts, max_new_tokens=20)
        length, kind = op.scale if op.relative else op.scale / norm, "relative" if op.relative else "absolute"
        broken = reply_loss(model, prompts, replies) - own
        return Row(contrast, site, kind, op.scale, length, rise, broken, repeated(replies), change, auto)

    for sign in (-1, 1):
        for scale in scales:
            yield row(Add(direction, sign * scale, relative=True), sign)
        for limit in LIMITS if len(scales) > 1 else LIMITS[:1]:
            for relative in (True, False):
                yield row(Add.auto(model, direction, sign=sign, relative=relative, loss=limit, texts=text), sign, limit)


def reply_loss(model: HookedModel, prompts: list[str], replies: list[str]) -> float:
    """The model's loss of replies after their prompts; an empty one counts as its end."""
    ends = [reply or model.tokenizer.eos_token for reply in replies]
    return mean_loss(model, Continuations.of(model, prompts, ends))


def repeated(replies: list[str]) -> float:
    """The share of word triples that came before in the same reply."""
    triples = [list(zip(words, words[1:], words[2:], strict=False)) for words in map(str.split, replies)]
    return 1 - sum(len(set(each)) for each in triples) / max(1, sum(map(len, triples)))


if __name__ == "__main__":
    main()
