"""Training data, scored and split.

In reading order:

- `options`: what documents are scored by, and how a corpus is split.
- `document_scorer`: what a document scores by a direction or by latents, and a direction fitted to replies.
- `near_duplicates`: MinHash signatures, and the bands by which candidates are found.
- `score_table`: the scores on disk, in which a curation is resumed.
- `thresholds`: cuts from a labelled sample, with their error rates.
- `trial_training`: what training on a sample changes.
- `curation_record`: what became of a corpus.
- `curator`: a corpus scored and split.
"""
