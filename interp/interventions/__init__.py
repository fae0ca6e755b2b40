"""Interventions: ops on activations, and recipes of them.

- `op`: the base of ops, their declared fields, and the table of all ops.
- `affine_ops`: Project, Add, Erase, LowRank; Cap.
- `ablation`: Replace, Resample, Scale.
- `latents`: Clamp, Suppress.
- `positions`: At, Schedule.
- `knockout`: Knockout.
- `gate`: Gate and its conditions.
- `recipe`: Recipe, a saved list of sites and ops.

| op | what it does | folds into weights |
|---|---|---|
| Project | removes a direction or subspace | yes |
| Erase | erases a concept (LEACE) | at every site of the stream, or at writers with biases |
| Add | steers by a vector | where there is, or can be, a bias |
| Cap | holds a coordinate within bounds | no |
| LowRank | a trained low-rank edit (LoReFT) | at writers with biases |
| Clamp | holds, suppresses or boosts latents of an autoencoder | no; `interp.editing.approximate` approximates it |
| Suppress | turns latents of a transcoder down | as neurons of the MLP, within a bound |
| Replace | zero and mean ablation; patching | heads, neurons, whole writes |
| Scale | turns heads or neurons down or up | heads, neurons |
| Resample | resample ablation | no |
| Knockout | cuts edges of attention | no |
| At, Schedule, Gate | another op at some positions, over time, under a condition | no |
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
