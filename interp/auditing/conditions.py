"""A condition: a model as it is measured, which is as it is, under a recipe's hooks, or given an instruction.

The same behaviours are measured under several conditions and compared item by item. What identifies a condition is the
digests of the weights and of the model's settings (config, tokenizer, chat template), the type that the weights were
loaded in, the recipe's digest and the instruction.

Carried: which recipe an edited model was made by, and whether an audit of the model is one of that recipe.

A recipe may be named for the baselines' sake. An audit says that it is of a recipe only where that is established: the
recipe's own hooks were measured, or a checkpoint whose manifest tells that it is the recipe's exact fold into the model
before the edit, and whose files are as they were exported.

What it does not know: whether weights were changed in memory after they were loaded.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp.auditing.behaviours import Behaviour, Scores
from interp.core.errors import InterpError
from interp.editing.certificate.manifest import MANIFEST, RECIPE, ExportManifest
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel

_PROBES = 50  # prompts a behaviour on which tokenizers are compared


@dataclass(frozen=True, eq=False)
class ModelCondition:
    """A model, what is done to it, and what it is told."""

    model: HookedModel
    recipe: Recipe | None = None
    instruction: str = ""

    @property
    def key(self) -> dict[str, str]:
        """What identifies it."""
        model = self.model.identity
        return {
            "model": model.digest,
            "settings": model.settings,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "recipe": self.recipe.digest if self.recipe else "",
            "instruction": self.instruction,
        }

    def scores(self, behaviour: Behaviour) -> Scores:
        """Measure a behaviour. Raises for logits that are NaN, by the behaviour's name, and inside `hooked` blocks."""
        if self.model.inside_hooked:
            raise InterpError(
                "an audit inside a hooked block would file the edited model's scores as the plain one's; leave the "
                "block, and give the audit the recipe"
            )
        with ExitStack() as stack:
            if self.recipe is not None:
                stack.enter_context(self.model.hooked(self.recipe))
            stack.enter_context(self.model.instructed(self.instruction))
            stack.enter_context(_no_nan(self.model, behaviour.name))
            return behaviour.scores(self.model)


@contextmanager
def _no_nan(model: HookedModel, behaviour: str) -> Iterator[None]:
    """Raise as soon as the unembedding gives NaN: a broken model must not pass for one whose scores are missing.

    Of a batch the last column is looked at, since padding before it may be NaN by right; what is NaN anywhere before
    reaches it through attention.
    """

    def look(module: Any, arguments: Any, logits: Any) -> None:
        del module, arguments
        if torch.isnan(logits[:, -1] if logits.ndim == 3 else logits).any():
            raise InterpError(
                f"{model.name} gave NaN logits while {behaviour!r} was measured; check its weights and the edit (a "
                "strength too large for float16, say), or load it in float32"
            )

    handle = model.hf.get_output_embeddings().register_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()


def require_comparable(before: HookedModel, after: HookedModel, behaviours: list[Behaviour]) -> None:
    """Raise where two models read text differently: scores of other tokens are no pairs.

    Losses a token and margins depend on how text is cut, replies on the chat template. An edited checkpoint has its
    base's tokenizer; models that have another are compared by audits of their own.
    """
    old, new = before.tokenizer, after.tokenizer
    if old is new:
        return
    what = ""
    if old is None or new is None:
        what = f"{(before if old is None else after).name} has none"
    elif old.get_vocab() != new.get_vocab():
        differ = set(old.get_vocab().items()) ^ set(new.get_vocab().items())
        what = f"{len(differ):,} entries of their vocabularies differ"
    elif old.chat_template != new.chat_template:
        what = "their chat templates differ"
    else:
        probes = [prompt for behaviour in behaviours for prompt in behaviour.prompts[:_PROBES]]
        cut = ([tokenizer(text)["input_ids"] for text in probes] for tokenizer in (old, new))
        if any(one != other for one, other in zip(*cut, strict=True)):
            what = "they cut the same text differently"
    if what:
        raise InterpError(
            f"{before.name} and {after.name} have different tokenizers ({what}), so their scores are not pairs; give "
            "the edited checkpoint its base's tokenizer, or audit each model against its own base"
        )


def recipe_of_edit(after: HookedModel | Recipe | None, stated: Recipe | None) -> Recipe | None:
    """The edit: itself, the one that the checkpoint carries, or the one stated. Raises where two of these differ."""
    if not isinstance(after, HookedModel):
        if stated is not None:
            raise InterpError("a recipe= tells what an edited model was made by; without such a model leave it out")
        return after
    carried = _carried(after)
    if stated is not None and carried is not None and stated.digest != carried.digest:
        raise InterpError(
            f"{after.name} carries the recipe that it was made by, {carried.digest[:12]}, and the one given is "
            f"another, {stated.digest[:12]}; leave it out, or give the checkpoint that it made"
        )
    return stated or carried


def establish_recipe(before: HookedModel, after: HookedModel | Recipe | None) -> str:
    """The digest of the recipe that an audit of the two is of; "" where that can't be told."""
    if not isinstance(after, HookedModel):
        return after.digest if after else ""
    folder = Path(after.source or "")
    if not after.source or not (folder / MANIFEST).is_file():
        return ""
    manifest, base = ExportManifest.at(folder), before.identity
    same = (manifest.base.digest, manifest.base.settings) == (base.digest, base.settings)
    return manifest.recipe if same and manifest.status == "exact" and _is_whole(manifest, folder) else ""


def _is_whole(manifest: ExportManifest, folder: Path) -> bool:
    try:
        manifest.check_files(folder)
    except InterpError:
        return False
    return True


def _carried(model: HookedModel) -> Recipe | None:
    folder = Path(model.source) / RECIPE if model.source else None
    return Recipe.load(folder) if folder is not None and folder.is_dir() else None
