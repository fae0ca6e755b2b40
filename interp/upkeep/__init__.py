"""Upkeep: keeping a model as it was audited, from its training data on.

In reading order:

- `curation`: training data scored by directions or latents, and split into what is kept, flagged and unsure.
- `drift`: what changed between versions of a model, outside and inside, and a ledger of audits over time.
- `depth`: whether a removed harm is gone, or only out of sight.
- `feedback`: preferences and ratings of several raters, and directions of what they reject.
- `tuning`: fine-tuning by TRL as the method to compare with, also under a recipe, and the comparison.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
