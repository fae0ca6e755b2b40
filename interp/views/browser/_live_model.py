"""A model beside its book: what fires on a text that is typed, and replies with a latent held, while they are written.

One forward pass or reply runs at a time; others wait.
"""

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event, Lock, Thread

from interp.features.latent_search import TokenFirings, token_firings
from interp.interventions.latents import Clamp
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.views.browser.book_coders import BookCoders
from interp.views.workbench.conversation import Conversation

Reply = tuple[str, str]  # the side, unedited or steered, and its text so far


class LiveModel:
    """A model whose latents a book describes.

    Args:
        model: The model.
        coders: The book's autoencoders.

    Raises:
        InterpError: The book is of another model.
    """

    def __init__(self, model: HookedModel, coders: BookCoders):
        coders.book.card.model.check(model.reference, "this book")
        self._model, self._coders, self._one = model, coders, Lock()

    def fired(self, text: str) -> list[TokenFirings]:
        """The latents that fire on each token of a text."""
        card = self._coders.book.card
        with self._one:
            return token_firings(card, {name: self._coders[name] for name in card.autoencoders}, self._model, text)

    def replies(self, prompt: str, sae: str, latent: int, value: float, new_tokens: int) -> Iterator[Reply]:
        """The model's reply and then that with a latent held at a value, as they grow; whoever closes it stops them.

        A last one of side `error` says what failed. Raises where the latent can't be held.
        """
        op, events, stop = Clamp(self._coders[sae], latent, value), SimpleQueue[Reply | None](), Event()
        recipe = Recipe([(str(op.site), op)], self._model.reference)

        def show(side: str, text: str) -> None:
            if stop.is_set():
                raise InterruptedError("nobody reads the reply any more")
            events.put((side, text))

        def write() -> None:
            try:
                with self._one:
                    talk = Conversation(self._model, {"steered": recipe}, by={}, max_new_tokens=new_tokens)
                    talk.say(prompt, show)
                for side, held in talk.sides.items():
                    events.put((side, held.replies[0].text))
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
