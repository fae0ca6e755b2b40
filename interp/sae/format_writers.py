"""Autoencoders written for other tools: SAELens, sparsify, dictionary_learning, Gemma Scope.

    saelens              cfg.json and sae_weights.safetensors; autoencoders, and JumpReLU transcoders
    sparsify             cfg.json and sae.safetensors; TopK autoencoders and transcoders
    dictionary_learning  ae.pt and config.json; autoencoders
    gemma_scope          params.npz; JumpReLU autoencoders

Each tool reads what is written here and computes the same; `interp.sae.file_formats` reads it back. Crosscoders fit no
other tool's format.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from interp.activations.columns import SiteColumns
from interp.core.errors import InterpError, nearest
from interp.core.files import new_folder, write_json
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.sae.nonlinearities import TopK


def write_saelens(sae: SparseAutoencoder, folder: str | Path, overwrite: bool = False) -> None:
    """Write an autoencoder as SAELens reads it (`SAE.load_from_disk`); see `write_autoencoder`."""
    read, written = _one(sae.reads), _one(sae.writes)
    architecture: str = sae.nonlinearity.kind
    # Without a version the layout is taken for an older one, whose metadata are elsewhere.
    metadata: dict[str, Any] = {"sae_lens_version": "6.0.0", "model_name": read.model.name, "hook_name": _hook(read)}
    config: dict[str, Any] = {"d_in": sae.d_in, "d_sae": sae.d_sae, "dtype": "float32", "device": "cpu"}
    config |= {"apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none"}
    if read != written:
        if isinstance(sae.nonlinearity, TopK):
            raise InterpError("SAELens has no topk transcoders; write it for sparsify")
        architecture = "jumprelu_transcoder" if sae.W_skip is None else "jumprelu_skip_transcoder"
        config["d_out"] = sae.d_out
        metadata["hook_name_out"] = _hook(written)
    if isinstance(sae.nonlinearity, TopK):
        config |= {"k": sae.nonlinearity.k, "rescale_acts_by_decoder_norm": False}
    tensors = sae.tensors()
    if read == written and "W_skip" in tensors:
        _require_mean(tensors.pop("W_skip"), tensors["W_enc"])
        metadata["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    tensors["W_enc"] = tensors["W_enc"].T.contiguous()
    with new_folder(folder, mark="sae_weights.safetensors", overwrite=overwrite) as out:
        write_json(out / "cfg.json", config | {"architecture": architecture, "metadata": metadata})
        safetensors.torch.save_file(tensors, out / "sae_weights.safetensors")


def write_sparsify(sae: SparseAutoencoder, folder: str | Path, overwrite: bool = False) -> None:
    """Write a TopK autoencoder as sparsify reads it (`SparseCoder.load_from_disk`); see `write_autoencoder`."""
    if not isinstance(sae.nonlinearity, TopK):
        raise InterpError(f"sparsify has no {sae.nonlinearity.kind} autoencoders; write it for saelens")
    tensors, transcodes = sae.tensors(), _one(sae.reads) != _one(sae.writes)
    rows, bias = tensors.pop("W_enc"), tensors.pop("b_enc")
    # sparsify subtracts the decoder's bias from an autoencoder's input; the encoder's bias compensates.
    shift = torch.zeros(sae.d_sae) if transcodes else rows @ tensors["b_dec"]
    shape = {"d_in": sae.d_in, "num_latents": sae.d_sae, "k": sae.nonlinearity.k, "transcode": transcodes}
    fixed = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "multi_topk": False}
    with new_folder(folder, mark="sae.safetensors", overwrite=overwrite) as out:
        write_json(out / "cfg.json", shape | fixed | {"skip_connection": sae.W_skip is not None})
        named = tensors | {"encoder.weight": rows, "encoder.bias": bias + shift}
        safetensors.torch.save_file(named, out / "sae.safetensors")


def write_dictionary_learning(sae: SparseAutoencoder, folder: str | Path, overwrite: bool = False) -> None:
    """Write an autoencoder as dictionary_learning reads it (`load_dictionary`); see `write_autoencoder`."""
    place, tensors = _autoencoder(sae, "dictionary_learning"), sae.tensors()
    trainer: dict[str, Any] = {"activation_dim": sae.d_in, "dict_size": sae.d_sae, "lm_name": place.model.name}
    if isinstance(sae.nonlinearity, TopK):
        # dictionary_learning subtracts the decoder's bias from the input of TopK, but not of JumpReLU.
        k = sae.nonlinearity.k
        rows = {"encoder.weight": tensors["W_enc"], "decoder.weight": tensors["W_dec"].T.contiguous()}
        biases = {"encoder.bias": tensors["b_enc"] + tensors["W_enc"] @ tensors["b_dec"], "b_dec": tensors["b_dec"]}
        state = rows | biases | {"k": torch.tensor(k), "threshold": torch.tensor(-1.0)}  # no threshold
        trainer |= {"dict_class": "AutoEncoderTopK", "k": k}
    else:
        state = tensors | {"W_enc": tensors["W_enc"].T.contiguous()}
        trainer |= {"dict_class": "JumpReluAutoEncoder"}
    with new_folder(folder, mark="ae.pt", overwrite=overwrite) as out:
        write_json(out / "config.json", {"trainer": trainer, "buffer": {}})
        torch.save(state, out / "ae.pt")


def write_gemma_scope(sae: SparseAutoencoder, folder: str | Path, overwrite: bool = False) -> None:
    """Write a JumpReLU autoencoder as Gemma Scope's params.npz; see `write_autoencoder`."""
    _autoencoder(sae, "Gemma Scope")
    if isinstance(sae.nonlinearity, TopK):
        raise InterpError("Gemma Scope has no topk autoencoders; write it for saelens")
    arrays: dict[str, Any] = {name: x.float().numpy() for name, x in sae.tensors().items()}
    with new_folder(folder, mark="params.npz", overwrite=overwrite) as out:
        np.savez(out / "params.npz", **arrays | {"W_enc": arrays["W_enc"].T})


