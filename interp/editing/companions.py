"""Companions: what lies beside a checkpoint's weights and goes along with them, but for config.json, which may change.

A file that is a link to another folder is refused: what is beside the weights is published with them. The Hugging Face
cache alone keeps files in a folder of its own and links to them.
"""

import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

from interp.core.files import write_json
from interp.models.checkpoint import inside
from interp.models.hooked import HookedModel

_PATTERNS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
    "NOTICE*",
)


def copy(source: Path, folder: Path) -> None:
    """Copy those of a checkpoint's folder. Raises for a link that leads out of it."""
    for name in _names(source):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(inside(source, name), folder / name)


def save(model: HookedModel, folder: Path) -> None:
    """Write those of a model in memory."""
    if model.hf.generation_config is not None:
        # Its own save refuses settings that it loads: a temperature without sampling, say.
        write_json(folder / "generation_config.json", model.hf.generation_config.to_diff_dict())
    if model.tokenizer is not None:
        tokenizer = deepcopy(model.tokenizer)
        if tokenizer.is_fast:  # keeps how the last call padded and cut, which is no part of the model
            tokenizer.backend_tokenizer.no_padding()
            tokenizer.backend_tokenizer.no_truncation()
        tokenizer.save_pretrained(folder)


def _names(source: Path) -> Iterator[str]:
    for pattern in _PATTERNS:
        yield from (str(file.relative_to(source)) for file in sorted(source.glob(pattern)) if not file.is_dir())
