"""Attribution: which parts of the network a prediction comes from.

- `lens`: `Lens`, what the residual stream of an inner layer says about the next token: logit, tuned and Jacobian lens.
- `lens_reading`: `LensReading`, the record of a lens on a prompt.
- `fitted_lenses`: `fit_tuned_lens` and `fit_jacobian_lens`.
- `attention`: `attention_patterns`, where each head attends on a prompt, weighted by the length of the values or not.
- `direct`: direct logit attribution, the part of a logit difference that each writer adds.
- `metrics`: the logit difference, log-probability and divergence that a comparison reads.
- `comparison`: `Comparison`, pairs of prompts, clean and corrupt, and a metric.
- `graphs`: `trace_graph`, which transcoder latents produce a prediction; `load_transcoders`.
- `patching`: `patch`, activations of one run put into the other, exactly or estimated by gradients.
- `circuits`: `attribute_edges`, `patch_edges`, `measure_circuits`: which edges carry a prediction, which are enough.
- `alignment_search`: `fit_das`, the learned subspace in which an answer passes from one run to the other.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
