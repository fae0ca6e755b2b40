"""Pages of upkeep; public names are at `interp.views`.

- `curation_page`: `write_curation_page`, what became of a corpus, and its worst passages token by token.
- `drift_page`: `write_drift_page`, what changed between versions of a model.
- `risk_report_page`: `write_risk_report_page`, a risk report with its reviews.
"""
