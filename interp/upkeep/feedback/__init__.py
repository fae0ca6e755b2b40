"""What people prefer, and the directions that it gives.

In reading order:

- `judgements`: preferences and ratings of several raters, their verdicts, and what is left to adjudicate.
- `agreement`: how far raters agree, and whether they split by group.
- `preferences`: directions of what people reject, with held-out separation, and recipes with their cost.
"""
