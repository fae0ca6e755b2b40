"""Conditions: a model as it is, under the hooks of a recipe, or after an instruction, and the scores measured there.

The same behaviours are measured under several conditions and compared item by item. A condition is identified by the
digests of the weights and of the settings (config, tokenizer, generation settings), the dtype of the loaded weights,
the digest of the recipe, and the instruction.

`ScoreCache` keeps scores in a folder, one file per behaviour and condition. The name of a file is the SHA-256 of all
that the scores depend on: the condition, the digest of the behaviour, its prompts as the chat template renders them,
and the version of interp. Files are written whole or not at all, so that an interrupted audit continues with the next
behaviour, and the unedited model is measured once for all its edits. A file that is not what was stored, by the digest
in it, is measured again.

Audits are paired, so two checkpoints must read text alike (`require_comparable`). A user may name the recipe of an
edited checkpoint (`recipe_of_edit`), but an audit records a recipe only if that is established (`establish_recipe`):
its own hooks were measured, or the checkpoint is the exact fold of the recipe into the unedited model, which is made
again from that model (`interp.editing.certificate.replay`).

Limitations: whoever can write into the folder can store scores with a digest that fits them. Scores may differ in the
last digits between devices and versions of torch; use a separate cache folder for each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from interp.activations.token_rows import reloader
from interp.auditing.behaviours import Behaviour, Scores, render_prompts
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError, note
from interp.core.files import read_json, sha256_json, write_json
from interp.core.progress import track
from interp.core.shards.workers import map_in_order
from interp.editing.certificate.manifest import MANIFEST, RECIPE, ExportManifest
from interp.editing.certificate.replay import rebuild
from interp.interventions.recipe import Recipe
from interp.models.continuations import with_answers
from interp.models.hooked import HookedModel

_FORMAT = 1
_SCORING = 2  # raised whenever scorers give other scores for the same behaviour
_RENDERED: WeakKeyDictionary[HookedModel, dict[tuple[str, ...], str]] = WeakKeyDictionary()
_PROBES = 50  # prompts per behaviour on which tokenizers are compared, and answers on which templates are


def today() -> date:
    """The day in UTC, by the clock of this machine."""
    return datetime.now(UTC).date()


@dataclass(frozen=True, eq=False)
class ModelCondition(Displayed):
    """A model with the recipe and the instruction under which it is measured.

    Args:
        model: The model, unedited or edited.
        recipe: Applied by hooks during the measurement.
        instruction: A line of instruction before each prompt.

    Example:
        >>> from interp.auditing import ModelCondition, organism_behaviour
        >>> ModelCondition(model, instruction="Be kind.").scores(organism_behaviour("hostility", 4)).mean
        1.0
    """

    model: HookedModel
    recipe: Recipe | None = None
    instruction: str = ""

    @property
    def key(self) -> dict[str, str]:
        """What identifies the condition."""
        model = self.model.reference
        return {
            "model": model.digest,
            "settings": self.model.settings(chat=False),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "recipe": self.recipe.exact_digest if self.recipe else "",
            "instruction": self.instruction,
        }

    def scores(self, behaviour: Behaviour) -> Scores:
        """Measure a behaviour.

        Raises:
            InterpError: The logits are NaN, or the model is inside a `hooked` block.
        """
        if self.model.is_hooked:
            raise InterpError("the model is inside a hooked block; leave the block, and pass the recipe to the audit")
        edit = nullcontext() if self.recipe is None else self.model.hooked(self.recipe)
        with edit, self.model.instructed(self.instruction), _refuse_nan(self.model, behaviour.name):
            return behaviour.scores(self.model)


def _refuse_nan(model: HookedModel, behaviour: str) -> AbstractContextManager[Any]:
    """Raise, inside a block, as soon as the unembedding returns NaN: a broken model is not one with missing scores.

    Only the last column of a batch is checked: earlier columns may be padding, whose logits are undefined, and NaN at
    any earlier real position reaches the last one through attention.
    """

    def check(module: Any, arguments: Any, logits: Any) -> None:
        del module, arguments
        if torch.isnan(logits[:, -1] if logits.ndim == 3 else logits).any():
            problem = f"{model.name} gave NaN logits while {behaviour!r} was measured"
            raise InterpError(f"{problem}; check its weights and the scale of the edit, or load it in float32")

    return model.hf.get_output_embeddings().register_forward_hook(check)


class ScoreCache(Displayed):
    """Measured scores, kept in a folder, or in memory.

    Replies of secret behaviours are not stored, and scores with missing items are stored in memory only.

    Args:
        folder: Where to keep them, created when the first scores are stored; None keeps them in memory.

    Example:
        >>> from interp.auditing import ModelCondition, ScoreCache, organism_behaviour
        >>> behaviour = organism_behaviour("hostility", 4)
        >>> cache = ScoreCache(tmp / "scores")
        >>> cache.get(ModelCondition(model), behaviour) is None
        True
        >>> scores = cache.scores(ModelCondition(model), behaviour)
        >>> ScoreCache(tmp / "scores").get(ModelCondition(model), behaviour) == scores
        True
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = None if folder is None else Path(folder)
        self._memory: dict[str, Scores] = {}
        self._days: dict[str, str] = {}
        self._changed: set[Path] = set()

    def _card(self) -> Card:
        return str(self.folder or "in memory"), [("scores in memory", len(self._memory))]

    @property
    def remedy(self) -> str:
        """What to do when what measures is stopped."""
        place = f"from the scores in {self.folder}" if self.folder else "only with cache=FOLDER"
        return f"the same call continues {place}"

    def get(self, condition: ModelCondition, behaviour: Behaviour) -> Scores | None:
        """The scores of a behaviour under a condition; None, with a note, where their file was changed."""
        return self._stored(_key(condition, behaviour), behaviour)

    def day(self, condition: ModelCondition, behaviour: Behaviour) -> str:
        """The day on which scores here were measured, YYYY-MM-DD; empty if unknown."""
        return self._days.get(sha256_json(_key(condition, behaviour)), "")

    def scores(self, condition: ModelCondition, behaviour: Behaviour) -> Scores:
        """The stored scores, or else those measured now, which are stored."""
        return self.get(condition, behaviour) or self.keep(condition, behaviour, condition.scores(behaviour))

    def keep(self, condition: ModelCondition, behaviour: Behaviour, measured: Scores) -> Scores:
        """Store what was measured today; returns it as it is stored."""
        key = _key(condition, behaviour)
        stored = _without_secrets(measured, behaviour)
        day = self._days[sha256_json(key)] = today().isoformat()
        # A judge that failed may respond when the audit runs again, which then measures these items again.
        if self.folder is not None and not stored.missing:
            values = {"values": list(stored.values), "replies": list(stored.replies)}
            content = {"format": _FORMAT, "key": key, "day": day, **values}
            write_json(self.folder / f"{sha256_json(key)}.json", content | {"sha256": sha256_json(content)})
        self._memory[sha256_json(key)] = stored
        return stored

    def fill(
        self, pairs: Sequence[tuple[ModelCondition, Behaviour]], workers: int | str = 1, title: str = "audit"
    ) -> None:
        """Measure and store what is not stored yet.

        Args:
            pairs: Each condition with a behaviour.
            workers: Processes that measure side by side, each with the models from their files; one measures in this
                process. A text is the address of a Ray cluster.
            title: What progress calls it.

        Raises:
            InterpError: As `ModelCondition.scores`; or a worker has another model, or reads text in another way.
        """
        missing = {sha256_json(key): pair for pair in pairs if self._stored(key := _key(*pair), pair[1]) is None}
        if not missing:
            return
        models = list(dict.fromkeys(condition.model for condition, _ in missing.values()))
        opened = (lambda: models) if workers == 1 else partial(_reloaded, [reloader(model) for model in models])
        jobs = [_Job(name, models.index(x.model), x.recipe, x.instruction, y) for name, (x, y) in missing.items()]
        sizes = {job.name: len(job.behaviour) for job in jobs}
        # In this process a behaviour's own progress counts, too
        items = track(jobs, title, size=lambda job: sizes[job.name], unit="items") if workers == 1 else jobs
        with closing(map_in_order(opened, _scores, items, workers, models[0].device.type)) as measured:
            total, size = sum(sizes.values()), lambda pair: sizes[pair[0].name]
            for job, scores in measured if workers == 1 else track(measured, title, total, size, "items"):
                self.keep(*missing[job.name], scores)

    def _stored(self, key: dict[str, str], behaviour: Behaviour) -> Scores | None:
        name = sha256_json(key)
        file = None if self.folder is None else self.folder / f"{name}.json"
        if name not in self._memory and file is not None and file not in self._changed and file.is_file():
            try:
                self._memory[name], self._days[name] = _read(file, key, behaviour)
            except (KeyError, TypeError, ValueError) as problem:
                self._changed.add(file)
                note(f"{file}: not the scores that were stored ({problem}); {behaviour.name} is measured again")
        return self._memory.get(name)


