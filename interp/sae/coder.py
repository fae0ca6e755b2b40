"""SparseAutoencoder: the activations of a site as few latents out of many, and back.

    latents = nonlinearity(W_enc x + b_enc)        x_hat = W_dec^T latents + b_dec (+ W_skip x)

The sites that it reads and writes make it one of

- an autoencoder: it reads and writes one site, with W_skip if it was trained on activations without their mean, which
  W_skip adds back;
- a transcoder: it writes another site than it reads, with W_skip if it is a skip transcoder (Paulo et al. 2025,
  https://arxiv.org/abs/2501.18823);
- a crosscoder: it reads and writes the same several sites, or one site of two models, side by side (Lindsey et al.
  2024, https://transformer-circuits.pub/2024/crosscoders);
- a cross-layer transcoder: it reads several sites and writes several others, and W_enc has rows of one site's width.
  Latents form as many equal groups as there are sites to read, and each group reads its own site.

It reads raw activations: centring, scaling and the kind it was trained as are folded into its tensors. A saved
autoencoder takes the k largest latents of a token, or those above their thresholds. Decoder rows have unit norm, so
that a latent's value is the length that it adds to the reconstruction. TopK ranks latents by value, so its rows keep
the norms they were trained with, near one.

Limitations: the first token of a document is left out of training and measurements. Models use it as an attention sink,
with a norm far from all others.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from interp.activations.columns import SiteColumns
from interp.core.calls import checked_class
from interp.core.digests import versions
from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError
from interp.core.files import new_folder, sha256_file, write_json
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.sae.code import Code, pre_activations
from interp.sae.config import SaeCard, SaeConfig, SaeMetrics
from interp.sae.file_formats import CARD, OPTIONAL, TENSORS, WEIGHTS, read_files, require_shapes
from interp.sae.nonlinearities import JumpReLU, TopK

_ROWS = 512
_SETTINGS = ("reads", "writes", "nonlinearity", "config", "metrics")


@checked_class("interp.train(store, site).sae is one, and interp.SparseAutoencoder.load(folder) reads one")
@final
@dataclass(frozen=True, eq=False, repr=False)
class SparseAutoencoder(Displayed):
    """An autoencoder, transcoder or crosscoder; the sites decide.

    Args:
        W_enc: Encoder rows, (d_sae, d_in), or (d_sae, d_read) for a cross-layer transcoder.
        b_enc: Encoder biases, (d_sae).
        W_dec: Decoder rows, (d_sae, d_out).
        b_dec: Decoder bias, (d_out).
        nonlinearity: TopK or JumpReLU.
        reads: The sites that x consists of, side by side.
        writes: The sites that x_hat consists of, side by side.
        config: How it was trained, if it was trained here.
        metrics: What `evaluate` measured, if it was kept.
        threshold: Thresholds of the latents, (d_sae), for JumpReLU only.
        W_skip: The linear map of a skip connection, (d_out, d_in).

    Raises:
        InterpError: Shapes, thresholds or k do not fit together.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import SparseAutoencoder, TopK
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> sae.encode(2 * rows).diagonal(), torch.equal(sae(rows), rows)
        (tensor([2., 2., 2., 2.]), True)
    """

    W_enc: Float[Tensor, "d_sae d_read"]
    b_enc: Float[Tensor, "d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, "d_out"]
    nonlinearity: TopK | JumpReLU
    reads: tuple[SiteColumns, ...]
    writes: tuple[SiteColumns, ...]
    config: SaeConfig | None = None
    metrics: SaeMetrics | None = None
    threshold: Float[Tensor, "d_sae"] | None = None
    W_skip: Float[Tensor, "d_out d_in"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.nonlinearity, TopK):
            require_k(self.nonlinearity.k, self.d_sae)
        if isinstance(self.nonlinearity, JumpReLU) != (self.threshold is not None):
            both = f"a {self.nonlinearity.kind} autoencoder and threshold {self.threshold}"
            raise InterpError(f"{both}; expected a threshold for each latent of a jumprelu one, and none otherwise")
        if self.threshold is not None and not (self.threshold >= 0).all():
            raise InterpError(f"threshold {float(self.threshold.min()):.3g} is below zero; expected zero or more")
        require_shapes(self._named(), self.reads, self.writes, "this autoencoder")

    @property
    def site(self) -> Site:
        """The site it reads and writes. Raises for transcoders and crosscoders, which have no such site."""
        if len(self.reads) > 1 or self.reads != self.writes:
            raise InterpError(f"{self} is not an autoencoder of one site, which is needed here")
        return Site.parse(self.reads[0].site)

    @property
    def model(self) -> ModelReference:
        """The model it belongs to. Raises for crosscoders of several."""
        models = {place.model.fits: place.model for place in (*self.reads, *self.writes)}
        if len(models) > 1:
            names = ", ".join(model.name for model in models.values())
            raise InterpError(f"{self} belongs to {names}; one of a single model is needed here")
        return next(iter(models.values()))

    def __repr__(self) -> str:
        return f"<{self}: {plural(self.d_sae, 'latent')}, {self.nonlinearity}, width {self.d_in}>"

    def __str__(self) -> str:
        read, written = (", ".join(dict.fromkeys(place.site for place in side)) for side in (self.reads, self.writes))
        if self.reads != self.writes:
            return f"transcoder from {read} to {written}"
        return f"{'crosscoder' if len(self.reads) > 1 else 'autoencoder'} of {read}"

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_dec.shape[0]

    @property
    def d_in(self) -> int:
        """Width of all sites that it reads."""
        return sum(place.width for place in self.reads)

    @property
    def d_out(self) -> int:
        """Width of all sites that it writes."""
        return self.W_dec.shape[1]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The latents of activations, zeros included, in float32."""
        return self.encode_sparse(x).dense(self.d_sae).view(*x.shape[:-1], self.d_sae).float()

    def encode_sparse(self, x: Float[Tensor, "*batch d_in"]) -> Code:
        """The latents that fire on each token; tokens are numbered through all leading axes."""
        rows = x.reshape(-1, x.shape[-1])
        # A few hundred tokens at a time: all pre-activations together would be the largest tensor by far.
        parts = [self.nonlinearity.code(self._pre(part), self.threshold) for part in rows.split(_ROWS)]
        return Code.joined(parts)

    def decode(
        self, features: Float[Tensor, "*batch d_sae"], x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Activations from all latents. With a skip connection it needs x, the activations encoded, too."""
        if features.shape[-1] != self.d_sae:
            raise InterpError(f"features have {features.shape[-1]} latents; expected {self.d_sae}, as from encode")
        return self._skipped(features @ self.W_dec + self.b_dec, x)

    def decode_sparse(self, code: Code, x: Float[Tensor, "token d_in"] | None = None) -> Float[Tensor, "token d_out"]:
        """Activations from a code of `encode_sparse`; x is as for `decode`."""
        return self._skipped(code.decode(self.W_dec) + self.b_dec, x)

    def _skipped(self, decoded: Tensor, x: Tensor | None) -> Tensor:
        if self.W_skip is None:
            return decoded
        if x is None:
            raise InterpError(f"{self} adds W_skip x to its decoded latents; give x=, the activations encoded")
        return decoded + linear(x.to(decoded.dtype), self.W_skip)

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction of activations, or a transcoder's prediction, in the type of x."""
        decoded = self.decode_sparse(self.encode_sparse(x), x.reshape(-1, x.shape[-1]))
        return decoded.view(*x.shape[:-1], self.d_out).to(x.dtype)

    def norms(self) -> Float[Tensor, "place d_sae"]:
        """Norm of each latent's decoder row at each site that is written."""
        return torch.stack([part.norm(dim=1) for part in self.W_dec.split([place.width for place in self.writes], 1)])

    def _pre(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise InterpError(f"activations have width {x.shape[-1]}; this {self} reads a width of {self.d_in}")
        return pre_activations(x.to(self.W_enc.dtype), self.W_enc, self.b_enc)

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> "SparseAutoencoder":
        """The same autoencoder on another device or in another type; bfloat16 is faster and less precise."""
        return replace(self, **{name: x.to(device=device, dtype=dtype) for name, x in self._named().items()})

    def require(self, model: HookedModel) -> None:
        """Raise unless this is the model that the autoencoder was trained on."""
        self.model.check(model.reference, "this SAE")

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write weights and card into a new folder; `overwrite` replaces a saved autoencoder there, in one step."""
        with new_folder(folder, mark=CARD, overwrite=overwrite) as out:
            safetensors.torch.save_file(self.tensors(), out / WEIGHTS)
            provenance = {"sha256": sha256_file(out / WEIGHTS), "versions": versions()}
            write_json(out / CARD, self.card().model_dump() | provenance)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: HookedModel | ModelReference | None = None,
        site: str | Site | None = None,
        writes: str | Site | None = None,
        accept: Collection[str] = (),
    ) -> "SparseAutoencoder":
        """Read a saved autoencoder, of interp or of another tool; its files show which.

        `interp.sae.file_formats` lists the tools: SAELens, sparsify, dictionary_learning and Gemma Scope.

        Args:
            path: The folder, or a file in it.
            model: The model that it belongs to. Files of other tools don't say which weights they were trained on, so
                they need it; those of interp do, and another model raises.
            site: The site that it reads; needed only if a file of another tool names no TransformerLens hook.
            writes: The site that it writes, for transcoders of other tools only.
            accept: Keys of another tool's settings that are in doubt here and right all the same: `model_name` where
                the model has another name there, `hook_name` where `site` is the same place, `prepend_bos` of an
                autoencoder of text without a beginning token, or keys that are not known. The error names the key.

        Raises:
            InterpError: There is no autoencoder of a known tool, the kind cannot be represented exactly (group maxima,
                normalised inputs), it belongs to another model or site, a setting is not known, or tensors are missing,
                misshapen, damaged or not finite.

        Example:
            >>> from interp.activations import SiteColumns
            >>> from interp.sae import SparseAutoencoder, TopK, write_autoencoder
            >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
            >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
            >>> write_autoencoder(sae, tmp / "saelens", "saelens")
            >>> SparseAutoencoder.load(tmp / "saelens", model)
            <autoencoder of resid_post.1: 4 latents, kind='topk' k=1, width 192>
        """
        reference = model.reference if isinstance(model, HookedModel) else model
        sae = cls.of(*read_files(Path(path), reference, site, writes, accept))
        if isinstance(model, HookedModel):
            _require_widths(sae, model)
        return sae

    def tensors(self) -> dict[str, Tensor]:
        """Copies of its tensors by name, on the CPU; encoder and decoder may share memory, files may not."""
        return {name: x.cpu().clone(memory_format=torch.contiguous_format) for name, x in self._named().items()}

    def _named(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in (*TENSORS, *OPTIONAL)}
        return {name: x for name, x in named.items() if x is not None}

    def card(self) -> SaeCard:
        """All of it except the tensors."""
        return SaeCard(**{name: getattr(self, name) for name in _SETTINGS})

    @classmethod
    def of(cls, card: SaeCard, tensors: Mapping[str, Tensor]) -> "SparseAutoencoder":
        """The inverse of `card` and `tensors`."""
        fields: dict[str, Any] = {name: getattr(card, name) for name in _SETTINGS}
        fields |= {name: tensors[name] for name in TENSORS} | {name: tensors.get(name) for name in OPTIONAL}
        return cls(**fields)

    def _card(self) -> Card:
        kind = f"{self.nonlinearity.k} per token" if isinstance(self.nonlinearity, TopK) else "above their thresholds"
        trained = f", trained as {self.config.kind}" if self.config else ""
        size = f"{plural(self.d_sae, 'latent')}, {kind}, width {self.d_in}{trained}"
        models = list(dict.fromkeys(place.model.name for place in (*self.reads, *self.writes)))
        measured = [] if self.metrics is None else self.metrics.readings()
        return str(self), [("model", models), ("size", size), *measured]


def _require_widths(sae: SparseAutoencoder, model: HookedModel) -> None:
    """Raise unless the model has the autoencoder's sites, in their widths."""
    sites = model.resolve([place.site for place in (*sae.reads, *sae.writes)])
    if all(site.in_residual_basis for site in sites):
        return  # whose width is d_model, and checked
    inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.long, device=model.device)}
    widths = {str(site): x.flatten(2).shape[2] for site, x in model.forward_to(sites, inputs).items()}
    for place in (*sae.reads, *sae.writes):
        if widths[place.site] != place.width:
            raise InterpError(
                f"{sae} has width {place.width} at {place.site}, and the model {widths[place.site]} there"
            )


def require_k(k: int, d_sae: int) -> None:
    """Raise unless k latents can be chosen of d_sae."""
    if not 1 <= k <= d_sae:
        raise InterpError(f"k is {k}; expected from 1 to the number of latents, {d_sae}")
