"""Pages of upkeep; public names are at `interp.views`.

- `curation_page`: `write_curation_page`, what became of a corpus, and its worst passages token by token.
- `drift_page`: `write_drift_page`, what changed between versions of a model.
- `depth_page`: `write_depth_page`, what brings a removed harm back, and how soon.
- `risk_report_page`: `write_risk_report_page`, a risk report with its reviews.
"""
