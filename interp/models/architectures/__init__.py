"""Architectures: which module of a Hugging Face model is which site, and which tensors write the residual stream.

The modules, in reading order:

- `table`: one row of module paths per family of architectures
- `writers`: the tensors that write the residual stream
- `unembedding`: which tokens a direction makes likelier
- `attention_mask`: attention masks that functions can change
- `recognition`: architectures outside the table, tried against its rows
"""
