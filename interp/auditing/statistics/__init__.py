"""interp/auditing/statistics."""
