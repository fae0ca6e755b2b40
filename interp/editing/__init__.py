"""Editing: a recipe folded into weights, the folder that transformers loads, the certificate that both agree."""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
