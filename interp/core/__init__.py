"""Foundations every stage stands on: errors, config, files, hashes, linear algebra, progress, display."""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
