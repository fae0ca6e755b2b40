"""Export: the checkpoint that carries an edit, with everything that lies beside its weights."""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
