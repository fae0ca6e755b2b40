"""One pass over a text for all latents of autoencoders; public names are at `interp.features`.

In reading order:

- `options`: the settings of a scan.
- `token_chunk`: tokens with activations, from a store or a model.
- `chunk_encoder`: which latents fire on a chunk, in this process or in others.
- `latent_statistics`: what is counted of every latent.
- `background`: places of the whole text, and what fires around them.
- `sampled_text`: pieces of the whole text, for ablations.
- `ablation_effect`: what a latent's removal does to the loss.
- `latent_rows`: the rows of a book.
- `scanner`: `scan`, which makes a book.
"""
