"""Interventions: pure functions on activations, and the recipes that say where they act."""
