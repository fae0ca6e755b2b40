"""Attribution graphs: which transcoder latents produce a prediction, on one prompt.

In reading order:

- `transcoders`: `load_transcoders`, a set of transcoders from a folder.
- `_freeze`: attention patterns and norm scales of one forward pass, held fixed in later ones.
- `_replacement`: the local replacement model, which is linear between latents.
- `_influence`: influence on the logits, by which nodes and edges are kept, and the scores of a graph.
- `graph`: `AttributionGraph`, the record: sums, files, recipes of nodes.
- `effects`: `measure_effects`, ablations of nodes beside what the graph predicts.
- `tracer`: `trace_graph`, which makes a graph.
"""
