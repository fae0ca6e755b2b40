"""`interp.load`: a model from a hub id, a local folder, a URL, a GGUF file, an object in memory, or "organism".

A checkpoint is on disk before any part of it is loaded (a hub id is downloaded first: safetensors and what accompanies
them), and is checked there. From a multimodal checkpoint, the language model is loaded.
"""

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from interp.core.errors import InterpError, first_line, nearest, printable
from interp.core.inputs import require_regular
from interp.core.lazy import require_package
from interp.models.architectures.recognition import recognise_architecture
from interp.models.chat_template import DATE, ChatTemplate
from interp.models.checkpoints.checkpoint import Checkpoint, refuse_lost, without_place
from interp.models.checkpoints.companions import NOT_FETCHED
from interp.models.checkpoints.dequantising import require_plain
from interp.models.checkpoints.gguf_file import GgufFile
from interp.models.checkpoints.peft_adapter import merge_adapter
from interp.models.checkpoints.remote_files import is_remote, local_path
from interp.models.hooked import HookedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(name: str) -> torch.dtype:
    """The torch type of a name. Raises for an unknown name, with the nearest known one."""
    if name not in DTYPES:
        raise InterpError(f"dtype {name!r} is not known; {nearest(name, DTYPES)}")
    return DTYPES[name]


def reads_more_than_text(config: Any) -> bool:
    """Whether a config describes more than a language model (images, sound)."""
    return config.get_text_config(decoder=True) is not config


def text_part(hf: Any) -> Any:
    """The causal language model in a multimodal model, with the same module objects under the usual names.

    Args:
        hf: A Hugging Face model. A text-only model is returned unchanged.

    Raises:
        InterpError: transformers has no causal language model class for the text part.
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
        text_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        text = text_class(config)
    language_models = [module for module in hf.modules() if type(module) is type(text)]
    if len(language_models) == 1:
        return language_models[0]
    bodies = [module for module in hf.modules() if type(module) is type(text.base_model)]
    if len(bodies) != 1 or hf.get_output_embeddings() is None:
        raise InterpError(
            f"{type(hf).__name__}: expected one {type(text.base_model).__name__} and an unembedding in it, but it has "
            f"{len(bodies)}; load a text-only checkpoint"
        )
    setattr(text, text.base_model_prefix, bodies[0])
    text.set_output_embeddings(hf.get_output_embeddings())
    text.config, text.generation_config = bodies[0].config, hf.generation_config
    return text


ORGANISM = "organism"
BUNDLED = {ORGANISM: "weights", f"{ORGANISM}-bilingual": "bilingual/weights"}  # folders of the organisms, by name
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def model_beside(name: str, folder: Path) -> str:
    """What a file in a folder calls a model: a model's folder relative to it, or else the name as it is."""
    return str(folder / name) if (folder / name).is_dir() else name


