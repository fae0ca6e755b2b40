"""What latents mean: a scan of all of them in one pass, a book that people label, and search.

In reading order:

- `scanning`: `scan`, which makes a book, from chunks of tokens to the rows of each latent.
- `book_card`: what a book is of.
- `book`: `Book`, queried through DuckDB.
- `latent_search`: which latents have a text, a label or a token, fire on a sentence, or are like a direction.
- `line_file`: append-only files of lines.
- `agreement`: how far raters agree.
- `labels`: what people and machines say that latents mean.
- `latent_names`: `book:LABEL` where a number is expected.
- `descriptions`: `describe`, which asks a machine, and tests what it says.
- `formats`: `export_book`, which writes the files of Neuronpedia, SAEDashboard and delphi; labels of theirs are read.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
