"""Bridges: what other programs and places take from interp.

In reading order:

- `hub`: an export as a model repository of the Hugging Face Hub.
- `inspect_tasks`: behaviours as tasks of Inspect.
- `inspect_provider`: a model with a recipe as a model provider of Inspect, `interp/MODEL`.
- `harness`: a model with a recipe as a model of lm-evaluation-harness.

Limitations: Inspect and the harness are extras (`interp[inspect]`, `interp[lm-eval]`); their modules can be imported
without them.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
