"""Models under TransformerLens' site names, and the bundled model organism."""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
