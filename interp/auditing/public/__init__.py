"""Public: behaviours on published evaluation sets, which the user downloads.

In reading order: `suite` (all sets by name), `_sets` (a set as data), `_rows` (reading, checking and sampling), and
one module per family: `_letters`, `_answers`, `_bias`, `_texts`, `_refusals`.

Its public names are at `interp.auditing`.
"""
