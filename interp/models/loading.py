"""`interp.load`: one door for a hub id, a local folder, a GGUF file, a model object in memory, or the bundled organism.

Whatever it is named by, a checkpoint is on disk before anything of it is loaded (a hub id is downloaded first,
safetensors only), and is checked there. Of a multimodal model the language model is loaded.

The text-only part of a model that also reads images or sound, as the language model it contains.
"""

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from interp.core.dtypes import dtype_of
from interp.core.errors import InterpError, nearest
from interp.models.architectures.recognition import recognise_architecture
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.checkpoints.remote_files import fetched, is_remote, local_path
from interp.models.hooked import HookedModel


def reads_more_than_text(config: Any) -> bool:
    """Whether a config describes parts beside a language model."""
    return config.get_text_config(decoder=True) is not config


def text_part(hf: Any) -> Any:
    """The causal language model in a multimodal model: its own modules, shared, under the usual names.

    A model that reads text alone is returned as it is. Raises where the part is not of a class that transformers has a
    causal language model for, so that what is hooked is the standard class or nothing.
    """
    if not reads_more_than_text(hf.config):
        return hf
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = hf.config.get_text_config(decoder=True)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InterpError(
            f"{type(hf).__name__}: transformers has no causal language model for its text part ({config.model_type}); "
            "load a checkpoint whose text part is a standard class, such as Llama, Qwen2 or Gemma 3"
        )
    with torch.device("meta"):
        language_model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        text = language_model(config)
    whole = [module for module in hf.modules() if type(module) is type(text)]
    if len(whole) == 1:
        return whole[0]
    bodies = [module for module in hf.modules() if type(module) is type(text.base_model)]
    if len(bodies) != 1 or hf.get_output_embeddings() is None:
        raise InterpError(
            f"{type(hf).__name__}: expected one {type(text.base_model).__name__} and an unembedding in it, found "
            f"{len(bodies)}; load a text-only checkpoint"
        )
    setattr(text, text.base_model_prefix, bodies[0])
    text.set_output_embeddings(hf.get_output_embeddings())
    text.config, text.generation_config = bodies[0].config, hf.generation_config
    return text


ORGANISM = "organism"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*"]


def load(
    model: Any,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> HookedModel:
    """A HookedModel from a hub id, a local folder, a GGUF file, a URL, a Hugging Face model object, or "organism".

    `dtype` is float32 unless told otherwise, so that measurements are exact; "auto" keeps the checkpoint's own. A model
    object is hooked in place, not copied: it keeps its type, and `dtype` is refused. `device` is the CPU unless given;
    `revision` pins a hub id. Code and pickled weights that come with a checkpoint are refused unless let in, and code
    from the hub unless `revision` is a commit. A checkpoint at a URL of any fsspec file system is fetched into a
    temporary folder. GGUF is dequantised, and needs the extra `gguf`. An architecture that the table lacks is taken
    where its sites add up as those of a known one do (`recognise`), else refused by name.
    Raises InterpError for a name that is neither a folder nor on the hub, and for checkpoints that can't be trusted.
    """
    if not isinstance(model, str | Path):
        _refuse_unused("a model in memory", revision=revision, trust=trust_remote_code, pickle=allow_pickle)
        return _in_memory(model, dtype, device, tokenizer)
    if not str(model).strip():
        raise InterpError("the model's name is empty; expected a folder, a hub id, a GGUF file or organism")
    if is_remote(model):
        _refuse_unused(str(model), revision=revision, trust=trust_remote_code, pickle=allow_pickle)
        Checkpoint.open(str(model))  # before gigabytes are fetched
        with fetched(str(model)) as folder:
            loaded = load(folder, dtype=dtype, device=device, tokenizer=tokenizer)
        loaded.name, loaded.source = str(model).rstrip("/").rpartition("/")[2], str(model)
        return loaded
    model = local_path(model)
    place = Path(model).expanduser()
    if is_gguf(model):
        _refuse_unused(str(model), revision=revision, trust=trust_remote_code, pickle=allow_pickle)
        hf, found = _from_gguf(place, _dtype(dtype), tokenizer)
        return _on(HookedModel(hf, found, place.stem, str(place.resolve())), device)
    local = place.is_dir()
    if trust_remote_code and not local and not _is_commit(revision):
        raise InterpError(
            f"trust_remote_code=True runs code of {model!r} that its owners can change at any time, and revision is "
            f"{revision!r}; pin the commit whose code you have read (revision=, 40 hexadecimal digits)"
        )
    if local or str(model) == ORGANISM:
        _refuse_unused(str(model), revision=revision)
    folder = locate(model, revision)
    Checkpoint.open(folder, trust_remote_code, allow_pickle)
    options = {"trust_remote_code": trust_remote_code, "use_safetensors": None if allow_pickle else True}
    hf, found = _from_pretrained(folder, _dtype(dtype), tokenizer, options)
    # Saved records name where a model came from: a folder by its whole path, so that it is found from anywhere.
    source, name = (str(folder.resolve()), folder.resolve().name) if local else (str(model), str(model))
    return _on(HookedModel(hf, found, name, source, folder.name if _is_commit(folder.name) else None), device)


def is_gguf(model: Any) -> bool:
    """Whether a model is named by a GGUF file."""
    return isinstance(model, str | Path) and Path(model).suffix.lower() == ".gguf" and not Path(model).is_dir()


def _refuse_unused(what: str, **given: Any) -> None:
    """Raise for options that would be passed over in silence."""
    names = {"trust": "trust_remote_code", "pickle": "allow_pickle"}
    for name, value in given.items():
        if value:
            raise InterpError(f"{names.get(name, name)}={value!r} has no meaning for {what}; leave it out")


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


def _in_memory(model: Any, dtype: Any, device: Any, tokenizer: Any) -> HookedModel:
    if dtype is not None:
        raise InterpError(f"dtype={dtype!r} was given with a model in memory, which keeps its own; convert it before")
    if isinstance(model, HookedModel):
        if tokenizer is not None:
            raise InterpError(
                "a tokenizer was given with a HookedModel, which has its own; set model.tokenizer instead"
            )
        return _on(model, device)
    if not hasattr(model, "config"):
        raise InterpError(f"a model of type {type(model).__name__}; expected a name, a path or a Hugging Face model")
    text = text_part(model)
    recognise_architecture(text)
    return _on(HookedModel(text, tokenizer, model.config.name_or_path or "model in memory"), device)


def locate(model: str | Path, revision: str | None = None) -> Path:
    """The folder that a name means; a hub id is downloaded, or found in the cache. Raises where there is none."""
    model = local_path(model)
    folder = Path(model).expanduser()
    if str(model) == ORGANISM:
        return Path(__file__).parents[1] / ORGANISM / "weights"
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InterpError(f"model {str(model)!r} is a file; expected a Hugging Face model folder or a hub id")
    if isinstance(model, Path) or str(model).startswith((".", "/", "~")) or str(model).count("/") > 1:
        raise InterpError(f"model {str(model)!r}: no such folder; {nearest(folder.name, _beside(folder))}")
    return _from_hub(str(model), revision)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED, ignore_patterns="*/*"))
    except (OSError, ValueError) as problem:
        reason = str(problem).splitlines()[0]
        raise InterpError(
            f"model {name!r} is neither a folder here nor to be had from the hub; "
            f"{nearest(name, _beside(Path(name)))}. Reason: {reason}"
        ) from None


