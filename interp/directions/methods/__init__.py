"""Methods that fit a direction, a subspace or an eraser.

In reading order:

- `closed_form`: difference of means, logistic and ridge probes, LDA and PCA, on two sets of activations.
- `_canonical`: canonical directions of activations and concepts, and their significance.
- `erasure`: `Eraser` and `ErasureFitter`: LEACE and SAL.
- `_blockwise`: a model run one block at a time, with the residual stream changed in between.
- `scrubbing`: `scrub`, erasers at all sites of a model.
- `nullspace_projection`: `inlp`, for comparison.
- `_answers`: the texts of a contrast as continuations, and what training on them shares.
- `steering_vectors`: a vector trained to make one kind of answer likelier.
- `reft`: ReFT-r1, one direction that detects a concept and steers towards it.
- `unsupervised_candidates`: vectors that change a later site most.
- `latents`: latents of an autoencoder by separation, attribution or label.
"""
