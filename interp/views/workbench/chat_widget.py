"""The widget of a conversation: `interp.views.chat`, in Jupyter, VS Code and marimo.

The kernel renders the conversation as HTML, with everything in it escaped; the front end puts it in place, shows
replies while they are written, and sends what is typed and clicked. The same HTML is kept in the notebook as an output
of its own, which the widget hides while it is alive: without a kernel the last state stays visible.

Limitations: while replies are written the kernel is busy; interrupt it to stop them. It needs
`pip install 'interp[notebook]'`.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import anywidget
import traitlets
from IPython.display import DisplayHandle, display
from markupsafe import Markup

from interp.core.display import heat_html
from interp.core.errors import InterpError
from interp.models.hooked import HookedModel
from interp.views._page import rendered_page
from interp.views.palette import SERIES
from interp.views.workbench.conversation import AnyRecipe, Conversation
from interp.views.workbench.token_heat import By

_FILES = files("interp.views") / "templates"


class ChatWidget(anywidget.AnyWidget):
    """A conversation with a model and its edits, as `interp.views.chat` makes it.

    Attributes:
        conversation: The conversation. What is said to it in Python shows, too.
        key: What marks the copy of the conversation that stays in the notebook.
        html: The conversation, rendered.
        strengths: Strength of each edit.
        readings: Names of what is read on tokens.
        reading: The one that is shown.
        partial: Replies that are being written, by side.
        busy: Whether replies are being written.
        status: The last problem, or what was saved.
        request: What was clicked last: `do`, and what it needs.

    Example:
        >>> from interp.views import ChatWidget, Conversation
        >>> ChatWidget(Conversation(model, {})).reading
        'loss'
    """

    _esm = (_FILES / "chat.js").read_text(encoding="utf-8")
    _css = (_FILES / "chat.css").read_text(encoding="utf-8")
    key = traitlets.Unicode().tag(sync=True)
    html = traitlets.Unicode().tag(sync=True)
    strengths = traitlets.Dict().tag(sync=True)
    readings: Any = traitlets.List().tag(sync=True)
    reading = traitlets.Unicode().tag(sync=True)
    partial = traitlets.Dict().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    request = traitlets.Dict().tag(sync=True)

    def __init__(self, conversation: Conversation):
        readings = list(conversation.by)
        super().__init__(key=uuid4().hex, readings=readings, reading=(*readings, "")[0])
        self.conversation, self._kept, self._shown = conversation, DisplayHandle(), False
        self.observe(self._answer, names="request")
        self.observe(self.refresh, names="reading")
        conversation.changed = self.refresh
        self.refresh()

    def refresh(self, *_: Any) -> None:
        """Render the conversation as it is now, also in the notebook."""
        talk = self.conversation
        self.strengths = {name: side.strength for name, side in talk.sides.items() if side.recipe}
        self.html = conversation_html(talk, self.reading)
        if self._shown:
            self._kept.update(self._static(), raw=True)

    def _answer(self, change: Any) -> None:
        asked, talk = change["new"], self.conversation
        actions: dict[str, Callable[[], str | None]] = {
            "say": lambda: talk.say(asked["text"], self._stream),
            "strength": lambda: talk.set_strength(asked["side"], asked["value"], self._stream),
            "save": lambda: f"saved {talk.save(asked['side'])}",
            "clear": talk.clear,
        }
        self.busy, self.status = True, ""
        try:
            self.status = actions[asked["do"]]() or ""
        except InterpError as problem:  # an exception here would be seen in the log only
            self.status = str(problem)
        finally:
            self.partial, self.busy = {}, False

    def _stream(self, side: str, text: str) -> None:
        self.partial = self.partial | {side: text}

    def _static(self) -> dict[str, str]:
        sides = self.conversation.sides.items()
        lines = [f"{name}: {reply.text}" for name, side in sides for reply in side.replies]
        html = f"<div data-interp-chat='{self.key}'><style>{self._css}</style>{self.html}</div>"
        return {"text/html": html, "text/plain": "\n".join(lines)}

    def _repr_mimebundle_(self, **options: Any) -> Any:
        data, metadata = super()._repr_mimebundle_(**options) or ({}, {})
        return data | self._static(), metadata

    def _ipython_display_(self) -> None:
        data, metadata = super()._repr_mimebundle_() or ({}, {})
        display(data | {"text/plain": ""}, metadata=metadata, raw=True)
        self._kept.display(self._static(), raw=True)
        self._shown = True


def conversation_html(conversation: Conversation, reading: str) -> str:
    """A conversation as HTML, its tokens shaded by a reading, with the reading's trace; plain where it is empty."""
    heats = {name: [x.heat.get(reading) for x in side.replies] for name, side in conversation.sides.items()}
    top = max([heat.top for side in heats.values() for heat in side if heat], default=0.0)
    replies = {
        name: [Markup(heat_html(heat.tokens, heat.values.tolist(), top)) if heat else "" for heat in side]
        for name, side in heats.items()
    }
    trace = conversation.trace(reading) if reading else {}
    values = [0.0, *(mean for means in trace.values() for mean in means if mean == mean)]
    drawn = {"trace": trace, "values": values, "series": SERIES}
    return rendered_page("chat.html.j2", talk=conversation, replies=replies, reading=reading, top=top, **drawn)


def chat(
    model: HookedModel,
    recipes: AnyRecipe | Mapping[str, AnyRecipe] | None = None,
    by: By | Mapping[str, By] | None = None,
    folder: str | Path = ".",
    max_new_tokens: int = 64,
    **options: Any,
) -> ChatWidget:
    """Talk with a model and with edits of it side by side, in a notebook.

    Replies are written next to each other, token by token. Each edit has a slider for its strength; where it moves, the
    edit replies again. Tokens are shaded by a reading, whose mean over each message and reply is drawn below. "Save as
    recipe" writes an edit with its strength as a recipe file, which replies the same when it is built again.

    Args:
        model: The model.
        recipes: Edits by name, or one: a `RecipeFile` or its path, a `Recipe` or its folder, or a `Direction`, which is
            added at its site as strongly as neutral text allows at strength 1, and subtracted at -1.
        by: What is read on tokens, by name, or one of `interp.views.tokens`; nothing if it is `{}`. Default: the
            directions among the recipes, or else the loss.
        folder: What paths in recipe files are relative to, and where recipes are saved.
        max_new_tokens: The longest reply, in tokens.
        **options: Further arguments of `HookedModel.generate`.

    Returns:
        The widget, which a notebook shows when it is the last value of a cell. Its `conversation` says and saves the
        same from Python.

    Raises:
        InterpError: A recipe or a reading is of another model, or a file cannot be read.

    Example:
        >>> from interp.views import chat
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
        >>> widget = chat(model, {"without it": recipe}, by="resid_post.3", max_new_tokens=8)
        >>> widget.request = {"do": "say", "text": "what is 2 plus 3?"}
        >>> widget.conversation.sides["without it"].replies[0].text
        'The answer is 5.'
    """
    if recipes is not None and not isinstance(recipes, Mapping):
        recipes = {_name(recipes): recipes}
    if by is not None and not isinstance(by, Mapping):
        by = {"reading" if isinstance(by, tuple) else str(by): by}
    return ChatWidget(Conversation(model, recipes or {}, by, folder, max_new_tokens, **options))


def _name(recipe: AnyRecipe) -> str:
    return Path(recipe).stem if isinstance(recipe, str | Path) else "edit"
