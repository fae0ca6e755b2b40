"""interp/auditing/scoring."""
