"""Statistics of paired scores.

In reading order: `comparison` (a behaviour before and after), `intervals` (95 % intervals of means and differences),
`significance` (p-values and their correction over a suite).

Its public names are at `interp.auditing`.
"""
