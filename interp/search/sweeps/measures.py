"""What a sweep measures: behaviours on the items that trials see, and on others that confirm the front.

The items of each behaviour are shuffled by the seed, whole groups at a time, and dealt: the first for choosing, the
rest for confirming. Trials measure the choosing items in a few parts, so that hopeless ones can stop between them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from random import Random

from interp import organism
from interp.auditing.behaviours import Behaviour, render_prompts
from interp.auditing.conditions import ModelCondition, ScoreCache
from interp.auditing.reply_divergence import reply_kl
from interp.auditing.suites import require_suite, suite
from interp.core.display import Displayed
from interp.core.errors import InterpError, nearest
from interp.core.files import read_json, write_json
from interp.core.progress import track
from interp.data.corpora import texts
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.loading import ORGANISM
from interp.search.sweeps._prefix import UneditedPrefix, lowest_layer
from interp.search.sweeps.sweep_file import KL, MeasureSettings

Scored = dict[str, list[float]]
_BENIGN = ("facts", "skills")  # of the organism
_LONGEST = 400  # characters of a benign prompt


@dataclass(frozen=True)
class Measures(Displayed):
    """Behaviours on choosing items and on confirming items, by name.

    Args:
        choose: What trials measure; the items are in random order.
        confirm: The same behaviours on items that no trial sees.
        shares: Shares of the items after which a trial is looked at.

    Example:
        >>> from interp.search.sweeps.measures import Measures
        >>> settings = interp.search.MeasureSettings(suites=("organism",), choose_items=8, confirm_items=8)
        >>> measures = Measures.read(settings, model)
        >>> len(measures.choose["hostility"]), len(measures.confirm["hostility"])
        (8, 8)
    """

    choose: Mapping[str, Behaviour]
    confirm: Mapping[str, Behaviour]
    shares: tuple[float, ...] = ()

    @classmethod
    def read(
        cls,
        settings: MeasureSettings,
        model: HookedModel,
        seed: int = 0,
        shares: Sequence[float] = (),
        folder: str | Path = ".",
        replies: Path | None = None,
    ) -> "Measures":
        """Read the behaviours, and deal their items.

        Args:
            settings: What to measure.
            model: The unedited model, which replies to the benign prompts.
            seed: Seed of the samples and of the dealing.
            shares: Shares of the items after which trials are looked at.
            folder: Folder that paths are relative to.
            replies: File that keeps the model's replies to benign prompts.

        Raises:
            InterpError: A suite cannot be read, names occur twice, or a behaviour has too few items to confirm by.
        """
        root, count = Path(folder), settings.choose_items + settings.confirm_items
        behaviours: dict[str, Behaviour] = {}
        for behaviour in _behaviours(settings, root, count, seed):
            if behaviour.name in behaviours or behaviour.name == KL:
                raise InterpError(f"measure: there is a behaviour {behaviour.name!r} already; rename one")
            behaviours[behaviour.name] = behaviour
        for name in settings.only:
            if name not in behaviours:
                raise InterpError(f"measure.only: no behaviour {name!r} in the suites; {nearest(name, behaviours)}")
        kept = [behaviour for behaviour in behaviours.values() if not settings.only or behaviour.name in settings.only]
        parts = {x.name: _dealt(x, settings.choose_items, settings.confirm_items, seed) for x in kept}
        if settings.benign is not None:
            prompts = _benign(settings, root, seed)
            written = _replies(settings, model, prompts, replies)
            kl = reply_kl(KL, model, prompts, settings.reply_tokens, settings.benign_chat, written)
            parts = {KL: _dealt(kl, settings.benign_items, settings.benign_items, seed)} | parts
        choose, confirm = ({name: part[side] for name, part in parts.items()} for side in (0, 1))
        return cls(choose, confirm, tuple(shares))

    @property
    def digests(self) -> dict[str, str]:
        """The digest of every behaviour, choosing and confirming."""
        sides = {"choose": self.choose, "confirm": self.confirm}
        return {f"{side}.{name}": x.digest for side, each in sides.items() for name, x in each.items()}

    def stages(self) -> list[dict[str, Behaviour]]:
        """The behaviours on the parts of the choosing items."""
        stages: list[dict[str, Behaviour]] = []
        for first, last in pairwise((0, *self.shares, 1)):
            parts = {name: range(round(first * len(x)), round(last * len(x))) for name, x in self.choose.items()}
            stages.append({name: self.choose[name].pick(items) for name, items in parts.items() if items})
        return stages


def _behaviours(settings: MeasureSettings, root: Path, count: int, seed: int) -> Iterator[Behaviour]:
    for name in settings.suites:
        source = root / name if require_suite(name) else name
        yield from suite(source, count, seed, root / settings.data if settings.data and name == "public" else None)
    for number, described in enumerate(settings.behaviours):
        yield described.build(root, f"measure.behaviours.{number}", count, seed)


def _dealt(behaviour: Behaviour, choose: int, confirm: int, seed: int) -> tuple[Behaviour, Behaviour]:
    """A behaviour on items to choose by, at most half of them, and on others to confirm by; no group is in both."""
    groups: dict[str, list[int]] = {}
    for number, group in enumerate(behaviour.groups or map(str, range(len(behaviour)))):
        groups.setdefault(group, []).append(number)
    order = list(groups)
    Random(seed).shuffle(order)
    first, rest, most = list[int](), list[int](), min(choose, len(behaviour) // 2)
    for group in order:
        (rest if len(first) + len(groups[group]) > most else first).extend(groups[group])
    if len(first) < 2 or len(rest) < 2:
        sizes = f"{len(behaviour)} items in {len(groups)} groups: {len(first)} to choose by, {len(rest)} to confirm by"
        raise InterpError(f"behaviour {behaviour.name!r} has {sizes}; expected two of each or more")
    return behaviour.pick(first), behaviour.pick(rest[:confirm])


def _benign(settings: MeasureSettings, root: Path, seed: int) -> list[str]:
    count, source = 2 * settings.benign_items, str(settings.benign)
    if source == ORGANISM:
        drawn = (organism.prompts(name, settings.benign_items, split="test", seed=seed) for name in _BENIGN)
        return [prompt.user for prompts in drawn for prompt in prompts]
    read = islice(texts(root / source, settings.benign_field), 50 * count)
    prompts = list(dict.fromkeys(prompt for prompt in read if len(prompt) <= _LONGEST))
    Random(seed).shuffle(prompts)
    return prompts[:count]


def _replies(settings: MeasureSettings, model: HookedModel, prompts: list[str], file: Path | None) -> list[str]:
    if file is not None and file.is_file():
        return read_json(file)
    texts = render_prompts(model, prompts, chat=settings.benign_chat)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # less padding
    written = model.generate([texts[n] for n in order], max_new_tokens=settings.reply_tokens, chat=False)
    replies = [reply for _, reply in sorted(zip(order, written, strict=True))]
    if file is not None:
        write_json(file, replies)
    return replies


class Bench:
    """Measures recipes on the choosing items, part by part, with the unedited prefix kept.

    Args:
        model: The model.
        measures: What to measure.
        cache: Where the scores of the unedited model are kept.
        first: Behaviours that are measured before others; the KL is the last of them.
        reuse: Whether the unedited prefix is computed once for all trials.
        base: The scores of the unedited model, if they are known.

    Example:
        >>> from interp.search.sweeps.measures import Bench, Measures
        >>> settings = interp.search.MeasureSettings(suites=("organism",), only=("hostility",), choose_items=8)
        >>> bench = Bench(model, Measures.read(settings, model))
        >>> bench.base["hostility"][:3]
        [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        model: HookedModel,
        measures: Measures,
        cache: ScoreCache | None = None,
        first: Sequence[str] = (),
        reuse: bool = True,
        base: Scored | None = None,
    ):
        self.model, self.measures = model, measures
        order = sorted(measures.choose, key=lambda name: (name not in first, name == KL))  # which takes longest
        self.parts = [stage[name] for stage in measures.stages() for name in order if name in stage]
        self.prefix = UneditedPrefix(model) if reuse else None
        self.cache = cache or ScoreCache()
        self.base = base or self._unedited()

    def _unedited(self) -> Scored:
        scores: Scored = {name: [] for name in self.measures.choose}
        for part in track(self.parts, "unedited", size=len, unit="items"):
            with self._prefix(self.model.n_layers):
                scores[part.name] += self.cache.scores(ModelCondition(self.model), part).values
        return scores

    def _prefix(self, lowest: int) -> AbstractContextManager[None]:
        return nullcontext() if self.prefix is None else self.prefix.reused(lowest)

    def measure(self, recipe: Recipe, hopeless: Callable[[Scored], str] = lambda scores: "") -> tuple[Scored, str]:
        """The scores of a recipe, and why it was stopped before all items; empty if it was not.

        Args:
            recipe: The recipe.
            hopeless: Given the scores so far, says why the trial should stop; called after each behaviour of each part.
        """
        scores: Scored = {name: [] for name in self.measures.choose}
        condition, lowest = ModelCondition(self.model, recipe), lowest_layer(recipe, self.model)
        for number, part in enumerate(self.parts, 1):
            with self._prefix(lowest):
                scores[part.name] += condition.scores(part).values
            if number < len(self.parts) and (reason := hopeless(scores)):
                return scores, reason
        return scores, ""
