"""interp/models/architectures."""
