"""Sparse autoencoders: trained on a store, measured in the model, read feature by feature."""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
