"""TransformerLens' TransformerBridge on a twin of a model: the only file that imports transformer_lens.

Booting a bridge replaces a model's submodules in place, after which it can't be saved. So the bridge gets a copy of the
module tree that shares every parameter and buffer with the original: no memory for weights, edits visible in both.
"""

import copy
from typing import Any

from torch import Tensor


def build(hf: Any, tokenizer: Any, share: bool = True) -> Any:
    """A bridge on a twin of `hf`, whose own modules stay as they are; `share` its parameters, or copy them all."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    shared = {id(x): x for x in (*hf.parameters(), *hf.buffers())} if share else {}
    twin = copy.deepcopy(hf, shared)
    for module in twin.modules():
        # Built inside a `hooked` block, the copy would keep that block's hooks for good.
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    bridge = build_bridge_from_module(twin, type(twin).__name__, hf_config=twin.config, tokenizer=None)
    # Given at construction, a tokenizer that exists in memory only would be looked for on disk and on the hub.
    bridge.tokenizer = tokenizer
    return bridge


def activation_cache(found: dict[str, Tensor], bridge: Any, has_batch_dim: bool) -> Any:
    """TransformerLens' ActivationCache of tensors under its hook names."""
    from transformer_lens.ActivationCache import ActivationCache

    return ActivationCache(found, bridge, has_batch_dim=has_batch_dim)
