"""Directions that carry a behaviour: found on one part of a contrast, scored on the other."""
