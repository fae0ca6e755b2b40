"""interp/auditing/policy."""
