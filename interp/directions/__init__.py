"""Directions that carry a behaviour: fitted on one part of a contrast, scored on the other.

In reading order:

- `direction`: `Direction`, unit rows at a site with their provenance.
- `contrast_source`: `read_contrast`, pairs from a file or from the organism.
- `contrast_activations`: what a model computes on the two sides of a contrast.
- `methods`: the ways to fit a direction or an eraser.
- `fitting`: `METHODS`, all of them by name, and `fit_direction`, one of them at one place.
- `scores`: how well a number separates two sets: AUROC, Cohen's d, the best threshold.
- `controls`: the scores of random directions and of shuffled sides.
- `stability`: whether a fit on resampled pairs gives the same direction.
- `findings`: `Findings`, what a search returns.
- `finder`: `find`, the search.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
