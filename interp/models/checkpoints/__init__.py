"""interp/models/checkpoints."""
