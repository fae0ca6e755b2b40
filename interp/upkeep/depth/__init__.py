"""Erasure depth: whether a removed harm is gone, or only out of sight.

In reading order:

- `options`: how deep is looked.
- `subject`: a model that is measured, with the recipe that it runs under.
- `demonstrations`: the harm as the unedited model shows it, which copies learn from.
- `fresh_probes`: linear and MLP probes downstream of the edit.
- `relearning`: fine-tuning until half of the harm is back.
- `soft_prompt`: a prefix of learned embeddings.
- `weight_rounding`: weights rounded to 8 or 4 bits.
- `depth_measurement`: all of it, in stages that can be resumed.
"""
