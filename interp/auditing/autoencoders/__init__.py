"""Is an autoencoder more than chance? A bench beside controls of the same cost; public names are at `interp.auditing`.

In reading order:

- `options`: what is measured, and on how much.
- `labelled_set`: texts with a concept and without, read at a token or pooled; the organism's planted concepts.
- `controls`: autoencoders that have to be beaten.
- `reconstruction`: what the reconstruction costs the model, and how sparse it is.
- `sparse_probing`: how well a concept can be read from one or a few latents.
- `absorption`: concepts that a more specific latent has taken over in part.
- `fact_questions`: questions about the organism's facts.
- `disentangling`: one attribute of a thing apart from its others.
- `unlearning`: the facts of one topic removed.
- `description_scores`: whether a machine can say what latents mean.
- `bench_record`: `AutoencoderBench`, the record, with its table.
- `bench`: `bench_autoencoder`, all of it.
"""
