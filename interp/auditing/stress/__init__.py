"""Stress: behaviours in other scenarios and languages.

In reading order: `transformation` (the schema of a stress file: slices and their transformations, as data),
`stress.yaml` (the one that is shipped), `slices` (the behaviours of a suite under them), `gate_calibration` (thresholds
of a gate by language).

Its public names are at `interp.auditing`.
"""
