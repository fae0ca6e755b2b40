"""Training of sparse autoencoders on hand-derived gradients; public names are at `interp.sae`.

In reading order:

- `trainer`: `train` and `train_all`, the loop over batches.
- `bundle`: several autoencoders that train on the same batches.
- `state`: weights, optimiser and statistics of one autoencoder.
- `standardisation`: activations at unit scale, without a few huge ones.
- `kinds`: value, penalty and slopes of TopK, BatchTopK, standard, JumpReLU and gated latents.
- `gradients`: loss and gradients of a batch, from the entries that matter.
- `latent_shard`: the latents of one of several processes, and what the processes tell each other.
- `run_folder`: settings, metrics and checkpoints on disk.
- `fine_tuning`: training on the model's output, after training on activations.
"""
