"""Activations as data: harvested from a model over a corpus, stored in shards, and read back shuffled.

In reading order:

- `token_rows`: a corpus as rows of tokens, and forward passes over them.
- `columns`: which sites of which models are side by side in a batch, and their widths.
- `config`: the settings of a harvest.
- `manifest`: the record of a store: settings, shards and checksums.
- `harvester`: `harvest`, which writes a store and continues one that was interrupted.
- `store`: `Store`, which reads shards through a memory map.
- `stream`: `Stream`, which runs the model when batches are read; the protocol that training reads from.
- `paired_store`: two stores of the same tokens, for crosscoders.
- `_batching`: batches from pools of shuffled rows.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
