"""Audits: behaviours measured before and after an edit, and a decision under a written policy."""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
