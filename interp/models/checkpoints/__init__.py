"""Checkpoints: weights on disk or at a URL, read tensor by tensor and checked before use.

The modules, in reading order:

- `safetensors_file`: one file, its header read and checked
- `companions`: which files accompany the weights, and why others do not
- `remote_files`: files at a URL, read by ranges of bytes
- `object_folder`: a folder in an object store, read through a local cache, written by one process at a time
- `checkpoint`: a folder with config and weights
- `dequantising`: quantised weights as plain ones
- `gguf_file`: what GGUF files state beyond what transformers reads of them
"""
