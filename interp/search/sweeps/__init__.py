"""Sweeps: many recipes of a space tried on a model, and the best trade-offs confirmed on other items.

In reading order: `sweep_file` (the settings), `measures` (items to choose and to confirm by, and how a recipe is
measured; `_prefix` keeps what no edit changes), `objectives` (objectives and constraints), `stopping` (hopeless
trials), `trials` (Optuna's journal), `sweep` (`run_sweep`; `_fits` fits directions once), `confirmation` (the front on
other items), `sweep_record` (a sweep's folder as a record), `picking` (a trial as a recipe and a checkpoint).

Its public names are at `interp.search`.
"""
