"""interp/sae/training."""
