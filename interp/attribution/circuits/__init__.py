"""Edges and circuits: which writer feeds which reader, how much each edge matters, and which edges are enough.

- `edge_graph`: `EdgeGraph`, the sources, targets and edges of a model.
- `_node_run`: a model computed node by node, with an input of its own for each query, key and value.
- `edge_patching`: `patch_edges`, the exact effect of single edges.
- `circuit`: `Circuit`, a set of edges, and its files.
- `edge_scores`: `attribute_edges`, an estimate of the effect of all edges.
- `faithfulness`: `measure_circuits` and `faithfulness_curve`, what circuits do by themselves.
"""
