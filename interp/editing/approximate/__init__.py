"""interp/editing/approximate."""
