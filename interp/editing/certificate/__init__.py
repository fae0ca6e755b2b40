"""Certificate: what was measured between the hooked base model and the exported one, and how it is verified.

In reading order:

- `record`: the figures, and which of them an export must meet.
- `probes`: the tokens to measure on.
- `measurement`: measures an exported folder against the hooked base.
- `_comparison`: gathers the figures batch by batch, for whole models and part by part, where both have to agree.
- `writer_check`: whether everything that writes the residual stream is known.
- `manifest`: what an export was made from, how, and the digest of each of its files.
- `replay`: makes the edit again and compares every tensor and file.
- `verifier`: all of it, for a folder that somebody else wrote.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
