"""Figures of where a prediction comes from; public names are at `interp.views`.

- `lens_figure`: `plot_lens`, layers by positions with what a lens reads at each place.
- `circuit_figure`: `plot_circuit`, heads and MLPs by layer, and the edges of a circuit.
"""
