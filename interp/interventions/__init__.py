"""Interventions: ops on activations, and recipes of them.

| op | what it does | folds into weights |
|---|---|---|
| Project | removes a direction or subspace | yes |
| Erase | erases a concept (LEACE) | at every site of the stream, or at writers with biases |
| Add | steers by a vector | where there is, or can be, a bias |
| LowRank | a trained low-rank edit (LoReFT) | at writers with biases |
| Clamp | holds, suppresses or boosts latents of an autoencoder | no; `interp.editing.approximate.affine_features` has
what does |
| Suppress | turns latents of a transcoder down | as neurons of the MLP, within a bound |
| Replace | zero and mean ablation; patching | heads, neurons, whole writes |
| Scale | turns heads or neurons down or up | heads, neurons |
| Resample | resample ablation | no |
| Knockout | cuts edges of attention | no |
| At, Schedule, Gate | another op at some positions, over time, under a condition | no |
"""

from interp.interventions.ablate import Replace, Resample, Scale, bank
from interp.interventions.gate import Fires, Gate, Rates, Reads, rates, threshold
from interp.interventions.knockout import Knockout
from interp.interventions.latents import Clamp, Suppress
from interp.interventions.ops import Add, Affine, Erase, LowRank, Op, Project
from interp.interventions.positions import At, Positions, Schedule, Turns, matching
from interp.interventions.recipe import Edit, Recipe

__all__ = [
    "Add",
    "Affine",
    "At",
    "Clamp",
    "Edit",
    "Erase",
    "Fires",
    "Gate",
    "Knockout",
    "LowRank",
    "Op",
    "Positions",
    "Project",
    "Rates",
    "Reads",
    "Recipe",
    "Replace",
    "Resample",
    "Scale",
    "Schedule",
    "Suppress",
    "Turns",
    "bank",
    "matching",
    "rates",
    "threshold",
]
