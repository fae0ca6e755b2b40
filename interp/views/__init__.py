"""Views of results: interactive figures, the report of a run on one page, and notebook widgets.

In reading order:

- `palette`: the colours that all views share, legible in light and in dark.
- `figures`: figures of findings, of a latent and of rates: `heat_map`, `layer_curve`, `density`, `before_after`.
- `audit_figures`: figures of audits: `forest`, the differences with their intervals, and `matrix`, edits by behaviours.
- `training_curves`: `training`, the curves of training, and `Live`, the same curves in a notebook during training.
- `report_page`: `Report`, the records of a run, and `write_report`, which writes them as one HTML file.
- `steering_slider`: `steer`, a slider in a notebook that steers a model's reply.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
