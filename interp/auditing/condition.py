"""A condition: a model as it is measured, which is as it is, under a recipe's hooks, or given an instruction.

The same behaviours are measured under several conditions and compared item by item. What identifies a condition is the
digests of the weights and of the model's settings (config, tokenizer, chat template), the type that the weights were
loaded in, the recipe's digest and the instruction.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from interp.auditing.behaviours import Behaviour, Scores
from interp.core.errors import InterpError
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel

_PROBES = 50  # prompts a behaviour on which tokenizers are compared


@dataclass(frozen=True, eq=False)
class Condition:
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
