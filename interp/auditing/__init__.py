"""Audits: behaviours measured before and after an edit, and a decision under a written policy.

In reading order:

- `behaviours`: Behaviour (prompts, scorer, and whether it is a harm, protected or a capability).
- `scoring`: what makes behaviours: likelihoods of answers, graded replies, refusals, judges, behaviour files.
- `reply_divergence`: what an edit changes on benign prompts.
- `public`: behaviours on published evaluation sets.
- `suites`: named lists of behaviours.
- `stress`: the behaviours of a suite in other scenarios and languages.
- `conditions`: a model under a recipe or an instruction, and the cache of its scores.
- `statistics`: paired comparisons with intervals and p-values.
- `baselines`: what random edits, shuffled labels and an instruction do on the same items (`_random_recipes`).
- `auditor`: `audit`, and its record `Audit`.
- `entanglement_matrix`: several edits by all behaviours.
- `ablation_trials`: candidate directions ranked by what their ablation does.
- `damage`: what the removal of a direction costs on a few texts, before it is saved.
- `autoencoders`: whether an autoencoder is more than chance.
- `policy`: tiers and limits, requirements, the decision, risk reports that people sign, and the release gate.

One measurement goes `audit` -> `ScoreCache` -> `ModelCondition` -> `Behaviour` -> a scorer of `scoring`.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
