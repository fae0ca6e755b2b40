"""A model beside its book: what fires on a text that is typed, and replies with a latent held, while they are written.

One forward pass or reply runs at a time; others wait.
"""

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

from transformers import TextStreamer

from interp.features.latent_search import TokenFirings, token_firings
from interp.interventions.latents import Clamp
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.views.browser._book_coders import BookCoders

Reply = tuple[str, str]  # the side, base or steered, and its text so far


class LiveModel:
    """A model whose latents a book describes.

    Args:
        model: The model.
        autoencoders: The book's autoencoders.

    Raises:
        InterpError: The book is of another model.
    """

    def __init__(self, model: HookedModel, autoencoders: BookCoders):
        autoencoders.book.card.model.check(model.reference, "this book")
        self._model, self._autoencoders, self._one = model, autoencoders, Lock()

    def fired(self, text: str) -> list[TokenFirings]:
        """The latents that fire on each token of a text."""
        card = self._autoencoders.book.card
        with self._one:
            coders = {name: self._autoencoders[name] for name in card.autoencoders}
            return token_firings(card, coders, self._model, text)

    def replies(self, prompt: str, sae: str, latent: int, value: float, new_tokens: int) -> Iterator[Reply]:
        """The model's reply and then that with a latent held at a value, as they grow; whoever closes it stops them.

        A last one of side `error` says what failed. Raises where the latent can't be held.
        """
        op, events, stop = Clamp(self._autoencoders[sae], latent, value), SimpleQueue[Reply | None](), Event()
        edits: dict[str, Any] = {"base": (), "steered": Recipe([(str(op.site), op)], self._model.reference)}

        def write() -> None:
            try:
                with self._one:
                    for side, edit in edits.items():
                        growing = _Growing(self._model.tokenizer, side, events, stop)
                        reply = self._model.generate(prompt, edit, new_tokens, chat=True, streamer=growing)
                        events.put((side, reply[0]))
            except Exception as problem:  # it would end this thread unseen
                events.put(("error", str(problem)))
            finally:
                events.put(None)

        def read() -> Iterator[Reply]:
            Thread(target=write, daemon=True).start()
            try:
                yield from iter(events.get, None)
            finally:
                stop.set()

        return read()


class _Growing(TextStreamer):
    """Passes a reply's text so far on, until it is stopped."""

    def __init__(self, tokenizer: Any, side: str, events: SimpleQueue[Reply | None], stop: Event):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._side, self._events, self._stop, self._text = side, events, stop, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take the next words."""
        if self._stop.is_set():
            raise InterruptedError("nobody reads the reply any more")
        self._text += text
        self._events.put((self._side, self._text))
