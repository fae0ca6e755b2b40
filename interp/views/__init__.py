"""Views: figures, and the report that shows a run on one page."""
