"""Lenses: what the residual stream of an inner layer says about the next token.

A lens takes the residual stream x at a site to the basis of the last layer, and unembeds the result as the model does,
with its final norm, its scale and its cap: logits = unembed(norm(x + W x + b)). The kinds differ in W and b.

- logit lens: both are zero (nostalgebraist 2020, "Interpreting GPT: the logit lens").
- tuned lens: both are trained, per site, so that the logits come near the model's (Belrose et al. 2023, "Eliciting
  latent predictions from transformers with the tuned lens", https://arxiv.org/abs/2303.08112).
- Jacobian lens: I + W is the average Jacobian from the site to the last layer, b is zero
  (https://transformer-circuits.pub/2026/workspace).

After the last layer, every lens is the identity and gives the model's logits.

Limitations: a lens says what can be read at a place, not what the model uses there; ablate or patch to measure that.
The logit lens is biased in early layers, whose basis differs from the last one's. A tuned lens is trained to predict,
and may know more of the model's prediction than the layer has computed.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from safetensors.torch import save_file
from torch import Tensor

from interp.activations.stream import ActivationSource, Stream
from interp.attribution import _lens_files as files
from interp.attribution.lens_reading import LensReading
from interp.core.calls import checked_class
from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError, nearest
from interp.core.files import new_folder, write_json
from interp.data.corpora import Source
from interp.directions.direction import Direction, residual_site, residual_sites
from interp.models.architectures.unembedding import FinalNorm, final_norm, stream_logits, token_text
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.losses import kl_divergence
from interp.models.sites import Site
from interp.models.tokens import Prompts

Kind = Literal["logit", "tuned", "jacobian"]
Activity = ActivationSource | Source
Places = str | Site | Iterable[str | Site]


@checked_class("Lens() is the logit lens; fit_tuned_lens and fit_jacobian_lens make the others")
@dataclass(frozen=True, eq=False)
class Lens(Displayed):
    """A lens on the residual stream. Without arguments it is the logit lens, which fits every model.

    Args:
        kind: "logit", "tuned" or "jacobian".
        weights: W by site; the matrix I + W takes the residual stream there to the last layer's basis.
        biases: b by site; zero where there is none.
        model: The model that it was fitted in.
        data: Digest of what it was fitted on.
        settings: How it was fitted.

    Example:
        >>> lens = interp.attribution.Lens()
        >>> reading = lens.read(model, model.chat("what is 2 plus 3?") + "The answer is")
        >>> [(row["site"], row["next"][0][0]) for row in reading.rows()][-2:]
        [('resid_post.4', ' 5'), ('resid_post.5', ' 5')]
    """

    kind: Kind = "logit"
    weights: Mapping[Site, Float[Tensor, "d_model d_model"]] = field(default_factory=dict)
    biases: Mapping[Site, Float[Tensor, "d_model"]] = field(default_factory=dict)
    model: ModelReference | None = None
    data: str = ""
    settings: Mapping[str, int | float] = field(default_factory=dict)

    def sites(self, model: HookedModel, sites: Places | None = None) -> list[Site]:
        """The sites that it reads, in the order of the forward pass.

        Args:
            model: The model.
            sites: Sites or patterns. Default: those that it was fitted at, and the last; for the logit lens,
                `resid_post.*`.

        Raises:
            InterpError: It was fitted in another model or not at a site, or a site is not in the residual stream's
                basis.
        """
        if self.kind == "logit":
            return residual_sites(model, "resid_post.*" if sites is None else sites)
        last = final_site(model)
        if self.model is not None:
            self.model.check(model.reference, f"this {self.kind} lens")
        chosen = residual_sites(model, [*self.weights, last] if sites is None else sites)
        for site in chosen:
            if site != last and site not in self.weights:
                hint = nearest(str(site), map(str, self.weights))
                raise InterpError(f"this {self.kind} lens was not fitted at {site}; {hint}")
        return chosen

    def transported(self, x: Float[Tensor, "*batch d_model"], site: Site) -> Float[Tensor, "*batch d_model"]:
        """Activations at a site in the basis of the last layer, x + W x + b; as they are where it has no W."""
        if site not in self.weights:
            return x
        wide = x.float()
        moved = wide + wide @ self.weights[site].to(wide).T
        return (moved + self.biases[site].to(wide) if site in self.biases else moved).to(x.dtype)

    def logits(
        self, model: HookedModel, x: Float[Tensor, "*batch d_model"], site: Site
    ) -> Float[Tensor, "*batch d_vocab"]:
        """The logits that it reads from activations at a site, with the graph that gradients need.

        Args:
            model: The model that unembeds.
            x: Activations of the residual stream.
            site: Where they are from.

        Example:
            >>> site = interp.models.Site("resid_post", 5)
            >>> stream = model.capture("The river of", site)[site]
            >>> torch.equal(interp.attribution.Lens().logits(model, stream, site), model.logits("The river of"))
            True
        """
        return stream_logits(model, final_norm(model)(self.transported(x.to(model.device), site).to(model.dtype)))

    @torch.no_grad()
    def read(
        self, model: HookedModel, prompt: Prompts, sites: Places | None = None, top: PositiveInt = 10
    ) -> LensReading:
        """Read a prompt at every position.

        Args:
            model: The model. Hooks of an open `hooked` block apply.
            prompt: A text, or the token ids of one prompt. `model.chat` renders a user's message.
            sites: As in `sites`.
            top: How many of the likeliest tokens to keep at each place.

        Raises:
            InterpError: It does not fit the model, there is not one prompt, the model computes its logits in another
                way than from its last residual stream, or a logit is not finite.

        Example:
            >>> reading = interp.attribution.Lens().read(model, "The river of", "resid_post.2-5")
            >>> len(reading.sites), reading.tokens
            (4, ('<|bos|>', 'The', ' river', ' of'))
        """
        chosen, batch = self.sites(model, sites), model.tokens(prompt)
        if len(batch) != 1:
            raise InterpError(f"a lens reads one prompt at a time, not {len(batch)}; call it for each of them")
        if top > (width := len(model.hf.get_output_embeddings().weight)):
            raise InterpError(f"top is {top}, but the vocabulary has {plural(width, 'token')}; give fewer")
        final, real = final_site(model), batch.mask[0]
        streams, expected = model.capture(batch, [*chosen, final]), model.logits(batch)[0, real].float()
        direct = _finite(Lens().logits(model, streams[final][0, real], final), "the model")
        if not torch.allclose(direct, expected, atol=1e-3, rtol=1e-3):
            raise InterpError(
                f"{model.config.model_type} computes its logits in another way than from its last residual stream by "
                "the final norm, the unembedding, a known scale and a known cap, so no lens can read it"
            )
        parts = []
        for site in chosen:
            logits = _finite(self.logits(model, streams[site][0, real], site), f"the {self.kind} lens at {site}")
            chances = logits.softmax(-1)
            spread, distance = torch.special.entr(chances).sum(-1), kl_divergence(expected, logits)
            parts.append((*chances.topk(top), spread, distance))
        probability, ids, entropy, divergence = (torch.stack(column).cpu() for column in zip(*parts, strict=True))
        read = batch.ids[0, real].tolist()
        words = {token: token_text(model.tokenizer, token) for token in {*read, *ids.unique().tolist()}}
        tokens, cells = tuple(words[token] for token in read), (ids, probability, entropy, divergence)
        return LensReading(self.kind, model.reference, tuple(chosen), tokens, *cells, words)

    @torch.no_grad()
    def divergence(
        self, model: HookedModel, source: Activity, sites: Places | None = None, tokens: PositiveInt = 4096
    ) -> dict[Site, float]:
        """KL(model || lens) of the next token by site, in nats, mean over tokens of a text.

        Args:
            model: The model.
            source: A store or stream with the sites and the last layer's, or texts.
            sites: As in `sites`.
            tokens: How many tokens to measure on, in steps of 256.

        Raises:
            InterpError: It does not fit the model, or the source is of another model, lacks a site, or is not finite.

        Example:
            >>> by_site = interp.attribution.Lens().divergence(model, ["The river is the Nim."] * 4)
            >>> list(by_site.values())[-1], max(by_site.values()) > 1
            (0.0, True)
        """
        chosen, final = self.sites(model, sites), final_site(model)
        columns, seen = list(dict.fromkeys([*chosen, final])), 0
        total = dict.fromkeys(columns, 0.0)
        rows = site_batches(activation_source(model, source, columns), columns, 256, epochs=1)
        for streams in islice(rows, -(-tokens // 256)):
            expected = Lens().logits(model, streams[final], final).float()
            for site, x in streams.items():
                total[site] += float(kl_divergence(expected, self.logits(model, x, site).float()).double().sum())
            seen += len(expected)
        return {site: total[site] / seen for site in chosen}

    def direction(self, model: HookedModel, token: int, site: str | Site, gain: bool = False) -> Direction:
        """The direction at a site that a token is read along: its row of the unembedding times I + W.

        Args:
            model: The model.
            token: Id of the token.
            site: The site.
            gain: Take the final norm's centring and gain in: the gradient of the token's logit, as the lens reads it,
                up to the norm's scale and to the part of the stream's length in it. Default: the row alone, as the
                Jacobian lens is published.

        Returns:
            A unit direction at the site, for `Add`, `Project` or `Direction.read`.

        Raises:
            InterpError: The token or the site is unknown, or the lens does not fit the model.

        Example:
            >>> print(interp.attribution.Lens().direction(model, model.to_single_token(" river"), "resid_post.3"))
            logit lens of ' river' at resid_post.3, position -1
        """
        (place,) = self.sites(model, residual_site(model, site))
        table = model.hf.get_output_embeddings().weight.detach().float().cpu()
        if not 0 <= token < len(table):
            raise InterpError(f"token {token} is not in the vocabulary; expected an id from 0 to {len(table) - 1}")
        row = table[token]
        if gain:
            norm = FinalNorm.of(model)
            row = norm.centred(row * norm.gain.cpu())
        if place in self.weights:
            row = row + row @ self.weights[place].float().cpu()
        method = f"{self.kind} lens of {token_text(model.tokenizer, token)!r}"
        return Direction(row[None], place, -1, method, model.reference, data=self.data)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write a fitted lens into a new folder; `overwrite` replaces a saved lens there, in one step.

        Raises:
            InterpError: It is a logit lens, which has nothing to save, or the folder cannot be written.
        """
        if self.model is None:
            raise InterpError("a logit lens has nothing to save; Lens() makes it")
        record = files.LensRecord(kind=self.kind, model=self.model, data=self.data, settings=dict(self.settings))
        parts = ("weight", self.weights), ("bias", self.biases)
        tensors = {f"{site}.{part}": x.cpu().contiguous() for part, maps in parts for site, x in maps.items()}
        with new_folder(folder, mark=files.MARK, overwrite=overwrite) as staging:
            save_file(tensors, staging / files.TENSORS)
            write_json(staging / files.MARK, record.model_dump())

    @classmethod
    def load(cls, path: str | Path, model: HookedModel, accept: Collection[str] = ()) -> "Lens":
        """Read a lens: a folder that `save` wrote, one of tuned-lens, or a file of a Jacobian lens.

        tuned-lens' folders hold config.json and params.pt; the translator of block i is the lens at `resid_pre.0` or
        `resid_post.(i - 1)`. A file of a Jacobian lens (`J`, `n_prompts`, `d_model`) has `resid_post.l`.

        Args:
            path: The folder or file. Nothing in it is run.
            model: The model that it is for.
            accept: `unembed_hash`, to read a lens of tuned-lens whose hash of the unembedding is missing or another
                one; `model`, to read a Jacobian lens' file, which does not say whose it is.

        Raises:
            InterpError: The path holds no lens, the lens is of another model, or it is damaged.

        Example:
            >>> lens = interp.attribution.fit_tuned_lens(model, ["The river is the Nim."] * 4, steps=2)
            >>> lens.save(tmp / "lens")
            >>> interp.attribution.Lens.load(tmp / "lens", model).kind
            'tuned'
        """
        record, weights, biases = files.read(Path(path), model, accept)
        return cls(record.kind, weights, biases, record.model, record.data, record.settings)

    def _card(self) -> Card:
        return self.kind, [("sites", list(map(str, self.weights)) or "any"), *self.settings.items()]


