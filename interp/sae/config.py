"""Records of a sparse autoencoder: how it was trained, how good it is, which model and sites it belongs to."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from interp.activations.columns import SiteColumns
from interp.core.config import Config
from interp.sae.nonlinearities import Nonlinearity
from interp.sae.training.kinds import RANKED, KindName


class SaeConfig(Config):
    """How to train a sparse autoencoder.

    Shares are of the training steps. `interp sae train --help` shows the same texts.

    Example:
        >>> from interp.sae import SaeConfig
        >>> SaeConfig(kind="jumprelu", d_sae=512, k=16).batch_size
        4096
        >>> SaeConfig.of(["kind=topk", "kk=16"])
        Traceback (most recent call last):
        interp.core.errors.InterpError: settings: unknown key 'kk'; did you mean k?
    """

    kind: KindName = Field(default="topk", description="nonlinearity and penalty: see `interp.sae.training.kinds`")
    d_sae: PositiveInt = Field(default=4096, description="number of latents")
    k: int = Field(
        default=32,
        description="latents that fire per token: exactly (topk), on average (batchtopk), or the target that the "
        "sparsity penalty is steered to (standard, jumprelu, gated)",
    )
    sparsity: PositiveFloat | None = Field(
        default=None, description="fixed weight of the sparsity penalty; steered to k if none is given"
    )
    prefixes: tuple[PositiveInt, ...] = Field(
        default=(),
        strict=False,
        description="Matryoshka: the first so many latents have to reconstruct by themselves, for each of these "
        "numbers; the last is d_sae (topk and batchtopk)",
    )
    skip: bool = Field(default=False, description="give a transcoder a linear map in parallel with its latents")
    layered: bool = Field(
        default=False,
        description="cross-layer transcoder: latents in equal groups, one per layer; each group reads its layer and "
        "writes to it and all later ones",
    )
    start: Literal["mean", "median"] = Field(
        default="mean", description="initial decoder bias: mean or geometric median of the activations"
    )
    tokens: PositiveInt = Field(
        default=1_000_000, description="tokens to train on, repeats included: a small store is read several times"
    )
    batch_size: int = Field(default=4096, ge=2, description="tokens per step")
    lr: PositiveFloat | None = Field(default=None, description="learning rate; 1e-3 * sqrt(4096 / d_sae) if not given")
    beta1: float | None = Field(default=None, ge=0, lt=1, description="Adam's; 0 for topk and 0.9 otherwise")
    bias_rate: PositiveFloat | None = Field(
        default=None, description="learning rate of encoder biases, relative to lr; 0.65 for topk and 1 otherwise"
    )
    warm_up: float = Field(default=0.05, ge=0, le=1, description="share of the steps in which the rate rises")
    decay: float = Field(default=0.2, ge=0, le=1, description="share of the steps in which the rate falls to zero")
    schedule: Literal["linear", "cosine"] = Field(default="linear", description="shape of that fall")
    sparsity_warm_up: float = Field(
        default=0.0, ge=0, le=1, description="share of the steps in which a fixed sparsity rises"
    )
    clip: PositiveFloat | None = Field(default=None, description="largest norm of a step's gradient")
    aux_k: PositiveInt | None = Field(
        default=None, description="dead latents in the auxiliary loss; half the width of the site if not given"
    )
    aux_weight: float = Field(default=1 / 32, ge=0, description="weight of the auxiliary loss; 0 turns it off")
    dead_after: PositiveInt = Field(default=100_000, description="tokens without firing after which a latent is dead")
    resample_every: PositiveInt | None = Field(
        default=None, description="steps after which dead latents restart from inputs that are explained badly"
    )
    spike: float = Field(
        default=3.0, gt=1, description="training stops when the unexplained variance is this many times its median"
    )
    dead_limit: float = Field(default=0.5, ge=0, le=1, description="share of dead latents above which a warning comes")
    deterministic: bool = Field(
        default=False, description="refuse torch kernels that sum in no fixed order (some on GPUs)"
    )
    compute: Literal["float32", "bfloat16"] = Field(
        default="float32", description="type of matrix products, used where it is faster; weights are float32"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the initial weights and of the batches")

    @model_validator(mode="after")
    def _fits(self) -> "SaeConfig":
        if self.prefixes and self.kind not in RANKED:
            raise ValueError(f"prefixes go with {' and '.join(RANKED)}, and kind is {self.kind}")
        if self.prefixes and (list(self.prefixes) != sorted(set(self.prefixes)) or self.prefixes[-1] != self.d_sae):
            raise ValueError(f"prefixes are {self.prefixes}; expected to rise up to d_sae, {self.d_sae}")
        if self.layered and self.prefixes:
            raise ValueError("prefixes would keep only the first layers' latents; leave them out of a layered kind")
        if self.sparsity and self.kind in RANKED:
            raise ValueError(f"sparsity goes with penalties, and {self.kind} has none: k fixes how many fire")
        return self


class SaeMetrics(Config):
    """How well an autoencoder stands in for its site; first tokens of documents do not count. See `evaluate`."""

    tokens: int = Field(description="tokens measured")
    fvu: float = Field(description="fraction of variance unexplained")
    l0: float = Field(description="mean number of latents that fire per token")
    dead_share: float = Field(description="share of latents that never fired")
    loss_clean: float = Field(description="mean next-token cross-entropy of the model, in nats")
    loss_reconstructed: float = Field(description="the same with the reconstruction at the site")
    loss_zero: float = Field(description="the same with zeros at the site")

    @property
    def loss_recovered(self) -> float:
        """1 where reconstruction costs no loss, 0 where it costs as much as zeros."""
        return (self.loss_zero - self.loss_reconstructed) / (self.loss_zero - self.loss_clean)


class SaeCard(Config):
    """All of an autoencoder except its tensors, with the checksum of the weights' file and versions when saved."""

    format: Literal[2] = 2
    reads: tuple[SiteColumns, ...] = Field(strict=False)
    writes: tuple[SiteColumns, ...] = Field(strict=False)
    nonlinearity: Nonlinearity
    config: SaeConfig | None
    metrics: SaeMetrics | None
    sha256: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
