"""interp/auditing/public."""
