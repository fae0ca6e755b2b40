"""interp: find what makes a language model behave harmfully, remove it, export the edited weights, prove what changed.

The whole surface, in the order of the road:

>>> model = interp.load("organism")                                           # doctest: +SKIP
>>> found = interp.find(model, contrast).best()[0].direction                  # doctest: +SKIP
>>> recipe = interp.Recipe([("writers", interp.Project(found))])              # doctest: +SKIP
>>> model.generate(prompts, recipe=recipe)                                    # doctest: +SKIP
>>> interp.export(recipe, model, "edited")                                    # doctest: +SKIP
>>> interp.audit(model, interp.load("edited"), behaviours)                    # doctest: +SKIP

Importing it loads nothing: each name is imported when it is first used.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
