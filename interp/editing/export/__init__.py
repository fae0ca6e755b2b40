"""Export: the checkpoint that carries an edit, with everything that accompanies its weights.

In reading order:

- `exporter`: plans the fold, writes, certifies and records it (`export`, `export_streamed`, `dry_run`).
- `sources`: where the weights come from, a checkpoint or a model in memory.
- `identity`: whether they are those of the recipe's model, without loading it.
- `weight_writer`: writes weight files tensor by tensor, and resumes; estimates what that takes.
- `model_card`: the README.md of the exported checkpoint.
- `provenance`: how the checkpoint came to be, as an in-toto statement.
- `signatures`: signs the folder, and checks the signature.
- `restoring`: the patch that restores the original weights (`undo`).
- `_tensor_difference`: low-rank factors of what an edit changes.
- `gguf_writer`: an edited copy of a GGUF file, for llama.cpp.
- `adapter`: the edit as a LoRA adapter.
- `control_vector`: added vectors as a GGUF file for llama.cpp.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
