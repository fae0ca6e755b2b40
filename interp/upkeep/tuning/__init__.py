"""Tuning: fine-tuning as the method that edits are compared with.

In reading order:

- `options`: how a model is tuned.
- `training_rows`: the rows of data that each method learns from.
- `_trainer`: TRL's trainers of a LoRA adapter, with a recipe's hooks while they train.
- `tuned_checkpoint`: an adapter merged into a checkpoint, with a certificate and a record.
- `tuner`: a model tuned and written.
- `method_comparison`: edits, tuned models and a prompt in one matrix, with what each cost.
"""
