"""What machines say that latents mean, and how well it predicts; public names are at `interp.features`.

In reading order:

- `options`: the settings.
- `example_split`: which examples are shown, and which are held out.
- `questions`: what a machine is asked, and how its replies are read.
- `replies`: a machine's replies, kept on disk, and what they cost.
- `accuracy`: balanced accuracy with its interval.
- `description`: a description with its tests, and the file of a book's.
- `describer`: `describe` and `estimate_cost`.
"""