@dataclass(frozen=True)
class _Job:
    """A behaviour, and the condition that a worker measures it under."""

    name: str  # SHA-256 of all that the scores depend on
    model: int
    recipe: Recipe | None
    instruction: str
    behaviour: Behaviour


def _reloaded(models: list[Callable[[], HookedModel]]) -> list[HookedModel]:
    return [load() for load in models]


def _scores(models: Sequence[HookedModel], job: _Job) -> Scores:
    condition = ModelCondition(models[job.model], job.recipe, job.instruction)
    if sha256_json(_key(condition, job.behaviour)) != job.name:
        problem = f"behaviour {job.behaviour.name!r}: a worker has another model, recipe or chat template"
        raise InterpError(f"{problem} than this process; give it the same version of interp and the same files")
    return _without_secrets(condition.scores(job.behaviour), job.behaviour)


def _without_secrets(scores: Scores, behaviour: Behaviour) -> Scores:
    return replace(scores, replies=()) if behaviour.secret else scores


def _key(condition: ModelCondition, behaviour: Behaviour) -> dict[str, str]:
    return condition.key | {
        "behaviour": behaviour.digest,
        "rendered": _rendered(condition, behaviour),
        "interp": version("interp"),
        "scoring": str(_SCORING),
    }


def _rendered(condition: ModelCondition, behaviour: Behaviour) -> str:
    """SHA-256 of the prompts, and of answers to the first one, as the model reads them.

    Scores depend on these, not on the chat template's text.
    """
    known = _RENDERED.setdefault(condition.model, {})
    key = (behaviour.digest, condition.model.settings(), condition.instruction)
    if key not in known:
        with condition.model.instructed(condition.instruction) as model:
            try:
                spec = behaviour.spec
                texts = render_prompts(model, behaviour.prompts, spec.get("before", ()), spec.get("chat", True))
            except InterpError as problem:  # such as a template without system messages
                texts = [str(problem)]
            texts += _answered(texts[0], [*islice(_texts_of(behaviour.spec), _PROBES)])
            known[key] = sha256_json([*texts, *model.template.ends])
    return known[key]


