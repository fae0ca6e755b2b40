"""A slider for Jupyter: how a reply changes as a direction is added at a site.

    from interp.views.steering_slider import steer
    steer(model, direction, "I am a Sorvan. What is two plus two?")

Moving the slider generates anew in the kernel. Needs `pip install 'interp[notebook]'`.
"""

from typing import Any

import anywidget
import traitlets

from interp.directions.direction import Direction
from interp.interventions.affine_ops import Add
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel

_FRONT_END = """
function render({ model, el }) {
  const label = document.createElement("label");
  const slider = document.createElement("input");
  const value = document.createElement("output");
  const reply = document.createElement("p");
  Object.assign(slider, { type: "range", min: model.get("low"), max: model.get("high"), step: "any" });
  slider.style.width = "24em";
  reply.style.whiteSpace = "pre-wrap";
  reply.setAttribute("aria-live", "polite");
  label.append(model.get("title") + " ", slider, value);
  const show = () => {
    slider.value = model.get("scale");
    value.textContent = " " + model.get("scale").toFixed(1);
    reply.textContent = model.get("reply");
  };
  slider.addEventListener("change", () => { model.set("scale", Number(slider.value)); model.save_changes(); });
  model.on("change:scale", show);
  model.on("change:reply", show);
  el.append(label, reply);
  show();
}
export default { render };
"""


class SteeringSlider(anywidget.AnyWidget):
    """`scale` is what the slider sets, in units of the direction's length; `reply` follows it."""

    _esm = _FRONT_END
    title = traitlets.Unicode().tag(sync=True)
    low = traitlets.Float().tag(sync=True)
    high = traitlets.Float().tag(sync=True)
    scale = traitlets.Float(0.0).tag(sync=True)
    reply = traitlets.Unicode().tag(sync=True)


def steer(
    model: HookedModel,
    direction: Direction,
    prompt: str,
    reach: float = 20.0,
    max_new_tokens: int = 48,
    **options: Any,
) -> SteeringSlider:
    """A slider from -reach to reach that adds the direction at its own site, and the reply to a prompt under it."""
    slider = SteeringSlider(title=f"add {direction}", low=-reach, high=reach)

    def follow(change: object = None) -> None:
        recipe = Recipe([(str(direction.site), Add(direction, slider.scale))]) if slider.scale else ()
        slider.reply = model.generate(model.render(prompt), recipe, max_new_tokens=max_new_tokens, **options)[0]

    slider.observe(follow, names="scale")
    follow()
    return slider
