"""Models: a Hugging Face model under TransformerLens' site names, which captures, edits and generates.

The modules, in reading order:

- `sites`: names of places in the network, and patterns over them
- `tokens`: prompts as left-padded batches of token ids
- `chat_template`: conversations as text, and the marks of turns and thoughts in it
- `hooks`: functions attached to modules for as long as a block lasts
- `forward_pass`: which tokens a forward pass covers
- `losses`: next-token cross-entropy and KL divergence
- `identity`: references to models by digests
- `_plain`: sites and hooked forward passes of a Hugging Face model
- `transformer_lens`: TransformerLens' names and methods, and its bridge
- `hooked`: HookedModel: prompts, captured activations, losses and generation
- `capture`: the activations that a capture returns
- `continuations`: the likelihood of continuations
- `loading`: `load`, from a hub id, folder, URL, GGUF file or object
- `architectures`: which module is which site, and which tensors write the residual stream
- `checkpoints`: safetensors files, local and remote, plain and quantised
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