def load(
    model: Any,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    template: Mapping[str, Any] | None = None,
    date: str | None = None,
    adapter: str | Path | None = None,
) -> HookedModel:
    """Load a HookedModel.

    Args:
        model: A hub id, a local folder, a GGUF file, a URL of any fsspec file system (fetched into a temporary folder),
            a Hugging Face model object (hooked in place, not copied), "organism" for the bundled model organism, or
            "organism-bilingual" for the one in English and Spanish.
        dtype: dtype of the weights. Default float32, so that measurements are exact; "auto" keeps the checkpoint's.
            Refused for a model object, which keeps its own.
        device: Where the weights go; with accelerate installed, each is read straight to it. Default: the CPU.
        tokenizer: A tokenizer to use instead of the checkpoint's.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Run code that comes with the checkpoint. For a hub id this needs a commit as `revision`.
        allow_pickle: Load pickled weights, which can run code.
        template: Variables of the chat template, such as `{"enable_thinking": False}`, for every conversation.
        date: What a chat template prints for today's date, YYYY-MM-DD. Default: 2025-01-01, so that prompts stay the
            same.
        adapter: Folder of a PEFT LoRA adapter to merge into the weights (extra `adapter`).

    Returns:
        The model in evaluation mode.

    Raises:
        InterpError: There is no such model; the checkpoint is incomplete or unsafe, or holds tensors or (GGUF) metadata
            that the model has no place for; the architecture is not supported; or the adapter is another model's.

    Limitations:
        GGUF files are dequantised, and need the extra `gguf`. An architecture outside the table is accepted only if its
        sites add up like those of a known one (`architectures.recognition`).

    Example:
        >>> model = interp.load("organism")
        >>> model
        HookedModel(organism: llama, 6 layers, d_model 192)
    """
    hub_options = {"revision": revision, "trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
    loaded = _load(model, dtype, device, tokenizer, hub_options)
    if isinstance(model, str | Path):
        options = {"tokenizer": tokenizer, "trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
        given = {name: value for name, value in options.items() if value}
        loaded.load_options = {"model": loaded.source, "revision": loaded.revision, "adapter": adapter} | given
    if adapter is not None:
        names = (loaded.name, loaded.config.name_or_path or loaded.name)
        loaded.hf = merge_adapter(loaded.hf, adapter, names)
        loaded.name, loaded.source = f"{loaded.name} with {Path(adapter).name}", None
    if template is not None or date is not None:
        checked = ChatTemplate(loaded.tokenizer, dict(template or {}), DATE if date is None else date)
        checked.require_variables()
        loaded.template_variables, loaded.date = dict(checked.variables), checked.date
    return loaded


def _load(model: Any, dtype: Any, device: Any, tokenizer: Any, hub_options: dict[str, Any]) -> HookedModel:
    if not isinstance(model, str | Path):
        _refuse_unused("a model in memory", hub_options)
        return _in_memory(model, dtype, device, tokenizer)
    if not str(model).strip():
        raise InterpError("the model's name is empty; expected a folder, a hub id, a GGUF file or organism")
    if is_remote(model):
        _refuse_unused(str(model), hub_options)
        with Checkpoint.open(str(model)).fetched() as folder:  # checked before gigabytes are fetched
            loaded = load(folder, dtype=dtype, device=device, tokenizer=tokenizer)
        loaded.name, loaded.source = str(model).rstrip("/").rpartition("/")[2], str(model)
        if tokenizer is None and loaded.tokenizer is not None:
            loaded.tokenizer.name_or_path = str(model)  # not the temporary folder
        return loaded
    model = local_path(model)
    place = Path(model).expanduser()
    if is_gguf(model):
        _refuse_unused(str(model), hub_options)
        hf, tokenizer = _from_gguf(place, _dtype(dtype), tokenizer)
        return _on(HookedModel(hf, tokenizer, place.stem, str(place.resolve())), device)
    return _on(_from_folder(model, dtype, device, tokenizer, **hub_options), device)


def _from_folder(
    model: str | Path,
    dtype: Any,
    device: Any,
    tokenizer: Any,
    revision: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> HookedModel:
    local = Path(model).expanduser().is_dir()
    if trust_remote_code and not local and not _is_commit(revision):
        raise InterpError(
            f"trust_remote_code=True runs code of {model!r} that its owners can change at any time, and revision is "
            f"{revision!r}; pin the commit whose code you have read (revision=, 40 hexadecimal digits)"
        )
    if local or str(model) in BUNDLED:
        _refuse_unused(str(model), {"revision": revision})
    folder = locate(model, revision)
    require_plain(str(model), Checkpoint.open(folder, trust_remote_code, allow_pickle).config)
    options = {"trust_remote_code": trust_remote_code, "use_safetensors": None if allow_pickle else True}
    if device is not None and find_spec("accelerate"):  # each tensor is read straight to the device
        with _device_errors(device):
            torch.empty(0, device=device)
        options["device_map"] = device
    hf, tokenizer = _from_pretrained(folder, _dtype(dtype), tokenizer, options)
    # Saved records name a model's source: a folder by its absolute path, so that it is found from anywhere.
    source, name = (str(folder.resolve()), folder.resolve().name) if local else (str(model), str(model))
    return HookedModel(hf, tokenizer, name, source, folder.name if _is_commit(folder.name) else None)


def is_gguf(model: Any) -> bool:
    """Whether a model is named by a GGUF file."""
    return isinstance(model, str | Path) and Path(model).suffix.lower() == ".gguf" and not Path(model).is_dir()


def _refuse_unused(what: str, options: dict[str, Any]) -> None:
    """Raise for options that would be ignored."""
    for name, value in options.items():
        if value:
            raise InterpError(f"{name}={value!r} has no meaning for {what}; leave it out")


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


def _in_memory(model: Any, dtype: Any, device: Any, tokenizer: Any) -> HookedModel:
    if dtype is not None:
        raise InterpError(f"dtype={dtype!r} has no meaning for a model in memory, which keeps its own; convert it")
    if isinstance(model, HookedModel):
        if tokenizer is not None:
            raise InterpError("tokenizer= has no meaning for a HookedModel, which has its own; set model.tokenizer")
        return _on(model, device)
    if not hasattr(model, "config"):
        raise InterpError(f"a model of type {type(model).__name__}; expected a name, a path or a Hugging Face model")
    text = text_part(model)
    recognise_architecture(text)
    return _on(HookedModel(text, tokenizer, model.config.name_or_path or "model in memory"), device)


def locate(model: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint.

    Args:
        model: A folder, a `file://` URL, "organism", or a hub id, which is downloaded unless it is in the cache.
        revision: Branch, tag or commit of a hub id.

    Raises:
        InterpError: There is no such folder or hub id; the message has the nearest name.
    """
    model = local_path(model)
    folder = Path(model).expanduser()
    if str(model) in BUNDLED:
        return Path(__file__).parents[1] / ORGANISM / BUNDLED[str(model)]
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InterpError(f"model {str(model)!r} is a file; expected a Hugging Face model folder or a hub id")
    if isinstance(model, Path) or str(model).startswith((".", "/", "~")) or str(model).count("/") > 1:
        raise InterpError(f"model {str(model)!r}: no such folder; {nearest(folder.name, _neighbours(folder))}")
    return _from_hub(str(model), revision)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=NOT_FETCHED))
    except (OSError, ValueError) as problem:
        raise InterpError(
            f"model {name!r} is neither a local folder nor available from the hub ({first_line(problem)}); "
            f"{_remedy(problem) or nearest(name, _neighbours(Path(name)))}"
        ) from None


def _remedy(problem: BaseException | None) -> str:
    """What to do about a refusal of the hub; empty for one that says no more than that there is no such model."""
    while problem is not None:
        status = getattr(getattr(problem, "response", None), "status_code", None)
        if status == 429:
            return "the hub limits how often it is asked: wait some minutes and run the same again, or set HF_TOKEN"
        if status == 403 or type(problem).__name__ == "GatedRepoError":
            return "its owners decide who reads it: accept its terms on its page of the hub, and set HF_TOKEN"
        problem = problem.__cause__ or problem.__context__
    return ""


def _neighbours(folder: Path) -> list[str]:
    others = folder.parent.glob("*/config.json") if folder.parent.is_dir() else ()
    return [other.parent.name for other in others] + [*BUNDLED]


def _from_gguf(file: Path, dtype: Any, tokenizer: Any) -> tuple[Any, Any]:
    if not file.is_file():
        neighbours = [other.name for other in file.parent.glob("*.gguf")]
        raise InterpError(f"model {str(file)!r}: no such file; {nearest(file.name, neighbours)}")
    require_package("gguf", "gguf", f"{file}: reading GGUF")
    stated, other = GgufFile(file), tokenizer
    hf, tokenizer = _from_pretrained(file.parent, dtype, tokenizer, {"gguf_file": file.name}, stated)
    stated.require_places(hf)
    given = hf.generation_config.eos_token_id
    ends = {*(given if isinstance(given, list) else [given]), *stated.ends}
    hf.generation_config.eos_token_id = sorted(ends - {None})
    if other is None:
        stated.split_text(tokenizer)
    # The weights are plain tensors now; marked as quantised, transformers would refuse to save them.
    for owner, mark in ((hf.config, "quantization_config"), (hf, "hf_quantizer"), (hf, "is_quantized")):
        if hasattr(owner, mark):
            delattr(owner, mark)
    return hf, tokenizer


def _from_pretrained(
    folder: Path, dtype: Any, tokenizer: Any, options: dict[str, Any], gguf: GgufFile | None = None
) -> tuple[Any, Any]:
    """The model and its tokenizer; those of a GGUF file under its config, completed."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    # transformers draws progress bars even where standard error is not a terminal.
    if not sys.stderr.isatty():
        disable_progress_bar()
    for handler in logging.getLogger("transformers").handlers:
        handler.addFilter(_printable)  # its reports quote what is in files
    local = {"local_files_only": True} | {name: x for name, x in options.items() if name != "use_safetensors"}
    for file in [*folder.glob("*"), *folder.glob("*/*.jinja")]:  # of which transformers reads many
        require_regular(file)
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        if gguf:
            gguf.complete(config)
            options = options | {"config": config}
        multimodal = gguf is None and reads_more_than_text(config)
        loader: Any = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
        settings = {"dtype": dtype, "local_files_only": True, "output_loading_info": True}
        hf, report = loader.from_pretrained(folder, **settings, **options)
        if getattr(hf, "quantization_method", None) == "bitsandbytes":
            hf = hf.dequantize()
        if tokenizer is None and (gguf or any((folder / name).exists() for name in _TOKENIZERS)):
            tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    except InterpError:
        raise
    except torch.OutOfMemoryError as problem:
        raise InterpError(
            f"{folder}: does not fit on the device ({first_line(problem)}); see `interp doctor`"
        ) from None
    except Exception as problem:  # for a malformed folder, transformers raises errors of many types
        place, kind = gguf.path if gguf else folder, type(problem).__name__
        raise InterpError(
            f"{place}: transformers can't load it ({kind}: {first_line(problem)}); restore it, or convert it again"
        ) from problem
    incomplete = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if incomplete:
        raise InterpError(
            f"{folder}: {len(incomplete)} tensors are missing or have another shape than its config says "
            f"({incomplete[0]}), and would be random; download the checkpoint again"
        )
    refuse_lost(folder, without_place(map(str, report["unexpected_keys"]), hf.config))
    text = text_part(hf)
    recognise_architecture(text)
    return text, tokenizer


def _printable(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def _dtype(dtype: str | torch.dtype | None) -> Any:
    if dtype is None:
        return torch.float32
    return dtype if isinstance(dtype, torch.dtype) or dtype == "auto" else dtype_of(dtype)


@contextmanager
def _device_errors(device: str | torch.device) -> Iterator[None]:
    """Errors of a missing or full device as one line."""
    try:
        yield
    except (RuntimeError, AssertionError) as problem:  # torch's
        raise InterpError(f"the model can't be moved to device {str(device)!r}: {first_line(problem)}") from None


def _on(model: HookedModel, device: str | torch.device | None) -> HookedModel:
    if device is not None:
        with _device_errors(device):
            model.hf.to(device)
    return model
