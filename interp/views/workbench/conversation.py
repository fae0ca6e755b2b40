"""A conversation with a model and with edits of it, side by side: what `interp.views.chat` shows.

Users' messages are shared; each side has its own replies, which follow from the messages and the side's strength alone:
where a strength changes, that side replies to all messages again. So a recipe that is saved with its strength and
built again gives the replies that were on the screen.

Limitations: replies are greedy unless the options say otherwise. What a reading says of an edited side is read under
the edit.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.generation.streamers import BaseStreamer

from interp.core.display import Card, Displayed
from interp.core.errors import InterpError, nearest
from interp.core.files import new_file
from interp.directions.direction import Direction
from interp.interventions.affine_ops import Add
from interp.interventions.recipe import Recipe
from interp.interventions.steering_scale import neutral_text
from interp.models.architectures.unembedding import token_text
from interp.models.chat_template import special_tokens
from interp.models.hooked import HookedModel
from interp.search.recipe_file import RecipeFile
from interp.views.workbench.token_heat import By, TokenHeat, token_values

BASE = "unedited"
AnyRecipe = RecipeFile | Recipe | Direction | str | Path
Show = Callable[[str, str], None]  # receives a side's name and its reply so far


@dataclass(frozen=True)
class HeatedReply(Displayed):
    """A reply, with what is read on its tokens.

    Args:
        text: The reply.
        ids: Its token ids, with the end.
        prompt: Number of tokens before it.
        heat: By reading, its tokens with a value for each.
        asked: By reading, the mean over the tokens that the user's message adds to the prompt.
    """

    text: str
    ids: tuple[int, ...]
    prompt: int
    heat: Mapping[str, TokenHeat]
    asked: Mapping[str, float]


@dataclass(frozen=True)
class ChatSide(Displayed):
    """The model as it is, or an edit of it, with its replies.

    Args:
        recipe: The edit at strength 1; None for the model as it is.
        file: The edit as a recipe file, where it came from one.
        folder: What paths in the file are relative to.
        strength: The factor of the edit.
        replies: The reply to each message.
    """

    recipe: Recipe | None = None
    file: RecipeFile | None = None
    folder: Path = Path(".")
    strength: float = 1.0
    replies: tuple[HeatedReply, ...] = ()

    @classmethod
    def of(cls, model: HookedModel, recipe: AnyRecipe, folder: Path) -> "ChatSide":
        """The side of a recipe, in any form. Raises where it does not fit the model."""
        if isinstance(recipe, str | Path):
            path = folder / recipe
            if path.is_dir():
                return cls.of(model, Recipe.load(path), folder)
            recipe, folder = RecipeFile.read(path), path.parent
        if isinstance(recipe, RecipeFile):
            built = recipe.model_copy(update={"strength": 1.0}).build(model, folder=folder)
            return cls(built, recipe, folder, recipe.strength)
        if isinstance(recipe, Direction):
            text = neutral_text(model)
            ends = [abs(Add.auto(model, recipe, sign=sign, relative=True, texts=text).scale) for sign in (-1, 1)]
            recipe = Recipe([(str(recipe.site), Add(recipe, min(ends), relative=True))])
        recipe.bind(model)  # raises where it was made for another model
        return cls(recipe, folder=folder)

    @property
    def edit(self) -> Recipe | tuple[()]:
        """What `HookedModel.generate` takes."""
        return () if self.recipe is None else self.recipe.scaled(self.strength)

    def save(self, path: Path) -> None:
        """Write it as a recipe file, and beside it the folder of a recipe that came from no file."""
        file = self.file
        if file is None:
            assert self.recipe is not None
            saved = f"recipe-{self.recipe.exact_digest[:12]}"
            file = RecipeFile.parse({"edits": [{"op": "Saved", "recipe": saved}]})
            if not (path.parent / saved).exists():
                self.recipe.save(path.parent / saved)
        elif path.parent.resolve() != self.folder.resolve():
            raise InterpError(f"{path}: paths in the recipe are relative to {self.folder}; save it in that folder")
        plain = file.model_copy(update={"strength": self.strength}).model_dump(exclude_unset=True, mode="json")
        with new_file(path) as sibling:
            sibling.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")


class Conversation(Displayed):
    """A conversation with a model and edits of it. `interp.views.chat` shows one.

    Args:
        model: The model.
        recipes: Edits by name. A recipe file or its path, a recipe or its folder, or a direction, which is added as
            strongly as neutral text allows at strength 1 (`interp.Add.auto`), and subtracted at -1.
        by: What is read on tokens, by name, as in `interp.views.tokens`; nothing where it is empty. Default: the
            directions among the recipes, or else the loss.
        folder: What paths are relative to, and where recipes are saved.
        max_new_tokens: The longest reply, in tokens.
        **options: Further arguments of `HookedModel.generate`.

    Attributes:
        messages: What was said to all sides.
        sides: The model as it is (`unedited`) and its edits, by name, with their replies.
        changed: Called when a message, a reply or a strength is new.

    Example:
        >>> from interp.views import Conversation
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
        >>> talk = Conversation(model, {"without it": recipe}, max_new_tokens=8)
        >>> talk.say("what is 2 plus 3?")
        >>> talk.sides["unedited"].replies[0].text
        'The answer is 5.'
    """

    def __init__(
        self,
        model: HookedModel,
        recipes: Mapping[str, AnyRecipe],
        by: Mapping[str, By] | None = None,
        folder: str | Path = ".",
        max_new_tokens: int = 64,
        **options: Any,
    ):
        if BASE in recipes:
            raise InterpError(f"{BASE!r} is the model as it is; give that recipe another name")
        if options.get("num_beams", 1) != 1:
            raise InterpError("replies are shown while they are written, which beam search can't; leave num_beams out")
        self.model, self.messages = model, tuple[str, ...]()
        self.sides = {BASE: ChatSide()}
        self.sides |= {name: ChatSide.of(model, recipe, Path(folder)) for name, recipe in recipes.items()}
        directions = {name: recipe for name, recipe in recipes.items() if isinstance(recipe, Direction)}
        self.by: Mapping[str, By] = (directions or {"loss": "loss"}) if by is None else by
        self.changed: Callable[[], object] = lambda: None
        self._options = {"max_new_tokens": max_new_tokens} | options
        for reading in self.by.values():
            token_values(model, model.tokens("a", chat=False), reading)  # raises before anything is generated

    def say(self, message: str, show: Show | None = None) -> None:
        """Say something to all sides, which reply. Raises, and changes nothing, where a reply cannot be generated."""
        messages = (*self.messages, message)
        self.sides = {
            name: replace(side, replies=(*side.replies, self._reply(name, side, messages, show)))
            for name, side in self.sides.items()
        }
        self.messages = messages
        self.changed()

    def set_strength(self, name: str, strength: float, show: Show | None = None) -> None:
        """Set an edit's strength; it replies to all messages again. Raises, and changes nothing, where it cannot."""
        side = replace(self.edited(name), strength=strength, replies=())
        for number in range(len(self.messages)):
            reply = self._reply(name, side, self.messages[: number + 1], show)
            side = replace(side, replies=(*side.replies, reply))
        self.sides[name] = side
        self.changed()

    def clear(self) -> None:
        """Begin again, at the same strengths."""
        self.messages = ()
        self.sides = {name: replace(side, replies=()) for name, side in self.sides.items()}
        self.changed()

    def save(self, name: str, file: str | Path | None = None) -> Path:
        """Save an edit with its strength as a recipe file, which replies as here when it is built again.

        Args:
            name: The edit.
            file: A file that does not exist yet, ending in .yaml. Default: named after the edit and its strength, in
                the conversation's folder or in that of the edit's own file.

        Returns:
            The file.

        Raises:
            InterpError: There is no such edit, the file exists, or it names other files and is not in their folder.
        """
        side = self.edited(name)
        path = side.folder / (file or f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{side.strength:g}.yaml")
        if path.suffix not in (".yaml", ".yml"):
            raise InterpError(f"{path}: expected a name that ends in .yaml, for a recipe file")
        side.save(path)
        return path

    def edited(self, name: str) -> ChatSide:
        """The side of an edit. Raises where there is none of this name."""
        edits = [known for known in self.sides if known != BASE]
        if name not in edits:
            raise InterpError(f"no edit is called {name!r}; {nearest(name, edits)}")
        return self.sides[name]

    def trace(self, by: str) -> dict[str, list[float]]:
        """Means of a reading over the conversation, by side: of a message's tokens, of its reply's, and so on."""
        return {
            name: [mean for reply in side.replies for mean in (reply.asked[by], float(reply.heat[by].values.nanmean()))]
            for name, side in self.sides.items()
        }

    def _card(self) -> Card:
        edits = [f"{name} at {side.strength:g}" for name, side in self.sides.items() if side.recipe]
        last = [(name, side.replies[-1].text) for name, side in self.sides.items() if side.replies]
        return f"with {self.model.name}", [("edits", edits), ("messages", list(self.messages)), *last]

    def _reply(self, name: str, side: ChatSide, messages: Sequence[str], show: Show | None) -> HeatedReply:
        turns = [{"role": "user", "content": messages[0]}]
        for reply, message in zip(side.replies, messages[1:], strict=True):
            turns += [{"role": "assistant", "content": reply.text or " "}, {"role": "user", "content": message}]
        templated = self.model.tokenizer is not None and self.model.tokenizer.chat_template
        prompt = self.model.chat(turns) if templated else "\n\n".join(turn["content"] for turn in turns)
        batch = self.model.tokens(prompt, chat=False)
        stream = _Stream(lambda ids: show and show(name, self.model.tokenizer.decode(ids, skip_special_tokens=True)))
        (text,) = self.model.generate(batch, side.edit, streamer=stream, **self._options)
        heat, asked = self._read(side, batch.unpadded()[0], stream.ids)
        return HeatedReply(text, tuple(stream.ids), int(batch.lengths), heat, asked)

    def _read(
        self, side: ChatSide, prompt: list[int], reply: list[int]
    ) -> tuple[dict[str, TokenHeat], dict[str, float]]:
        """By reading, the heat of a reply, and the mean over the tokens that come new with its prompt."""
        if not self.by:
            return {}, {}
        whole, seen = self.model.tokens([prompt + reply]), side.replies[-1] if side.replies else None
        begin = min(seen.prompt + len(seen.ids), len(prompt) - 1) if seen else 0
        special = special_tokens(self.model.tokenizer)
        kept = [place for place, token in enumerate(reply) if token not in special]
        words = tuple(token_text(self.model.tokenizer, reply[place]) for place in kept)
        heat, asked = {}, {}
        with self.model.hooked(side.edit, prompt=len(prompt)):
            for name, by in self.by.items():
                what, values = token_values(self.model, whole, by)
                heat[name] = TokenHeat(what, words, values[len(prompt) :][kept])
                asked[name] = float(values[begin : len(prompt)].nanmean())
        return heat, asked


class _Stream(BaseStreamer):
    """Takes a reply's tokens as they are generated, behind those of its prompt."""

    def __init__(self, show: Callable[[list[int]], object]):
        self.ids: list[int] = []
        self._show, self._prompted = show, False

    def put(self, value: torch.Tensor) -> None:
        if self._prompted:
            self.ids += value.flatten().tolist()
            self._show(self.ids)
        self._prompted = True

    def end(self) -> None:
        pass
