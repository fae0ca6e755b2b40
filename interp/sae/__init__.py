"""Sparse autoencoders, transcoders and crosscoders: trained on activations, measured in the model, read by latent.

In reading order:

- `nonlinearities`: which latents fire: TopK or JumpReLU.
- `code`: the latents that fire on each token, as a sparse code.
- `config`: how to train, and the records of a trained autoencoder.
- `coder`: `SparseAutoencoder`: encode, decode, save and load.
- `training`: `train`, from kinds and gradients to the run folder.
- `splice`: a forward pass with the reconstruction in place of the activations.
- `metrics`: variance explained, and the loss that the reconstruction costs.
- `similarity`: the nearest latents by cosine, of one autoencoder or of two.
- `feature`: the page of a latent: top snippets, promoted tokens, nearest latents.
- `file_formats`: files of interp, SAELens, sparsify, dictionary_learning and Gemma Scope, as `SparseAutoencoder.load`
  reads them.
- `format_writers`: autoencoders written for these tools.

Which function trains:

| function | trains | when |
|---|---|---|
| `train` | one autoencoder, transcoder or crosscoder | the first choice |
| `train_all` | several, each batch read once for all | several sites, widths or kinds from one store |
| `finetune` | a trained one, in a short phase on the model's output | the loss recovered matters most |
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
