"""interp/directions/methods."""
