"""Directions that carry a behaviour: found on one part of a contrast, scored on the other."""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
