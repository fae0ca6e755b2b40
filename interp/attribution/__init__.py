"""Attribution: which parts of the network a prediction comes from.

- `direct`: direct logit attribution, the part of a logit difference that each writer adds.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
