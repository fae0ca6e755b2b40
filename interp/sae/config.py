"""What is recorded about a sparse autoencoder: how it was trained, how good it is, what it belongs to."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from interp.activations.columns import SiteColumns
from interp.core.config import Config
from interp.sae.nonlinearities import Nonlinearity
from interp.sae.training.kinds import RANKED, KindName


class SaeConfig(Config):
    """How to train. Shares are of the steps; `tokens` counts repeats, so a small store is read several times.

    `kind` is one of `kinds`. `k` is how many latents fire on a token: always (topk), on average (batchtopk), or as the
    target that the weight of the sparsity penalty is steered to, unless `sparsity` fixes that weight (standard,
    jumprelu, gated). `prefixes` makes a ranked kind Matryoshka: the first so many latents have to reconstruct by
    themselves, for each of the numbers; the last is d_sae. `skip` gives a transcoder a linear map beside its latents.
    `layered` makes one that reads and writes several layers a cross-layer transcoder: latents in equal groups, one a
    layer, that read their layer and write to it and all later ones.

    Decoding starts from the `mean` of the activations or from their geometric `median`. `lr` defaults to 1e-3 *
    sqrt(4096 / d_sae), `aux_k` to half the width of the site. Adam's `beta1` is 0.9, and encoder biases learn at
    `bias_rate` 1 times `lr`; of topk these are 0 and 0.65, by which more of what is to be found is found. The rate
    rises for the share `warm_up` and falls for the share `decay`, linearly or along a `cosine`; a fixed `sparsity`
    rises for `sparsity_warm_up`. A latent is dead when it has not fired for `dead_after` tokens; `aux_weight` 0 leaves
    the dead alone, `resample_every` so many steps starts them anew from what is explained badly. `clip` is the largest
    norm of a step's gradient. `compute` is the roughest type that products may have, used where it is the faster
    (`precision`); the weights are float32 always. Training stops where the loss is `spike` times what it was, and warns
    where a share of more than `dead_limit` of the latents is dead. `deterministic` has torch refuse kernels that sum in
    no fixed order (some on GPUs).
    """

    kind: KindName = "topk"
    d_sae: PositiveInt = 4096
    k: int = 32
    sparsity: PositiveFloat | None = None
    prefixes: tuple[PositiveInt, ...] = Field(default=(), strict=False)
    skip: bool = False
    layered: bool = False
    start: Literal["mean", "median"] = "mean"
    tokens: PositiveInt = 1_000_000
    batch_size: int = Field(default=4096, ge=2)
    lr: PositiveFloat | None = None
    beta1: float | None = Field(default=None, ge=0, lt=1)
    bias_rate: PositiveFloat | None = None
    warm_up: float = Field(default=0.05, ge=0, le=1)
    decay: float = Field(default=0.2, ge=0, le=1)
    schedule: Literal["linear", "cosine"] = "linear"
    sparsity_warm_up: float = Field(default=0.0, ge=0, le=1)
    clip: PositiveFloat | None = None
    aux_k: PositiveInt | None = None
    aux_weight: float = Field(default=1 / 32, ge=0)
    dead_after: PositiveInt = 100_000
    resample_every: PositiveInt | None = None
    spike: float = Field(default=3.0, gt=1)
    dead_limit: float = Field(default=0.5, ge=0, le=1)
    deterministic: bool = False
    compute: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _fits(self) -> "SaeConfig":
        if self.prefixes and self.kind not in RANKED:
            raise ValueError(f"prefixes go with {' and '.join(RANKED)}, and kind is {self.kind}")
        if self.prefixes and (list(self.prefixes) != sorted(set(self.prefixes)) or self.prefixes[-1] != self.d_sae):
            raise ValueError(f"prefixes are {self.prefixes}; expected to rise up to d_sae, {self.d_sae}")
        if self.layered and self.prefixes:
            raise ValueError("prefixes would hold the first layers' latents alone; leave them out of a layered kind")
        if self.sparsity and self.kind in RANKED:
            raise ValueError(f"sparsity goes with penalties, and {self.kind} has none: k fixes how many fire")
        return self


class SaeMetrics(Config):
    """How well an SAE stands in for its site, over `tokens` tokens that are not the first of their document.

    `fvu` is the fraction of variance unexplained, `l0` the mean number of latents that fire on a token,
    `dead_share` the share of latents that never fired. Losses are mean next-token cross-entropies in nats: of
    the model, with the SAE's reconstruction at the site, with zeros there. `loss_recovered` is 1 where
    reconstruction costs nothing, 0 where it costs what zeros cost.
    """

    tokens: int
    fvu: float
    l0: float
    dead_share: float
    loss_clean: float
    loss_reconstructed: float
    loss_zero: float

    @property
    def loss_recovered(self) -> float:
        """Share of the loss that zeros would add and the reconstruction does not."""
        return (self.loss_zero - self.loss_reconstructed) / (self.loss_zero - self.loss_clean)


class SaeCard(Config):
    """All of an SAE but its tensors; beside a weights' file, its checksum and the versions that made it too."""

    format: Literal[2] = 2
    reads: tuple[SiteColumns, ...] = Field(strict=False)
    writes: tuple[SiteColumns, ...] = Field(strict=False)
    nonlinearity: Nonlinearity
    config: SaeConfig | None
    metrics: SaeMetrics | None
    sha256: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
