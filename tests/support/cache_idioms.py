"""The analyses of TransformerLens' cache as ARENA-style work uses them, and the architectures they are compared on."""

from importlib.metadata import version

import torch

IDS = torch.randint(4, 128, (2, 9), generator=torch.Generator().manual_seed(1))
# A token per row; TransformerLens 3 takes one for all rows.
RIGHT, WRONG = (7, 50) if version("transformer-lens") < "4" else (torch.tensor([7, 50]), torch.tensor([50, 99]))
ARCHITECTURES = ["llama", "gpt2", "gpt_neox", "qwen2", "gemma2", "phi", "mistral", "qwen3"]
IDIOMS = {
    "decompose_resid": lambda c: c.decompose_resid(),
    "decompose_resid, normed": lambda c: c.decompose_resid(2, apply_ln=True),
    "decompose_resid, at the MLP": lambda c: c.decompose_resid(
        1, mlp_input=hasattr(c.model.blocks[1], "ln2"), apply_ln=True
    ),
    "decompose_resid, one position": lambda c: c.decompose_resid(apply_ln=True, pos_slice=-1),
    "accumulated_resid": lambda c: c.accumulated_resid(),
    "accumulated_resid, as logits": lambda c: c.accumulated_resid(apply_ln=True) @ c.model.W_U + c.model.b_U,
    "stack_head_results": lambda c: c.stack_head_results(2),
    "stack_head_results, the rest": lambda c: c.stack_head_results(apply_ln=True, incl_remainder=True),
    "head results": lambda c: (c.stack_head_results(), c["result", 1])[1],
    "logit_attrs": lambda c: c.logit_attrs(c.decompose_resid(), 7),
    "logit_attrs, a token per row": lambda c: c.logit_attrs(c.stack_head_results(), RIGHT, WRONG),
    "logit_attrs, one position": lambda c: c.logit_attrs(c.decompose_resid(pos_slice=-1), RIGHT, WRONG, pos_slice=-1),
    "logit_attrs, of rows": lambda c: c.apply_slice_to_batch_dim([1]).logit_attrs(
        c.apply_slice_to_batch_dim([1]).decompose_resid(), 7
    ),
    "logit_attrs, of neurons": lambda c: c.logit_attrs(c.stack_neuron_results(2), RIGHT, WRONG),
}
