"""Editing: write a recipe into a model's weights, and check that the weights reproduce the recipe's hooks.

In reading order:

- `options`: what a user can choose about a fold and an export.
- `fold`: a recipe as changes of tensors, exact or refused with the reason.
- `approximate`: what replaces a recipe that does not fold.
- `certificate`: what was measured between the hooked model and the exported one, and how it is verified.
- `export`: the folder that transformers loads, an adapter, a control vector, and the way back.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