def _answered(prompt: str, answers: list[str]) -> list[str]:
    try:
        return list(with_answers(prompt, answers)[1])
    except InterpError as problem:
        return [str(problem)]


def _texts_of(spec: Any) -> Iterator[str]:
    """The texts in what a scorer depends on, among them the answers."""
    if isinstance(spec, str):
        yield spec
    elif isinstance(spec, Mapping | Sequence):
        for part in spec.values() if isinstance(spec, Mapping) else spec:
            yield from _texts_of(part)


def _read(file: Path, key: dict[str, str], behaviour: Behaviour) -> tuple[Scores, str]:
    content = read_json(file)
    stated = content.pop("sha256", None) if isinstance(content, dict) else None
    if stated is None or stated != sha256_json(content) or content.get("key") != key:
        raise InterpError("its SHA-256 or its key differs")
    scores = Scores(tuple(map(float, content["values"])), tuple(content["replies"]))
    behaviour.check(scores)
    return scores, str(content.get("day", ""))  # caches of earlier versions have no day


def require_comparable(before: HookedModel, after: HookedModel, behaviours: list[Behaviour]) -> None:
    """Raise if two models read text differently: scores on different tokens are not pairs.

    Losses per token and margins depend on the tokenisation, replies on the chat template.
    """
    old, new = before.tokenizer, after.tokenizer
    if old is new:
        return
    if old is None or new is None:
        difference = f"{(before if old is None else after).name} has none"
    elif old.get_vocab() != new.get_vocab():
        entries = set(old.get_vocab().items()) ^ set(new.get_vocab().items())
        difference = f"{len(entries):,} entries of their vocabularies differ"
    elif old.chat_template != new.chat_template:
        difference = "their chat templates differ"
    else:
        probes = [prompt for behaviour in behaviours for prompt in behaviour.prompts[:_PROBES]]
        if all(old(text)["input_ids"] == new(text)["input_ids"] for text in probes):
            return
        difference = "they tokenise the same text differently"
    problem = f"{before.name} and {after.name} have different tokenizers ({difference})"
    raise InterpError(f"{problem}, so their scores are not pairs; give the edited checkpoint its base's tokenizer")


def recipe_of_edit(after: HookedModel | Recipe | None, stated: Recipe | None) -> Recipe | None:
    """The recipe itself, the one that the checkpoint carries, or the stated one. Raises if the last two differ."""
    if not isinstance(after, HookedModel):
        if stated is not None:
            raise InterpError("recipe= names the recipe of an edited model; without such a model omit it")
        return after
    folder = Path(after.source) / RECIPE if after.source else None
    carried = Recipe.load(folder) if folder is not None and folder.is_dir() else None
    if stated is not None and carried is not None and stated.digest != carried.digest:
        digests = f"carries recipe {carried.digest[:12]}, but recipe= is {stated.digest[:12]}"
        raise InterpError(f"{after.name} {digests}; omit recipe=, or audit the checkpoint made by that recipe")
    return stated or carried


def establish_recipe(before: HookedModel, after: HookedModel | Recipe | None) -> str:
    """The digest of the recipe that an audit of the two covers, or "" if that is not established."""
    if not isinstance(after, HookedModel):
        return after.digest if after else ""
    folder = Path(after.source or "")
    if not after.source or not (folder / MANIFEST).is_file():
        return ""
    manifest, base = ExportManifest.at(folder), before.identity
    if (manifest.base.digest, manifest.base.settings) != (base.digest, base.settings) or manifest.status != "exact":
        return ""
    try:
        manifest.check_files(folder)
        made_again = rebuild(folder, before)
    except InterpError:
        return ""
    return manifest.recipe if (made_again.recipe.digest, made_again.plan.status) == (manifest.recipe, "exact") else ""