def final_site(model: HookedModel) -> Site:
    """The residual stream after the last layer."""
    return Site("resid_post", model.n_layers - 1)


def activation_source(model: HookedModel, source: Activity, sites: list[Site], context: int = 128) -> ActivationSource:
    """A store or stream of these sites of this model, or a stream over texts. Raises where it is of another model."""
    if not isinstance(source, ActivationSource):
        source = Stream(model, source, list(sites), context=min(context, model.context or context))
    for columns in source.places(sites):
        columns.model.check(model.reference, str(source))
    return source


def site_batches(
    source: ActivationSource, sites: list[Site], batch_size: int, epochs: int | None = None, seed: int = 0
) -> Iterator[dict[Site, Float[Tensor, "batch d_model"]]]:
    """Shuffled rows of a source by site. Raises for NaN and infinite ones."""
    for rows in source.batches(sites, batch_size, seed, epochs):
        if not torch.isfinite(rows).all():
            raise InterpError(f"{source}: NaN or infinite activations at {', '.join(map(str, sites))}; harvest again")
        yield dict(zip(sites, rows.chunk(len(sites), dim=1), strict=True))


def _finite(logits: Float[Tensor, "*batch d_vocab"], what: str) -> Float[Tensor, "*batch d_vocab"]:
    """Logits in float32. Raises, by what computed them, where one is not finite."""
    if not torch.isfinite(logits).all():
        raise InterpError(f"the logits of {what} are NaN or infinite; check the model, its hooks and its dtype")
    return logits.float()
