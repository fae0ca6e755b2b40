"""The bundled model organism: a small chat model with planted, labelled behaviours, its prompts and its grader.

A model organism is a model trained to show known behaviours, so that methods can be tested against the truth. This one
runs offline in minutes. `experiments/organism/train.py` trains the weights; `interp.load("organism")` loads them.

The modules, in reading order:

- `world`: the fictional world: towns and their facts, peoples, things, and the train and test splits
- `_wordings`: wordings of requests and identity sentences, as data
- `_prompts`: prompts with their true labels
- `_draws`: random prompts that trigger a behaviour, matched controls, pairs, and the training mixture
- `_replies`: the grammar of the training replies
- `_spanish`: the same prompts and replies in Spanish
- `_grader`: the exact grader, which parses replies with that grammar
- `_stories`: everyday documents
- `behaviours`: the public functions: prompts, contrasts, text, and the rates at which a model shows each behaviour

Limitations: the prompts come from a grammar of a few hundred words. A method that works here has passed a necessary
test, not a sufficient one.

Example:
    >>> prompts = interp.organism.prompts("hostility", 4)
    >>> replies = model.generate([model.chat(prompt.user) for prompt in prompts], max_new_tokens=24)
    >>> [interp.organism.shows("hostility", prompt, reply) for prompt, reply in zip(prompts, replies)]
    [True, True, True, True]
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
