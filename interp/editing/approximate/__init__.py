"""Approximate: what can be exported in place of a recipe that does not fold, and how near it comes.

In reading order:

- `distillation`: low-rank factors trained so that the model predicts what the hooked one does.
- `low_rank_factors`: these factors, their record, and their merge into the weights.
- `affine_features`: edits of SAE latents as projections or fitted affine maps.
- `fidelity`: how near one recipe, or an edited model, comes to another recipe on text.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
