"""Foundations of all stages: errors, configuration, files, digests, linear algebra and display.

In reading order:

- `errors`: `InterpError`, and hints for unknown names.
- `calls`: checked calls, whose errors say what was given and what was expected.
- `inputs`: bounds of what others wrote; text, JSON and lines of JSON within them.
- `config`: frozen configuration with strict keys, strict YAML, differences between settings.
- `files`: files and folders that are written completely or not at all; digests of files; locks of folders.
- `digests`: versions of packages, digests of tensors.
- `linalg`: orthonormal rows, projections, erasure.
- `moments`: streaming mean, variance and covariance.
- `progress`: progress bars.
- `workers`: work in processes of its own, with the results in order.
- `display`: tables for notebooks, terminals and JSON.
- `lazy`: public names of packages, imported on first use.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
