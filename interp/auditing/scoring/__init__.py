"""Scoring: how the items of a behaviour get their scores.

In reading order:

- `choices`: which of several given texts is the likelier.
- `likelihoods`: log-probabilities of answers and losses of texts, by `_prefix_tree` (packed items) or `_branches`
  (answers that continue from a cache), which read chosen logits (`_token_reads`).
- `replies`: greedy replies, each scored by a grader.
- `graders`: rules, word lists, expected answers, pretrained classifiers.
- `refusals`: whether a request is declined.
- `judge`: another language model as grader.
- `behaviour_file`: behaviours from YAML and JSONL (`_behaviour_schema`).

Its public names are at `interp.auditing`.
"""
