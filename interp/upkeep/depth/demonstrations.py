"""Demonstrations of a harm: the unedited model's own replies that show it, on one half of the items.

Copies of the edited model are trained on them; what they learn is measured on the other half, which shares no group of
items with the first. Demonstrations are held in memory and not written anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from interp.auditing.behaviours import Behaviour, render_prompts
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError
from interp.data.corpora import Document
from interp.models.hooked import HookedModel
from interp.upkeep.depth.subject import Subject

_FEWEST, _NEW = 16, 32


@dataclass(frozen=True)
class Demonstrations(Displayed):
    """Items of a behaviour with replies.

    Args:
        part: The items.
        replies: One reply per item.
    """

    part: Behaviour
    replies: tuple[str, ...] = field(repr=False)

    def documents(self, model: HookedModel) -> list[Document]:
        """Conversations or, where the model or the behaviour has no chat template, texts."""
        spec = self.part.spec
        pairs = list(zip(self.part.prompts, self.replies, strict=True))
        if spec.get("chat", True) is False or not model.tokenizer.chat_template:
            return [prompt + reply for prompt, reply in pairs]
        before = spec.get("before") or [()] * len(pairs)
        return [
            [*map(dict, turns), {"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
            for turns, (prompt, reply) in zip(before, pairs, strict=True)
        ]

    def _card(self) -> Card:
        return self.part.name, [("items", len(self.replies))]  # the words may be harmful


def halves(behaviour: Behaviour, seed: int) -> tuple[Behaviour, Behaviour]:
    """A half of the items to learn from, and the held-out half; the items of a group are on one side.

    Raises:
        InterpError: There are too few items or groups.

    Example:
        >>> from interp.auditing import organism_behaviour
        >>> from interp.upkeep.depth.demonstrations import halves
        >>> [len(half) for half in halves(organism_behaviour("hostility", 20), seed=0)]
        [10, 10]
    """
    groups = behaviour.groups or tuple(map(str, range(len(behaviour))))
    names = sorted(set(groups))
    if min(len(names), len(behaviour)) < _FEWEST:
        what = "items" if not behaviour.groups else "groups of items"
        raise InterpError(f"{behaviour.name} has {len(names)} {what}; expected at least {_FEWEST} (--items)")
    learned = set(Random(seed).sample(names, len(names) // 2))
    sides = [[n for n, group in enumerate(groups) if (group in learned) is side] for side in (True, False)]
    return behaviour.pick(sides[0]), behaviour.pick(sides[1])


def demonstrate(base: Subject, part: Behaviour) -> Demonstrations:
    """The replies of the unedited model that show a harm.

    Raises:
        InterpError: None does, so that there is nothing to learn again.
    """
    scores = base.scores(part)
    replies = scores.replies or _generated(base, part)
    least = {"rate": 0.5, "margin": 0.0, "nats": float("-inf")}[part.unit]
    shown = [n for n, value in enumerate(scores.values) if value >= least and replies[n].strip()]
    if not shown:
        raise InterpError(
            f"{base.model.name} shows {part.name} on none of {len(part)} items, so there is nothing to learn again; "
            "give the model from which it was removed as the base"
        )
    return Demonstrations(part.pick(shown), tuple(replies[n] for n in shown))


def _generated(base: Subject, part: Behaviour) -> Sequence[str]:
    prompts = render_prompts(base.model, part.prompts, part.spec.get("before", ()), part.spec.get("chat", True))
    with base.hooked():
        return base.model.generate(prompts, max_new_tokens=_NEW, chat=False)


def benign_documents(model: HookedModel, behaviours: Sequence[Behaviour]) -> list[Document]:
    """Documents without the harm: what a model replies to the prompts of capabilities, and the texts of losses.

    Args:
        model: The unedited model.
        behaviours: Those of a suite; harms and protected behaviours are left out.
    """
    documents, subject = list[Document](), Subject("base", model)
    for behaviour in behaviours:
        if behaviour.kind == "capability":
            texts = behaviour.unit == "nats"
            replies = () if texts else subject.scores(behaviour).replies or _generated(subject, behaviour)
            documents += behaviour.prompts if texts else Demonstrations(behaviour, tuple(replies)).documents(model)
    return documents
