"""Activations as data: harvested from a model over a corpus, kept in a sharded store, read back shuffled."""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
