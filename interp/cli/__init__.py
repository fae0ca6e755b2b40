"""interp/cli."""
