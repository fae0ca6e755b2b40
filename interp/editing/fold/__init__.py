"""Fold: a recipe written into the tensors of a checkpoint, exactly, or refused with the reason.

In reading order:

- `plan`: which tensors change, how, and how exactly.
- `steps`: edits become a plan (`fold`, `plan_fold`).
- `affine_maps`: what an edit does to one tensor.
- `stream_sites`: edits at the residual stream itself, as edits of what writes it.
- `bias_slots`: where a checkpoint can hold an added vector.
- `ablation`: replaced and scaled heads, neurons and outputs.
- `transcoder_neurons`: suppressed latents of a transcoder as neurons of the MLP.
- `subspaces`: projections joined into one, or kept clear of a protected subspace.
- `rounding`: rounding to 16 bits, and how far two machines may differ.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
