"""Feature books in other tools' files; public names are at `interp.features`.

In reading order:

- `saedashboard`: batches of features, as SAEDashboard writes them.
- `neuronpedia`: an export of features, activations and explanations, as Neuronpedia reads it; its labels, read.
- `delphi`: the layout of delphi: activations, explanations and scores; its explanations, read.
- `book_export`: `export_book`, which writes one of them, and `read_tool_labels`.
"""
