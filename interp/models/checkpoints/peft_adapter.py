"""PEFT LoRA adapters: merged into a model's weights when it is loaded, by PEFT itself.

    adapter_config.json -> checked against the model -> PEFT loads and merges -> every tensor of the file had a place

Limitations: the model is known by the last part of its name alone, since an adapter states no digest of its base. Other
kinds of adapters (prompts, IA3, …) and pickled ones are refused. Needs the package peft (extra `adapter`).
"""

import warnings
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError, first_line
from interp.core.files import read_json, read_tensors
from interp.core.lazy import require_package

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def merge_adapter(hf: Any, folder: str | Path, names: tuple[str, ...]) -> Any:
    """The model with an adapter merged into its weights.

    Args:
        hf: A Hugging Face model, which is changed.
        folder: The adapter.
        names: What the model is called: one of them has to be the base that the adapter names.

    Raises:
        InterpError: The folder is no LoRA adapter with safetensors; it was made for another base; it has tensors that
            the model has no place for, or the model's token table is tied and it edits that; or peft is missing.
    """
    place = Path(folder).expanduser()
    if not (place / CONFIG).is_file():
        raise InterpError(f"adapter {str(folder)!r}: no {CONFIG} in it; expected a folder that PEFT saved")
    config = read_json(place / CONFIG)
    kind, base = config.get("peft_type"), str(config.get("base_model_name_or_path") or "")
    if kind != "LORA":
        raise InterpError(f"{place}: an adapter of type {kind}; expected LORA, which merges into weights")
    if base and Path(base).name.lower() not in {Path(name).name.lower() for name in names}:
        raise InterpError(
            f"{place}: was made for {base}, and the model is {names[0]}; give that model, or correct "
            f"base_model_name_or_path in {CONFIG} if it is the same under another name"
        )
    if not (place / WEIGHTS).is_file():
        raise InterpError(
            f"{place}: no {WEIGHTS} in it; save the adapter again with safetensors (pickles can run code)"
        )
    require_package("peft", "adapter", f"{place}: merging an adapter")
    return _merged(hf, place)


def _merged(hf: Any, place: Path) -> Any:
    from peft import PeftModel, get_peft_model_state_dict

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            adapted: Any = PeftModel.from_pretrained(hf, str(place))
            placed = get_peft_model_state_dict(adapted)
            if lost := sorted(set(read_tensors(place / WEIGHTS)) ^ set(placed)):
                raise InterpError(f"{place}: {lost[0]} is in the adapter or in the model, not in both; it is another's")
            merged = adapted.merge_and_unload(safe_merge=True)
        except (ValueError, RuntimeError, KeyError, TypeError) as problem:  # PEFT's, for what does not fit
            raise InterpError(f"{place}: PEFT can't merge it ({first_line(problem)}); give its base model") from problem
    # PEFT only warns where tied weights would change together, or tensors are missing.
    for warning in told:
        if issubclass(warning.category, UserWarning) and (
            "tie" in str(warning.message) or "key" in str(warning.message)
        ):
            reason = str(warning.message).splitlines()[0]
            raise InterpError(
                f"{place}: PEFT can't merge it ({reason}); if it edits a tied token table, export a checkpoint "
                "where it was made, instead (interp export without --form)"
            )
    return merged
