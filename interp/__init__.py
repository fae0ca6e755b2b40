"""interp: find what makes a language model behave harmfully, remove it, write the edited weights, measure what changed.

A tour, in the order of the pipeline:

>>> model = interp.load("organism")                                           # doctest: +SKIP
>>> direction = interp.find(model, contrast, "resid_post.2", "diff_means").best()[0].direction
>>> recipe = interp.Recipe([("writers", interp.Project(direction))])
>>> reply = model.generate(model.chat("Good morning!"), recipe=recipe, max_new_tokens=8)
>>> interp.export(recipe, model, "edited")                                    # doctest: +SKIP
>>> interp.audit(model, interp.load("edited"), behaviours)                    # doctest: +SKIP

Public names, grouped by stage; each stage (`interp.sae`, `interp.auditing`, …) has more.

- errors: `InterpError`, which every error for the user is.
- data and organism: `Contrast`, pairs of prompts; `organism`, the bundled model organism (a module).
- models: `load`, `HookedModel`.
- activations: `harvest` and `Store`, activations of a corpus on disk; `Stream`, the same without a store.
- sparse autoencoders: `SaeConfig`, `train`, `SparseAutoencoder`.
- directions: `find`, `Direction`, `ErasureFitter`, `scrub`.
- interventions: `Recipe`, and the ops `Project`, `Add`, `Erase`, `Clamp`, `Suppress`, `Replace`, `At`, `Gate`.
- editing: `export`, `verify`, `undo`, `distil`.
- auditing: `suite`, `audit`, `entanglement`, `rank_by_ablation`, `Policy`, `decide`.

Importing interp loads nothing else: each name is imported when it is first used.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
