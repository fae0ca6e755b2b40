"""Comparisons: pairs of prompts that a model answers differently, and a metric that says how differently.

The clean prompt shows what is to be explained, and the corrupt one differs from it in what should matter. The tokens of
a pair are aligned, so that activations of one run can replace those of the other at the same place. Every metric reads
the logits at the last token, and is scaled so that the corrupt run has 0 and the clean run has 1:

    effect = (mean of metric - mean of corrupt) / (mean of clean - mean of corrupt)

Means are over pairs, so that a pair with a small gap of its own does not blow up; intervals resample pairs (percentile
bootstrap, Efron 1979). Denoising puts clean activations into the corrupt run: what is enough to restore the answer.
Noising puts corrupt activations into the clean run: what the answer needs (Heimersheim and Nanda 2024, "How to use and
interpret activation patching", arXiv:2404.15255).

Limitations: the metric reads the next token. Of a longer answer that is the first token by which it differs from the
other one; what both answers begin with is added to the prompts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import organism
from interp.attribution.metrics import KLToClean, LogitDifference, LogProbability, answer_tokens, several
from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError, note
from interp.core.inputs import numbered_lines, parse_object
from interp.data.contrast import Contrast
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.tokens import Tokens, common_length, padded

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
_LOGITS, _OF_TOKENS = LogitDifference(), (LogitDifference, LogProbability, KLToClean)
_LAYOUTS = [{"clean", "corrupt", *answers} for answers in ((), ("answer",), ("answer", "wrong"))]  # of a row
_DRAWS = 2000  # of the bootstrap
_USABLE = 0.975  # share of the draws in which clean and corrupt differ as over all pairs
_SMALLEST = 1e-6  # a smaller difference of clean and corrupt is rounding

Metric = LogitDifference | LogProbability | KLToClean | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Comparison(Displayed):
    """Pairs of prompts, clean and corrupt, and a metric.

    Args:
        clean: Prompts that show the behaviour: texts, conversations (lists of messages), or token ids; or one text.
        corrupt: As many prompts that do not, token by token like the clean ones.
        metric: `LogitDifference`, `LogProbability`, `KLToClean`, or a function of the logits at the last token,
            (batch, d_vocab), that returns a number per row.
        convention: `denoise`: clean activations go into the corrupt run. `noise`: corrupt ones into the clean run.
        alignment: Per pair the positions that belong together, (clean, corrupt), from 0; or `ends`: where lengths
            differ, the tokens that both prompts begin and end with. Default: the same positions, for which the prompts
            need the same length.
        name: Its name in errors and records.

    Raises:
        InterpError: There are no pairs, the numbers differ, the two prompts of a pair are the same, or a logit
            difference has answers without wrong ones.

    Example:
        >>> pairs = interp.attribution.Comparison.of_organism("hostility", 4).on(model)
        >>> pairs.effect(pairs.clean_values), pairs.effect(pairs.corrupt_values)
        (1.0, 0.0)
    """

    clean: str | Sequence[Prompt]
    corrupt: str | Sequence[Prompt]
    metric: Metric = _LOGITS
    convention: Literal["denoise", "noise"] = "denoise"
    alignment: Sequence[Sequence[tuple[int, int]]] | Literal["ends"] | None = None
    name: str = "comparison"

    def __post_init__(self) -> None:
        object.__setattr__(self, "clean", several(self.clean))
        object.__setattr__(self, "corrupt", several(self.corrupt))
        if not self.clean or len(self.clean) != len(self.corrupt):
            numbers = f"{len(self.clean)} clean prompts and {len(self.corrupt)} corrupt ones"
            raise InterpError(f"{self.name}: {numbers}; expected as many of each, at least one")
        for number, (clean, corrupt) in enumerate(zip(self.clean, self.corrupt, strict=True), 1):
            if clean == corrupt:
                raise InterpError(f"{self.name}, pair {number}: clean and corrupt are the same prompt; remove the pair")
        if isinstance(self.alignment, Sequence) and self.alignment != "ends" and len(self.alignment) != len(self.clean):
            raise InterpError(
                f"{self.name}: {len(self.alignment)} alignments for {len(self.clean)} pairs; give one each"
            )
        for side in ("answers", "wrong"):
            given = getattr(self.metric, side, None)
            if given is not None and len(given) != len(self.clean):
                numbers = f"{len(given)} {side} for {plural(len(self.clean), 'pair')}"
                raise InterpError(f"{self.name}: {numbers}; give one each")
        if isinstance(self.metric, LogitDifference) and (self.metric.answers is None) != (self.metric.wrong is None):
            given = "answers and no wrong ones" if self.metric.wrong is None else "wrong answers alone"
            raise InterpError(f"{self.name}: a logit difference of {given}; give both, or use a log-probability")

    def __len__(self) -> int:
        return len(self.clean)

    @classmethod
    def read(cls, file: str | Path, **options: Any) -> "Comparison":
        """Read pairs from JSONL: `clean`, `corrupt` and, if known, `answer` and `wrong`.

        Args:
            file: The file. Prompts are texts or lists of messages. Where every row has an `answer` and none a `wrong`
                one, the metric is the log-probability; with neither, the difference of the model's own answers.
            **options: Further fields of the comparison.

        Raises:
            InterpError: A row is broken; the line is named.

        Example:
            >>> row = '{"clean": "The cat", "corrupt": "The dog", "answer": " purrs", "wrong": " barks"}'
            >>> _ = (tmp / "pairs.jsonl").write_text(row)
            >>> interp.attribution.Comparison.read(tmp / "pairs.jsonl").metric.answers
            (' purrs',)
        """
        rows: list[dict[str, Any]] = []
        for place, line in numbered_lines(Path(file), "pairs in JSONL"):
            row = parse_object(line, place)
            if set(row) not in _LAYOUTS or (rows and set(row) != set(rows[0])):
                expected = "clean, corrupt and, in every row or in none, answer, or answer and wrong"
                raise InterpError(f"{place}: has the keys {', '.join(map(str, row))}; expected {expected}")
            if wrong := [key for key, value in row.items() if not _is_prompt(value, key in ("answer", "wrong"))]:
                raise InterpError(f"{place}: {wrong[0]} is {row[wrong[0]]!r}; expected a text")
            rows.append(row)
        sides = [tuple(row[key] for row in rows) for key in ("answer", "wrong") if rows and key in rows[0]]
        clean, corrupt = ([row[key] for row in rows] for key in ("clean", "corrupt"))
        metric = LogProbability(*sides) if len(sides) == 1 else LogitDifference(*sides)
        return cls._named(clean, corrupt, options, name=str(file), metric=metric)

    @classmethod
    def _named(cls, clean: Any, corrupt: Any, options: dict[str, Any], **defaults: Any) -> "Comparison":
        return cls(clean, corrupt, **defaults | options)

    @classmethod
    def of_contrast(cls, contrast: Contrast, **options: Any) -> "Comparison":
        """The prompts of a contrast as user messages: the positive side is clean, the negative one corrupt.

        Args:
            contrast: The contrast.
            **options: Further fields of the comparison, such as the metric.
        """
        clean = [pair.positive.messages for pair in contrast.pairs]
        corrupt = [pair.negative.messages for pair in contrast.pairs]
        return cls._named(clean, corrupt, options, name=contrast.name)

    @classmethod
    def of_organism(cls, behaviour: str, n: int = 16, seed: int = 0, **options: Any) -> "Comparison":
        """Pairs of a behaviour of the bundled organism: the trigger is there in the clean prompts alone.

        Args:
            behaviour: A behaviour with a trigger: hostility, sycophancy, fabrication or refusal.
            n: Number of pairs.
            seed: The same seed gives the same pairs.
            **options: Further fields of the comparison.
        """
        drawn = zip(*organism.contrast(behaviour, n, seed=seed), strict=True)
        clean, corrupt = ([prompt.messages for prompt in side] for side in drawn)
        return cls._named(clean, corrupt, options, name=f"organism.{behaviour}", alignment="ends")

    def on(self, model: HookedModel, drop: bool = False) -> "ComparedPairs":
        """The pairs as a model reads them, and the metric of both runs.

        Args:
            model: The model.
            drop: Leave out the pairs whose metric is not larger in the clean run than in the corrupt one (with
                `KLToClean`, not smaller). Default: they stay, and a note says how many they are.

        Raises:
            InterpError: The prompts of a pair have different lengths, or its answers no token that differs; the pair is
                named. The metric is not finite, or is the same in both runs.
        """
        model.require_unhooked()
        texts = [[_text(model, prompt) for prompt in side] for side in (self.clean, self.corrupt)]
        clean, corrupt = ([model.tokens(text).unpadded()[0] for text in side] for side in texts)
        given = []
        for n, (both, *ids) in enumerate(zip(zip(*texts, strict=True), clean, corrupt, strict=True)):
            place = f"{self.name}, pair {n + 1}"
            tokens, (clean[n], corrupt[n]) = answer_tokens(model, self.metric, n, both, ids, place)
            given.append(tokens)
        aligned = [self._aligned(n, a, b) for n, (a, b) in enumerate(zip(clean, corrupt, strict=True))]
        logits = [model.logits(padded(side), last=1)[:, 0] for side in (clean, corrupt)]
        chosen = [run.argmax(-1).cpu() for run in logits]
        answer, wrong = (torch.where(x < 0, own, x) for x, own in zip(torch.tensor(given).T, chosen, strict=True))
        reading = [self.values(side[None], answer, wrong, logits[0])[0].cpu() for side in logits]
        tensors = (answer, wrong, reading[0], reading[1], logits[0])
        pairs = ComparedPairs(self, padded(clean), padded(corrupt), aligned, *tensors, model=model.reference)
        return pairs.checked(drop)

    def values(
        self, logits: Float[Tensor, "edit batch d_vocab"], answer: Tensor, wrong: Tensor, clean: Tensor | None
    ) -> Float[Tensor, "edit batch"]:
        """The metric, not scaled, of logits at the last token, given those of the clean run."""
        if isinstance(self.metric, KLToClean) and clean is None:
            raise InterpError(f"{self.name}: a saved record has no logits of the clean run; compare again")
        if isinstance(self.metric, _OF_TOKENS):
            return self.metric.of(logits, answer, wrong, logits if clean is None else clean)
        values = [self.metric(rows) for rows in logits]
        if bad := [x for x in values if not isinstance(x, Tensor) or x.shape != logits.shape[1:2]]:
            returned = f"shape {tuple(bad[0].shape)}" if isinstance(bad[0], Tensor) else repr(bad[0])
            raise InterpError(f"{self.name}: the metric returned {returned}; expected a number per pair, in a tensor")
        return torch.stack(values)

    def _aligned(self, number: int, clean: list[int], corrupt: list[int]) -> list[tuple[int, int]]:
        place, shorter = f"{self.name}, pair {number + 1}", min(len(clean), len(corrupt))
        if len(clean) == len(corrupt) and self.alignment in (None, "ends"):
            return [(position, position) for position in range(shorter)]
        if self.alignment is None:
            lengths = f"clean has {plural(len(clean), 'token')} and corrupt {len(corrupt)}"
            raise InterpError(f"{place}: {lengths}; use words of as many tokens, or give an alignment")
        if self.alignment == "ends":
            first = common_length([clean, corrupt])
            last = min(common_length([clean[::-1], corrupt[::-1]]), shorter - first)
            ends = [(len(clean) - n, len(corrupt) - n) for n in range(last, 0, -1)]
            return [(position, position) for position in range(first)] + ends
        pairs = [(here, there) for here, there in self.alignment[number]]
        if wrong := [pair for pair in pairs if not (0 <= pair[0] < len(clean) and 0 <= pair[1] < len(corrupt))]:
            raise InterpError(f"{place}: alignment {wrong[0]} is outside {len(clean)} and {len(corrupt)} tokens")
        return pairs

    def _card(self) -> Card:
        metric = getattr(type(self.metric), "__name__", str(self.metric))
        return self.name, [("pairs", len(self)), ("metric", metric), ("convention", self.convention)]


@dataclass(frozen=True, eq=False)
class ComparedPairs(Displayed):
    """A comparison on a model. `Comparison.on` makes it.

    Attributes:
        comparison: The comparison.
        clean: The tokens of the clean prompts.
        corrupt: The tokens of the corrupt prompts.
        aligned: Per pair the positions that belong together, (clean, corrupt).
        answer: The token of each pair's answer, (batch).
        wrong: The token of its wrong answer, (batch).
        clean_values: The metric of the clean run, (batch).
        corrupt_values: The metric of the corrupt run, (batch).
        clean_logits: The logits of the clean run at the last token, (batch, d_vocab); None in a record that was read.
        model: The model.
        picked: Where some pairs were picked, their numbers among all, and the clean logits of all: a metric that is a
            function reads every row.
    """

    comparison: Comparison
    clean: Tokens
    corrupt: Tokens
    aligned: list[list[tuple[int, int]]]
    answer: Int[Tensor, "batch"]
    wrong: Int[Tensor, "batch"]
    clean_values: Float[Tensor, "batch"]
    corrupt_values: Float[Tensor, "batch"]
    clean_logits: Float[Tensor, "batch d_vocab"] | None = None
    model: ModelReference | None = None
    picked: tuple[Int[Tensor, "batch"], Float[Tensor, "all d_vocab"]] | None = None

    def __len__(self) -> int:
        return len(self.answer)

    @property
    def base(self) -> Tokens:
        """The run that is patched."""
        return self.corrupt if self.comparison.convention == "denoise" else self.clean

    @property
    def source(self) -> Tokens:
        """The run whose activations are put in."""
        return self.clean if self.comparison.convention == "denoise" else self.corrupt

    @property
    def base_values(self) -> Float[Tensor, "batch"]:
        """The metric of the run that is patched, without a patch."""
        return self.corrupt_values if self.comparison.convention == "denoise" else self.clean_values

    @property
    def columns(self) -> Int[Tensor, "batch pos"]:
        """The source's column for each column of the base; -1 where there is none."""
        base, source = self.base, self.source
        columns = torch.full(base.ids.shape, -1)
        for row, pairs in enumerate(self.aligned):
            for clean, corrupt in pairs:
                here, there = (corrupt, clean) if self.comparison.convention == "denoise" else (clean, corrupt)
                before = [side.ids.shape[1] - int(side.lengths[row]) for side in (base, source)]
                columns[row, before[0] + here] = before[1] + there
        return columns

    @property
    def whole(self) -> Int[Tensor, "n"]:
        """The numbers of the pairs whose tokens are aligned one by one, all of them: `pick` keeps these."""
        lengths = zip(self.clean.lengths.tolist(), self.corrupt.lengths.tolist(), self.aligned, strict=True)
        whole = [clean == corrupt and pairs == [(n, n) for n in range(clean)] for clean, corrupt, pairs in lengths]
        return torch.tensor(whole).nonzero()[:, 0]

    def metric(self, logits: Float[Tensor, "edit batch d_vocab"]) -> Float[Tensor, "edit batch"]:
        """The metric, not scaled, of logits at the last token under several edits."""
        if self.picked is None or isinstance(self.comparison.metric, _OF_TOKENS):
            return self.comparison.values(logits, self.answer, self.wrong, self.clean_logits)
        rows, clean = self.picked
        every = clean.to(logits).repeat(len(logits), 1, 1).index_copy(1, rows.to(logits.device), logits)
        return self.comparison.values(every, self.answer, self.wrong, None)[:, rows]

    def on(self, model: HookedModel) -> "ComparedPairs":
        """These pairs. Raises unless they were compared on this model, which is outside hooked blocks."""
        model.require_unhooked()
        if self.model is not None:
            self.model.check(model.reference, f"the pairs of {self.comparison.name}")
        return self

    def effect(self, values: Float[Tensor, "batch"]) -> float:
        """The effect of values of the metric: 0 for those of the corrupt run, 1 for those of the clean one."""
        return float(self.effects(values[None])[0])

    def effect_of(self, model: HookedModel, recipe: Recipe | Iterable[tuple[Any, Any]] = ()) -> float:
        """The effect of the clean prompts under what `model.hooked` takes: 1 in the plain run, 0 in the corrupt one.

        Example:
            >>> pairs = interp.attribution.Comparison.of_organism("hostility", 4).on(model)
            >>> pairs.effect_of(model, [("z.0", lambda z: 0 * z)]) < 0.5 < round(pairs.effect_of(model), 3)
            True
        """
        with model.hooked(recipe):
            return self.effect(self.metric(model.logits(self.clean, last=1)[None, :, 0])[0].cpu())

    def effects(self, values: Float[Tensor, "edit batch"]) -> Float[Tensor, "edit"]:
        """The effect of each edit's values."""
        return self.scaled(values, torch.ones(1, len(self), dtype=torch.float64))[0]

    def scaled(self, values: Float[Tensor, "edit batch"], weights: Float[Tensor, "draw batch"]) -> Tensor:
        """The effects under several weightings of the pairs, (draw, edit)."""
        clean, corrupt = (side.double() @ weights.T for side in (self.clean_values, self.corrupt_values))
        return ((values.double() @ weights.T - corrupt) / (clean - corrupt)).T

    def interval(self, values: Float[Tensor, "edit batch"], seed: int = 0) -> Float[Tensor, "edit 2"]:
        """The 95 % interval of each effect, over resampled pairs; unbounded where many of them turn the gap around."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(self), (_DRAWS, len(self)), generator=generator)
        weights = torch.zeros(_DRAWS, len(self), dtype=torch.float64).scatter_add_(
            1, drawn, torch.ones(drawn.shape).double()
        )
        gaps = weights @ (self.clean_values - self.corrupt_values).double()
        usable = gaps * gaps.mean() > 0
        if usable.double().mean() < _USABLE:
            return torch.tensor([-torch.inf, torch.inf]).double().expand(len(values), 2)
        return torch.quantile(self.scaled(values, weights[usable]), torch.tensor([0.025, 0.975]).double(), dim=0).T

    def _card(self) -> Card:
        subject, rows = self.comparison._card()
        clean, corrupt = (f"{side.mean():+.3f}" for side in (self.clean_values, self.corrupt_values))
        return subject, [("pairs", len(self)), *rows[1:], ("mean of clean", clean), ("mean of corrupt", corrupt)]

    def checked(self, drop: bool) -> "ComparedPairs":
        """These pairs, or those that the clean run separates from the corrupt one."""
        name, gap = self.comparison.name, self.clean_values - self.corrupt_values
        for what, values in (("clean", self.clean_values), ("corrupt", self.corrupt_values)):
            if not values.isfinite().all():
                wrong = f"the metric of the {what} run is {values}"
                raise InterpError(f"{name}: {wrong}; expected a finite number per pair")
        better = gap < 0 if isinstance(self.comparison.metric, KLToClean) else gap > 0
        if drop and not better.all():
            if not better.any():
                raise InterpError(f"{name}: the clean run has no larger metric in any pair; choose other pairs")
            return self.pick(better.nonzero()[:, 0]).checked(drop)
        if abs(gap.mean()) < _SMALLEST:
            same = f"the metric is {self.clean_values.mean():.3g} in both runs"
            raise InterpError(f"{name}: {same}, so no effect can be scaled; choose another metric or other pairs")
        if not better.all():
            worse = f"{int((~better).sum())} of {plural(len(self), 'pair')} have no larger metric in the clean run"
            note(f"{name}: {worse}; drop=True leaves them out")
        return self

    def pick(self, rows: Int[Tensor, "n"]) -> "ComparedPairs":
        """The pairs with these numbers."""
        names = ("answer", "wrong", "clean_values", "corrupt_values", "clean_logits")
        chosen = {name: x[rows] for name in names if (x := getattr(self, name)) is not None}
        aligned, sides = [self.aligned[row] for row in rows.tolist()], (self.clean.pick(rows), self.corrupt.pick(rows))
        numbers, every = self.picked or (torch.arange(len(self)), self.clean_logits)
        picked = None if every is None else (numbers[rows], every)
        return ComparedPairs(self.comparison, *sides, aligned, **chosen, model=self.model, picked=picked)


def _text(model: HookedModel, prompt: Prompt) -> str | list[int]:
    """A prompt as text, rendered where it is a conversation; ids as they are."""
    if isinstance(prompt, str):
        return prompt
    ids = [part for part in prompt if isinstance(part, int)]
    return ids or model.chat([dict(part) for part in prompt if isinstance(part, Mapping)])


def _is_prompt(value: Any, text_only: bool) -> bool:
    if isinstance(value, str) or text_only:
        return isinstance(value, str) and bool(value)
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict | int) for part in value)
