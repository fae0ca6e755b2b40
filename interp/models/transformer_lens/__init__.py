"""TransformerLens: its names and methods on the plain model, and its bridge for what no module computes.

The modules, in reading order:

- `bridge`: a TransformerBridge on a model's own weights, and runs on it
- `face`: the attributes and methods that `HookedModel` shares with TransformerLens
"""
