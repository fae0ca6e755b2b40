"""Activations as data: harvested from a model over a corpus, kept in a sharded store, read back shuffled."""
