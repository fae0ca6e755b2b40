"""Drift: what changed between a model and later versions of it, outside and inside, and a ledger of audits over time.

In reading order:

- `options`: how much text is read, and the smallest changes that count.
- `paired_passes`: two models on the same rows of text.
- `token_divergence`: KL of the next token, and the tokens where the models differ most.
- `site_changes`: similarity per layer, what the mean difference promotes, and shifts along saved directions.
- `latent_changes`: how often the latents of an autoencoder fire.
- `crosscoder_difference`: latents that are shared, and latents of one model alone.
- `drift_record`: behaviours, measures and findings of a series.
- `drift_measurement`: `measure_drift`, a series measured against its first model.
- `drift_alarm`: when a series of audits has drifted, by a sequential rule, and its trend.
- `audit_ledger`: an append-only file of dated audits.
"""
