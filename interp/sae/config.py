"""Records of a sparse autoencoder: how it was trained, how good it is, which model and sites it belongs to."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from interp.activations.columns import SiteColumns
from interp.core.config import Config
from interp.core.display import Card, Displayed, Row, plural
from interp.sae.nonlinearities import Nonlinearity
from interp.sae.training.kinds import RANKED, KindName

Share = Annotated[float, Field(ge=0, le=1)]


class SaeConfig(Config):
    """How to train a sparse autoencoder.

    Example:
        >>> from interp.sae import SaeConfig
        >>> SaeConfig(kind="jumprelu", d_sae=512, k=16).batch_size
        4096
        >>> SaeConfig.of(["kind=topk", "kk=16"])
        Traceback (most recent call last):
        interp.core.errors.InterpError: settings: unknown key 'kk'; did you mean k?
    """

    kind: KindName = Field(default="topk", description="topk, batchtopk, jumprelu, standard or gated")
    d_sae: PositiveInt = Field(default=4096, description="number of latents")
    k: int = Field(
        default=32,
        ge=0,
        description="latents that fire per token: exactly (topk), on average (batchtopk), or the target L0 to "
        "which the sparsity penalty is adjusted (standard, jumprelu, gated)",
    )
    sparsity: PositiveFloat | None = Field(default=None, description="fixed sparsity penalty [default: adjusted to k]")
    prefixes: tuple[PositiveInt, ...] = Field(
        default=(),
        strict=False,
        description="Matryoshka prefix sizes: for each size n, the first n latents alone must reconstruct the input; "
        "the last size is d_sae (topk and batchtopk)",
    )
    skip: bool = Field(default=False, description="give a transcoder a linear map in parallel with its latents")
    layered: bool = Field(
        default=False,
        description="cross-layer transcoder: split the latents equally between layers; each layer's latents read that "
        "layer and write to it and to all later layers",
    )
    frozen_decoder: bool = Field(
        default=False, description="keep the random decoder rows it starts with; a control for a trained one"
    )
    start: Literal["mean", "median"] = Field(
        default="mean", description="initial decoder bias: mean or geometric median of the activations"
    )
    tokens: PositiveInt = Field(default=1_000_000, description="tokens to train on (a smaller store is repeated)")
    batch_size: int = Field(default=4096, ge=2, description="tokens per step")
    lr: PositiveFloat | None = Field(default=None, description="learning rate [default: 1e-3 * sqrt(4096 / d_sae)]")
    beta1: float | None = Field(default=None, ge=0, lt=1, description="Adam's beta1 [default: 0 for topk, else 0.9]")
    bias_rate: PositiveFloat | None = Field(
        default=None,
        description="learning rate of encoder biases as a multiple of lr [default: 0.65 for topk, else 1]",
    )
    warm_up: Share = Field(default=0.05, description="fraction of steps over which the learning rate rises")
    decay: Share = Field(default=0.2, description="fraction of steps over which the learning rate decays to zero")
    schedule: Literal["linear", "cosine"] = Field(default="linear", description="shape of the decay")
    sparsity_warm_up: Share = Field(default=0.0, description="fraction of steps over which a fixed `sparsity` rises")
    clip: PositiveFloat | None = Field(default=None, description="clip the gradient norm at this value")
    aux_k: PositiveInt | None = Field(
        default=None, description="dead latents in the auxiliary loss [default: d_in / 2; of a transcoder, d_out / 2]"
    )
    aux_weight: float = Field(default=1 / 32, ge=0, description="weight of the auxiliary loss; 0 turns it off")
    dead_after: PositiveInt = Field(default=100_000, description="tokens without firing after which a latent is dead")
    resample_every: PositiveInt | None = Field(
        default=None, description="every this many steps, re-initialise dead latents from poorly reconstructed inputs"
    )
    spike: float = Field(default=3.0, gt=1, description="stop if unexplained variance is this many times its median")
    dead_limit: Share = Field(default=0.5, description="warn if more than this fraction of latents is dead")
    deterministic: bool = Field(default=False, description="use only deterministic kernels")
    compute: Literal["float32", "bfloat16"] = Field(
        default="float32", description="dtype of matrix products, used where it is faster; weights are float32"
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
    """How well an autoencoder stands in for its site; first tokens of documents do not count. See `evaluate`.

    Example:
        >>> losses = dict(loss_clean=2.0, loss_reconstructed=2.5, loss_zero=4.0)
        >>> interp.sae.SaeMetrics(tokens=100, fvu=0.2, l0=16.0, dead_share=0.0, **losses).loss_recovered
        0.75
    """

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

    def readings(self) -> list[Row]:
        """The figures for display, and which values of each are good."""
        losses = f"{self.loss_clean:.3f} nats plain, {self.loss_reconstructed:.3f} reconstructed"
        return [
            ("loss recovered", f"{self.loss_recovered:.3f}", f"1 is no loss, 0 as bad as zeros; {losses}"),
            ("FVU", f"{self.fvu:.3f}", "0 is perfect, 1 no better than the mean; massive activations weigh most"),
            ("L0", f"{self.l0:.1f}", "latents per token"),
            ("dead latents", f"{self.dead_share:.1%}", f"never fired on {plural(self.tokens, 'token')}; 0% is best"),
        ]

    def _card(self) -> Card:
        return "", self.readings()

    def __repr__(self) -> str:
        return Displayed.__repr__(self)


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
