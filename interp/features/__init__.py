"""What latents mean: a scan of all of them in one pass, a book that people label, and search.

In reading order:

- `options`: the settings of a scan.
- `token_chunk`: tokens with activations, from a store or a model.
- `latent_statistics`: what is counted of every latent.
- `ablation_effect`: what a latent's removal does to the loss.
- `latent_rows`: the rows of a book.
- `scanner`: `scan`, which makes a book.
- `book_card`: what a book is of.
- `book`: `Book`, queried through DuckDB.
- `agreement`: how far raters agree.
- `labels`: what people and machines say that latents mean.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
