"""Bridges: what other programs and places take from interp.

In reading order:

- `hub`: an export as a model repository of the Hugging Face Hub.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
