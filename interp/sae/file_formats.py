"""Reading of autoencoders saved by interp, SAELens, sparsify, dictionary_learning and Gemma Scope.

    interp               a folder with sae.json and sae.safetensors
    SAELens              a folder with cfg.json and sae_weights.safetensors, transcoders too
    sparsify             a folder with cfg.json and sae.safetensors, transcoders too
    dictionary_learning  a folder with ae.pt and config.json
    Gemma Scope          a file params.npz, or a folder with it

`SparseAutoencoder.load` reads them all, and `interp.sae.format_writers` writes them.

What is read of another tool works on raw activations with one bias before the nonlinearity. A decoder bias that the
other tool subtracts from its input moves into the encoder's bias. A gate becomes a threshold; the two are equivalent
where they share their direction (Rajamanoharan et al. 2024, appendix). Decoder rows are scaled to norm one where that
changes nothing. An autoencoder of a stream whose mean was subtracted (`center_writing_weights`) gets encoder rows of
mean zero, and a `W_skip` that adds the mean of its input back. An unknown setting is an error that names it
(`interp.sae._settings`). No pickled code is run.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from interp.activations.columns import SiteColumns
from interp.core.errors import InterpError, first_line, located
from interp.core.files import read_json, read_tensors, sha256_file
from interp.models.identity import ModelReference
from interp.models.sites import KINDS, Site
from interp.sae import _settings
from interp.sae._tool_formats import TOOLS, ToolContent
from interp.sae.config import SaeCard
from interp.sae.nonlinearities import TopK

WEIGHTS = "sae.safetensors"
CARD = "sae.json"
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
OPTIONAL = ("threshold", "W_skip")
_FILES = {"interp": (CARD,), **{name: files for name, (files, _) in TOOLS.items()}}

# Options of TransformerLens' loader that decide nothing of the activations, and those that do at these kinds of site.
_LOADING = re.compile(
    r"center_unembed|(n_)?devices?|device_map|(torch_)?dtype|move_to_device|cache_dir|token|trust_remote_code"
    r"|first_n_layers|default_\w+|attn_implementation|low_cpu_mem_usage|local_files_only|center_writing_weights"
)
_PROCESSED = {
    "fold_ln": ("mlp_input",),
    "fold_value_biases": ("v", "z"),
    "refactor_factored_attn_matrices": ("q", "k", "v", "z"),
}
_OTHER_NAMES = {"gpt2small": "gpt2"}


def read_files(
    path: Path,
    model: ModelReference | None,
    site: str | Site | None,
    writes: str | Site | None,
    accept: Collection[str] = (),
) -> tuple[SaeCard, Mapping[str, Tensor]]:
    """The card and tensors of a saved autoencoder. The arguments are those of `SparseAutoencoder.load`."""
    where = path.parent if path.is_file() and path.suffix != ".npz" else path
    name = _tool(where)
    if name == "interp":
        _settings.settle({}, accept)
        return _read_interp(where, model, site, writes)
    label = f"{where} ({name})"
    if model is None:
        raise InterpError(f"{label} does not say which weights it was trained on; give the model (model=, --model)")
    content = _read_content(where, name, label)
    tensors = content.tensors
    if writes is not None and not content.transcodes:
        raise InterpError(f"{label} is not a transcoder, and writes is {writes}; leave it out")
    if bad := [tensor for tensor, values in tensors.items() if not values.isfinite().all()]:
        raise InterpError(f"{label}: {', '.join(bad)} hold NaN or infinite entries; download it again")
    reads = (_place(site or content.hook, "reads; give site=", tensors["W_enc"].shape[1], model, label),)
    written = reads
    if content.transcodes:
        written = (_place(writes or content.hook_out, "writes; give writes=", tensors["W_dec"].shape[1], model, label),)
    places = Site.parse(reads[0].site), Site.parse(written[0].site)
    with located(label):
        _settings.settle(_place_doubts(content, model, places, (site, writes)), accept)
        tensors = _of_raw_stream(tensors, places) if _settings.centres(content.loading, model) else tensors
    require_shapes(tensors, reads, written, label)
    # Rows of norm one change nothing but the ranks of TopK, and these only if it ranks latents by value.
    scaled = tensors if isinstance(content.nonlinearity, TopK) and not content.rescales else unit_rows(tensors)
    card = SaeCard(reads=reads, writes=written, nonlinearity=content.nonlinearity, config=None, metrics=None)
    return card, {name: x.float().contiguous() for name, x in scaled.items()}


def _place_doubts(
    content: ToolContent, model: ModelReference, places: Sequence[Site], given: Sequence[str | Site | None]
) -> dict[str, str]:
    """By key, what makes it doubtful that a file belongs to a model and to the places that it reads and writes.

    `given` are the sites that the caller gave; others are the file's own. Options of the model's loading are in doubt
    where they change activations at these places, or may.
    """
    doubts, (key, name) = dict(content.doubts), content.model
    short = [re.sub(r"[^a-z0-9]", "", str(each).lower().rstrip("/").rpartition("/")[2]) for each in (name, model.name)]
    if name and len({_OTHER_NAMES.get(each, each) for each in short}) == 2:
        doubts[key] = f"{key} is {name!r}, and the model is {model.name}"
    hooks = (content.hook_key, content.hook), ("hook_name_out", content.hook_out)
    for (key, hook), place, site in zip(hooks, places, given, strict=True):
        doubts |= _settings.hook_doubts(key, hook, None if site is None else place)
    for key, value in content.loading.items():
        changed = () if _LOADING.fullmatch(key) else _PROCESSED.get(key, KINDS)
        if value not in (None, False) and any(place.kind in changed for place in places):
            doubts[key] = f"{key} is {value!r} in the model that it was trained on, which changes {places[0]} there"
    return doubts


def _of_raw_stream(tensors: dict[str, Tensor], places: tuple[Site, Site]) -> dict[str, Tensor]:
    """The autoencoder of a stream whose mean was subtracted, for the stream with its mean."""
    if not places[0].in_residual_basis:
        return tensors
    if places[0] != places[1]:
        raise InterpError(f"center_writing_weights is true, and the mean of {places[1]} can't be told from {places[0]}")
    rows, width = tensors["W_enc"], tensors["W_enc"].shape[1]
    skip = tensors.get("W_skip", torch.zeros(width, width))
    centred = {"W_enc": rows - rows.mean(1, keepdim=True), "W_skip": skip - skip.mean(1, keepdim=True) + 1 / width}
    return {**tensors, **centred}


def _tool(where: Path) -> str:
    """The tool whose files these are. Raises, with what was looked for, if there are none."""
    if (tool := detected_tool(where)) is not None:
        return tool
    inside = [item.name for item in (sorted(where.iterdir()) if where.is_dir() else ()) if detected_tool(item)]
    if inside:
        shown = ", ".join(inside[:6]) + (", …" if len(inside) > 6 else "")
        raise InterpError(f"{where}: the autoencoders are in folders of it ({shown}); give the path of one")
    known = "; ".join(f"{' and '.join(files)} ({name})" for name, files in _FILES.items())
    state = "no autoencoder there" if where.exists() else "no such file or folder"
    raise InterpError(f"{where}: {state}; looked for {known}")


def detected_tool(where: Path) -> str | None:
    """The tool whose autoencoder a folder or file holds, if any."""
    if where.suffix == ".npz" and where.is_file():
        return "Gemma Scope"
    return next((name for name, files in _FILES.items() if all((where / file).is_file() for file in files)), None)


def _read_content(where: Path, name: str, label: str) -> ToolContent:
    """What the files of another tool hold, for raw activations. Errors begin with the label."""
    try:
        content = TOOLS[name][1](where)
        return replace(content, tensors=content.folded())
    except InterpError as problem:
        raise InterpError(f"{label}: {problem}") from None
    except RuntimeError as problem:
        raise InterpError(f"{label}: its tensors do not go together ({first_line(problem)}); restore it") from None
    except (LookupError, TypeError, AttributeError, ValueError) as problem:
        # The settings of other tools may have any type, in any place.
        reason = f"{type(problem).__name__}: {problem}"
        raise InterpError(f"{label}: its settings are not of this format ({reason}); expected {name}'s") from None


def _read_interp(
    where: Path, model: ModelReference | None, site: str | Site | None, writes: str | Site | None
) -> tuple[SaeCard, dict[str, Tensor]]:
    file = where / WEIGHTS
    record = SaeCard.parse(read_json(where / CARD), source=str(where / CARD))
    if not file.is_file() or sha256_file(file) != record.sha256:
        raise InterpError(f"{file}: missing or damaged (its SHA-256 differs from {CARD}); restore it")
    if site is not None or writes is not None:
        raise InterpError(f"{where / CARD} names the sites; leave site and writes out")
    if model is not None:
        for place in (*record.reads, *record.writes):
            place.model.check(model, "this SAE")
    tensors = read_tensors(file)
    if set(tensors) - set(OPTIONAL) != set(TENSORS):
        raise InterpError(f"{file}: holds {', '.join(sorted(tensors))}; expected {', '.join(TENSORS)}")
    require_shapes(tensors, record.reads, record.writes, str(file))
    return record, tensors


def _place(site: str | Site | None, what: str, width: int, model: ModelReference, label: str) -> SiteColumns:
    if site is None:
        raise InterpError(f"{label} does not name the site that it {what}, such as resid_post.3")
    at = site if isinstance(site, Site) else Site.parse(str(site))
    if at.in_residual_basis and width != model.d_model:
        raise InterpError(f"{label} has width {width} at {at}, but {model.name} has d_model {model.d_model}")
    return SiteColumns(site=str(at), model=model, width=width)


def require_shapes(
    tensors: Mapping[str, Tensor], reads: Sequence[SiteColumns], writes: Sequence[SiteColumns], where: str
) -> None:
    """Raise unless an autoencoder's tensors fit together; the error names the one that does not."""
    d_in, d_out = (sum(place.width for place in side) for side in (reads, writes))
    d_sae, d_read = tensors["W_enc"].shape
    if d_read != d_in and (d_sae % len(reads) or {place.width for place in reads} != {d_read}):
        raise InterpError(f"{where}: W_enc has shape {(d_sae, d_read)}; expected rows of width {d_in}")
    shapes = {"b_enc": (d_sae,), "W_dec": (d_sae, d_out), "b_dec": (d_out,), "threshold": (d_sae,)}
    for name, shape in (shapes | {"W_skip": (d_out, d_in)}).items():
        if name in tensors and (actual := tuple(tensors[name].shape)) != shape:
            raise InterpError(f"{where}: {name} has shape {actual}; expected {shape}, to go with W_enc")


def unit_rows(tensors: Mapping[str, Tensor], norms: Tensor | None = None) -> dict[str, Tensor]:
    """The same autoencoder with decoder rows divided by their norms, or by these, and latents multiplied by them."""
    norms = tensors["W_dec"].norm(dim=1).clamp(min=1e-12) if norms is None else norms
    scaled = {name: tensors[name] * norms for name in ("b_enc", "threshold") if name in tensors}
    rows = {"W_enc": tensors["W_enc"] * norms[:, None], "W_dec": tensors["W_dec"] / norms[:, None]}
    return {**tensors, **scaled, **rows}
