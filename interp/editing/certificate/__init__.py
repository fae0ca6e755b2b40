"""interp/editing/certificate."""
