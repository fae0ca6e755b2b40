"""Models under TransformerLens' site names, and the bundled model organism."""
