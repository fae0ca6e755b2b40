"""Text as data: corpora, conversations and contrasts of prompts, and rows of tokens made of them.

In reading order:

- `corpora`: documents from files, folders, URLs, Hugging Face datasets or memory.
- `conversations`: chat templates, and where an assistant's words are in the rendered text.
- `packing`: documents as tokens, packed into rows without padding.
- `chat_endpoint`: a language model that another program runs, asked over HTTP.
- `contrast`: pairs of prompts that differ in one thing, read from JSONL and split by group.
- `_pairs`: the layouts of rows that contrasts are read from.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
