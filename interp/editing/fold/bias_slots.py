"""Where a checkpoint can hold an added vector: in a writer's bias, in one that a config flag adds, or as another class.

    1. a bias that the checkpoint has
    2. a config flag of its own class (`mlp_bias`, `attention_bias`, …): the flag is set, and every bias that comes with
       it is created in every layer, all of them zero except the one that is needed. Transformers would ignore a
       tensor without its flag when it loads the checkpoint.
    3. with `rehost`, the Llama class: Qwen2 and Mistral compute what Llama does, which has both flags

Limitations: programs other than transformers may not read the flags.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from interp.core.errors import InterpError
from interp.models import Site, architecture
from interp.models.architectures.writers import BiasSlot, Writer, bias_name, bias_slots, writer_of

REHOSTED = ("mistral", "qwen2")


@dataclass
class BiasSlots:
    """The mutable side of a plan's biases: collects flags and new tensors, site by site."""

    config: Any
    names: set[str]
    written: list[Writer]
    rehost: bool = False
    created: dict[str, str] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)

    def hold(self, site: Site) -> None:
        """Make sure that a site's writer has a bias. Raises, with what to do instead, where it can't have one."""
        slots = [writer for writer in self.written if writer.site == site and writer.layout in ("table", "bias")]
        if len(slots) == 1:
            return None
        name = bias_name(self.config, site)
        if not slots and name is not None:
            for slot in bias_slots(self.config):
                if site.kind in slot.kinds and not getattr(self.config, slot.flag):
                    return self._open([slot], site, name)
            if self.rehost and self.config.model_type in REHOSTED:
                self.flags |= as_llama(self.config)
                return self._open(bias_slots(SimpleNamespace(model_type="llama")), site, name)
        kind, move = self.config.model_type, ""
        if kind in REHOSTED and not self.rehost:
            move = "save it under the Llama class (rehost), which has one; or "
        raise InterpError(
            f"adding a vector at {site} needs a bias on its writer, and {kind} has none there; {move}run the recipe "
            "with hooks (model.hooked(recipe)), or project instead of adding"
        )

    def _open(self, slots: Sequence[BiasSlot], site: Site, name: str) -> None:
        """Set the slots' flags and create every bias that comes with them; one of them is the site's."""
        self.flags |= {slot.flag: True for slot in slots}
        layers = architecture(self.config).layers
        for layer in range(self.config.num_hidden_layers):
            for module in (module for slot in slots for module in slot.modules):
                path = f"{layers}.{layer}.{module}"
                if f"{path}.weight" in self.names and f"{path}.bias" not in self.names:
                    self.created[f"{path}.bias"] = f"{path}.weight"
        self.written.append(writer_of(self.config, site, name))


def as_llama(config: Any) -> Mapping[str, Any]:
    """Keys of config.json that make a Qwen2 or Mistral checkpoint a Llama checkpoint."""
    from transformers import LlamaConfig

    if getattr(config, "sliding_window", None) is not None:
        window = f"a window of {config.sliding_window} tokens"
        raise InterpError(f"{config.model_type} attends within {window}, and Llama does not; leave rehost out")
    values, llama = config.to_dict(), LlamaConfig().to_dict()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kept = {key: values[key] for key in llama if key in values and key not in ("transformers_version", "_name_or_path")}
    unused = dict.fromkeys(("sliding_window", "use_sliding_window", "max_window_layers", "layer_types"))
    changed = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "head_dim": head}
    return kept | unused | changed | {"attention_bias": True, "mlp_bias": True, "pretraining_tp": 1}