def _beside(folder: Path) -> list[str]:
    others = folder.parent.glob("*/config.json") if folder.parent.is_dir() else ()
    return [other.parent.name for other in others] + [ORGANISM]


def _from_gguf(file: Path, dtype: Any, tokenizer: Any) -> tuple[Any, Any]:
    if not file.is_file():
        beside = [other.name for other in file.parent.glob("*.gguf")]
        raise InterpError(f"model {str(file)!r}: no such file; {nearest(file.name, beside)}")
    if find_spec("gguf") is None:
        raise InterpError(f"{file}: reading GGUF needs the package gguf; pip install 'interp[gguf]'")
    hf, tokenizer = _from_pretrained(file.parent, dtype, tokenizer, {"gguf_file": file.name})
    # The weights are plain tensors now; the mark of a quantised model would only keep transformers from saving them.
    for owner, mark in ((hf.config, "quantization_config"), (hf, "hf_quantizer"), (hf, "is_quantized")):
        if hasattr(owner, mark):
            delattr(owner, mark)
    return hf, tokenizer


def _from_pretrained(folder: Path, dtype: Any, tokenizer: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    # transformers draws its own bars wherever standard error goes; ours are for terminals only.
    if not sys.stderr.isatty():
        disable_progress_bar()
    where = {"local_files_only": True} | {name: x for name, x in options.items() if name != "use_safetensors"}
    try:
        more = "gguf_file" not in where and reads_more_than_text(AutoConfig.from_pretrained(folder, **where))
        loaded: Any = (AutoModelForImageTextToText if more else AutoModelForCausalLM).from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True, **options
        )
        hf, report = loaded
        if tokenizer is None and ("gguf_file" in where or any((folder / name).exists() for name in _TOKENIZERS)):
            tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    except Exception as problem:  # a malformed folder makes transformers raise whatever its parts raise
        reason = str(problem).strip().partition("\n")[0]
        file = folder / where["gguf_file"] if "gguf_file" in where else folder
        raise InterpError(
            f"{file}: transformers can't load it ({type(problem).__name__}: {reason}); restore it, or convert it anew"
        ) from problem
    incomplete = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if incomplete:
        raise InterpError(
            f"{folder}: {len(incomplete)} tensors are missing or of another shape than its config says "
            f"({incomplete[0]}), and would be random; download the checkpoint again"
        )
    text = text_part(hf)
    recognise_architecture(text)
    return text, tokenizer


def _dtype(dtype: str | torch.dtype | None) -> Any:
    if dtype is None:
        return torch.float32
    return dtype if isinstance(dtype, torch.dtype) or dtype == "auto" else dtype_of(dtype)


def _on(model: HookedModel, device: str | torch.device | None) -> HookedModel:
    if device is not None:
        try:
            model.hf.to(device)
        except (RuntimeError, AssertionError) as problem:  # torch's word for a device that is not there, or full
            reason = str(problem).strip().partition("\n")[0]
            raise InterpError(f"the model can't be moved to device {str(device)!r}: {reason}") from None
    return model
