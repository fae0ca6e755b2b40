"""Views of results: interactive figures, the report of a run on one page, and notebook widgets.

In reading order:

- `palette`: the colours that all views share, legible in light and in dark.
- `notebook_figure`: what the figures are: plotly figures that also show without a kernel, a network or scripts.
- `figures`: figures of findings and of a latent: `plot_heat_map`, `plot_layer_curve`, `plot_activation_histogram`.
- `audit_figures`: figures of audits: `plot_forest` (differences with their intervals), `plot_rates` (rates before and
  after) and `plot_entanglement` (edits by behaviours).
- `attribution`: `plot_lens`, layers by positions with what a lens reads at each place, and `plot_circuit`, heads and
  MLPs by layer with the edges of a circuit.
- `attention_figure`: `plot_attention`, where the heads attend: heads by positions, or one head's whole pattern.
- `training_curves`: `plot_training`, the curves of training, and `LiveCurves`, the same curves in a notebook during
  training.
- `report_page`: `Report`, the records of a run, and `write_report`, which writes them as one HTML file.
- `attribution_graph_page`: `graph_page`, the page of an attribution graph, as one HTML file.
- `upkeep`: `write_curation_page`, what became of a corpus, and its worst passages token by token, and
  `write_risk_report_page`, a risk report with its reviews.
- `workbench`: `chat`, a conversation with a model and its edits side by side, `tokens`, a text shaded by what is read
  on each token, `feature`, a latent of a book, and `compare`, what two models or recipes expect next.
- `browser`: `browse`, the pages of a feature book as a local web application, and `export_pages`, the same as files.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