WRITERS: dict[str, Callable[[SparseAutoencoder, str | Path, bool], None]] = {
    "interp": lambda sae, folder, overwrite: sae.save(folder, overwrite),
    "saelens": write_saelens,
    "sparsify": write_sparsify,
    "dictionary_learning": write_dictionary_learning,
    "gemma_scope": write_gemma_scope,
}


def write_autoencoder(sae: SparseAutoencoder, folder: str | Path, kind: str, overwrite: bool = False) -> None:
    """Write an autoencoder in the format of another tool.

    Args:
        sae: The autoencoder.
        folder: A new folder.
        kind: One of interp, saelens, sparsify, dictionary_learning and gemma_scope.
        overwrite: Replace an autoencoder of the same format in the folder, in one step.

    Raises:
        InterpError: The format is unknown or cannot hold this autoencoder, or the folder exists.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import SparseAutoencoder, TopK, write_autoencoder
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> write_autoencoder(sae, tmp / "sparsify", "sparsify")
        >>> sorted(file.name for file in (tmp / "sparsify").iterdir())
        ['cfg.json', 'sae.safetensors']
    """
    if kind not in WRITERS:
        raise InterpError(f"format {kind!r} can't be written; {nearest(kind, WRITERS)}")
    WRITERS[kind](sae, folder, overwrite)


def _hook(place: SiteColumns) -> str:
    return Site.parse(place.site).hook_name


def _one(places: tuple[SiteColumns, ...]) -> SiteColumns:
    if len(places) > 1:
        raise InterpError(f"a crosscoder of {len(places)} sites fits no other tool's format; use save()")
    return places[0]


def _require_mean(skip: Tensor, rows: Tensor) -> None:
    """Raise unless a skip connection adds the mean of the input back, which is all that the encoder does not read."""
    if not (torch.allclose(skip, torch.full_like(skip, 1 / len(skip))) and bool((rows.mean(1).abs() < 1e-5).all())):
        raise InterpError("SAELens has no autoencoders with a skip connection; write it for sparsify, or use save()")


def _autoencoder(sae: SparseAutoencoder, tool: str) -> SiteColumns:
    """The site that it reads and writes. Raises for transcoders, and for a skip connection."""
    if sae.W_skip is not None and sae.reads == sae.writes:
        raise InterpError(f"{tool} has no autoencoders with a skip connection; write it for sparsify, or use save()")
    if _one(sae.reads) != _one(sae.writes):
        raise InterpError(f"{tool} has no transcoders; write it for saelens or sparsify")
    return sae.reads[0]
