"""A slider for Jupyter that adds a direction at its site and shows how the model's reply changes.

Moving the slider generates a new reply in the kernel. A table below it keeps the last replies, also in the saved
notebook, where there is no kernel. It needs `pip install 'interp[notebook]'`.
"""

from importlib.resources import files
from typing import Any, Literal

import anywidget
import traitlets
from IPython.display import DisplayHandle, display

from interp.core.display import html_table
from interp.directions.direction import Direction
from interp.interventions.affine_ops import Add
from interp.interventions.recipe import Recipe
from interp.interventions.steering_scale import neutral_text
from interp.models.hooked import HookedModel

_KEPT = 5


class SteeringSlider(anywidget.AnyWidget):
    """A slider and the reply below it, as `steer` makes them.

    Attributes:
        title: What the slider does.
        low: The lowest scale.
        high: The highest scale.
        scale: The value of the slider: the factor of the direction's unit vector, in units of activations.
        reply: The model's reply at this scale.

    Example:
        >>> from interp.views import SteeringSlider
        >>> SteeringSlider(low=-5.0, high=5.0).scale
        0.0
    """

    _esm = (files("interp.views") / "templates" / "steering_slider.js").read_text(encoding="utf-8")
    title = traitlets.Unicode().tag(sync=True)
    low = traitlets.Float().tag(sync=True)
    high = traitlets.Float().tag(sync=True)
    scale = traitlets.Float(0.0).tag(sync=True)
    reply = traitlets.Unicode().tag(sync=True)

    def __init__(self, **traits: Any):
        super().__init__(**traits)
        self._replies: dict[float, str] = {}
        self._shown: DisplayHandle | None = None

    def keep(self) -> None:
        """Keep the reply at this scale, among the last five, and show it in the table."""
        self._replies.pop(self.scale, None)
        self._replies[self.scale] = self.reply
        self._replies = dict([*self._replies.items()][-_KEPT:])
        if self._shown:
            self._shown.update(self._table(), raw=True)

    def _table(self) -> dict[str, str]:
        rows: list[list[object]] = [[f"{scale:+.1f}", reply] for scale, reply in sorted(self._replies.items())]
        text = "\n".join(f"{scale}: {reply}" for scale, reply in rows)
        return {"text/html": html_table(self.title, ["scale", "reply"], rows), "text/plain": text}

    def _ipython_display_(self) -> None:
        if bundle := self._repr_mimebundle_():
            display(bundle[0] | {"text/plain": ""}, metadata=bundle[1], raw=True)
        self._shown = self._shown or DisplayHandle()
        self._shown.display(self._table(), raw=True)


def steer(
    model: HookedModel,
    direction: Direction,
    prompt: str,
    max_scale: float | Literal["auto"] = "auto",
    max_new_tokens: int = 48,
    relative: bool = False,
    **options: Any,
) -> SteeringSlider:
    """A slider that adds a multiple of a direction at its site, with the model's reply to a prompt below it.

    Args:
        model: The model. At scale 0 it is not changed.
        direction: A direction with a single row; it is added at its site.
        prompt: The user's message; it is rendered with the chat template where the model has one.
        max_scale: The slider goes from -max_scale to max_scale. Default: between the two scales at which the loss of
            neutral text rises by 0.3 nats per token (`interp.Add.auto`), so that replies stay text. Measuring them
            takes a few seconds.
        max_new_tokens: The longest reply, in tokens.
        relative: Whether a scale is relative to the length of the activations, as in `interp.Add`. Default: it is in
            the units of the activations.
        **options: Further arguments of `HookedModel.generate`.

    Returns:
        The widget, which a notebook shows when it is the last value of a cell.

    Raises:
        InterpError: The direction has several rows or does not fit the model.

    Example:
        >>> from interp.views import steer
        >>> pairs = interp.Contrast(contrast.pairs[:4])
        >>> direction = interp.find(model, pairs, "resid_post.3", "diff_means", bootstrap=0).best()[0].direction
        >>> slider = steer(model, direction, "What is two plus two?", max_new_tokens=4)
        >>> slider.scale = 10.0
        >>> isinstance(slider.reply, str)
        True
    """
    if max_scale == "auto":
        text = neutral_text(model)
        low, high = (Add.auto(model, direction, sign=sign, relative=relative, texts=text).scale for sign in (-1, 1))
    else:
        low, high = -max_scale, max_scale
    slider = SteeringSlider(title=f"add {direction}", low=low, high=high)

    sizes = {"max_new_tokens": max_new_tokens, "chat": True} | options

    def update_reply(change: object = None) -> None:
        recipe = Recipe([(str(direction.site), Add(direction, slider.scale, relative))]) if slider.scale else ()
        slider.reply = model.generate(prompt, recipe, **sizes)[0]
        slider.keep()

    slider.observe(update_reply, names="scale")
    update_reply()
    return slider
