"""Fold: a recipe written into the tensors of a checkpoint, exactly or refused with the reason."""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
