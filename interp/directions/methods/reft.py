"""ReFT-r1: one unit direction that both detects a concept and steers towards it.

Wu et al. 2025, "AxBench", https://arxiv.org/abs/2501.17148. At a site, a token's latent is ReLU(w·h + b). Three losses
are minimised together over w (kept at norm one), b and the slope of the detector:

- detection: the logistic loss of which side a text is of, from the largest w·h + b of its tokens;
- steering: the next-token loss of both sides' answers while every token of a text gets m·w, m being the mean of the k
  largest latents of that text. On negative texts, which are to be predicted too, it holds m down;
- sparsity: the latents that are not among a text's k largest.

The paper trains steering and sparsity, and the labels enter by which text is steered; the detection loss, from its
supervised probes, is what makes a hundred steps enough. First tokens are left out: models park attention there.

What it does not know: whether the model itself uses the direction, and how much to add; the paper tunes the factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from interp.core.errors import InterpError
from interp.core.files import new_folder, read_json, write_json
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.direction import Direction
from interp.directions.methods._answers import Answers, adding, answer_texts, batches, require_steps, residual_site
from interp.directions.scores import best_threshold
from interp.models.continuations import Continuations, frozen_weights, token_losses
from interp.models.hooked import HookedModel
from interp.models.losses import LinearDescent
from interp.models.sites import Site
from interp.models.tokens import Tokens

METHOD = "reft_r1"
_RATE = 0.02


@dataclass(frozen=True)
class ReftR1:
    """A trained direction. It detects with `detect`, and steers by `Add(direction, factor * magnitude)`.

    `bias` belongs to the latent, ReLU(w·h + bias). `magnitude` is the mean over the positive texts of their k largest
    latents. `losses` are detection, steering and sparsity of each step. `threshold` is where the largest w·h + bias
    best tells the training texts apart, and `accuracy` the share of them, each side counted half, that it gets right.
    """

    direction: Direction
    bias: float
    magnitude: float
    threshold: float
    accuracy: float
    losses: tuple[tuple[float, float, float], ...]

    def latents(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """The latent of each token."""
        return (self.direction.read(x)[..., 0] + self.bias).relu()

    @torch.no_grad()
    def detect(self, model: HookedModel, prompts: str | Sequence[str]) -> Float[Tensor, "batch"]:
        """The largest w·h + bias of each text's tokens but the first, over the threshold: above 0 where it is detected.

        The threshold is chosen on the training texts: where yours are of other lengths, choose one on some of those.
        """
        self.direction.model.check(model.reference, "this direction")
        batch = model.tokens([prompts] if isinstance(prompts, str) else list(prompts))
        x = model.capture(batch, self.direction.site)[self.direction.site].float().cpu()
        return _largest(self.direction.read(x)[..., 0] + self.bias, _counted(batch)) - self.threshold

    def save(self, folder: str | Path) -> None:
        """Write a new folder: the row as safetensors, the rest as JSON."""
        numbers: dict[str, Any] = {"bias": self.bias, "magnitude": self.magnitude, "threshold": self.threshold}
        numbers |= {"accuracy": self.accuracy, "losses": self.losses}
        with new_folder(folder) as staging:
            save_file({"rows": self.direction.rows}, staging / "reft.safetensors")
            write_json(staging / "reft.json", {"direction": self.direction.to_json(), **numbers})

    @classmethod
    def load(cls, folder: str | Path) -> "ReftR1":
        """The inverse of `save`."""
        values: dict[str, Any] = read_json(Path(folder) / "reft.json")
        # A copy is aligned in memory as a trained row is, so that detection gives the same bits on every processor.
        rows = load_file(Path(folder) / "reft.safetensors")["rows"].clone()
        losses = tuple((float(a), float(b), float(c)) for a, b, c in values.pop("losses"))
        return cls(Direction.from_json(values.pop("direction"), rows), losses=losses, **values)


def reft_r1(
    model: HookedModel,
    contrast: Contrast,
    site: str | Site,
    steps: int = 60,
    k: int = 4,
    steering: float = 1.0,
    sparsity: float = 0.01,
    batch_size: int = 8,
    seed: int = 0,
) -> ReftR1:
    """Train one on a contrast's texts: their answers where they have some, else all their tokens.

    `steering` and `sparsity` weigh those losses, the first in nats a token. `seed` draws the start and the pairs that
    are steered in each step; detection takes all of them. Raises where a loss is not finite.
    """
    require_steps(steps=steps, k=k, batch_size=batch_size)
    if min(steering, sparsity) < 0:
        raise InterpError(f"steering is {steering} and sparsity {sparsity}; expected weights of 0 or more")
    place, pairs = residual_site(model, site), answer_texts(model, contrast)
    fitter = _Fitter(model, place, pairs, k, torch.Generator().manual_seed(seed))
    descent = LinearDescent(fitter.trained, _RATE, steps)
    losses: list[tuple[float, float, float]] = []
    with frozen_weights(model):
        for picked in track(batches(len(contrast), batch_size, steps, seed), "reft", total=steps):
            with torch.enable_grad():
                parts = fitter.losses(picked)
                loss = parts[0] + steering * parts[1] + sparsity * parts[2]
            detection, steered, spread = (float(part.detach()) for part in parts)
            losses.append((detection, steered, spread))
            descent.step(loss, f"lower steering ({steering:g})")
            fitter.renormalise()
    return fitter.finish(contrast.digest, losses)


class _Fitter:
    """The parts in training. The latent is measured in `scale`, so that the rates suit any site."""

    def __init__(self, model: HookedModel, site: Site, pairs: Answers, k: int, generator: torch.Generator):
        self.model, self.site, self.pairs, self.k = model, site, pairs, k
        self.read = [_Read.of(model, side, site) for side in pairs]
        rows = torch.cat([side.x[side.counted] for side in self.read])
        if not len(rows) or not torch.isfinite(rows).all():
            raise InterpError(f"{site}: no tokens past the first ones, or activations that are not finite")
        # Along a random direction, tokens have about this deviation.
        self.centre, self.scale = rows.mean(0), float((rows - rows.mean(0)).square().mean().sqrt())
        if self.scale == 0:
            raise InterpError(f"{site}: every token's activation is the same; choose a site at which the texts differ")
        self.w = normalize(torch.randn(model.d_model, generator=generator), dim=0).to(model.device).requires_grad_()
        self.b, self.slope = (torch.zeros((), device=model.device, requires_grad=True) for _ in range(2))
        self.trained = [self.w, self.b, self.slope]

    def losses(self, picked: Int[Tensor, "n"]) -> tuple[Tensor, Tensor, Tensor]:
        """Detection on all texts, steering on the pairs picked, sparsity on all texts."""
        unit = normalize(self.w, dim=0)
        levels = [(side.x - self.centre) @ unit / self.scale + self.b for side in self.read]
        largest = [_largest(level, side.counted) for level, side in zip(levels, self.read, strict=True)]
        steep = self.slope.exp()
        detection = -torch.cat([logsigmoid(steep * largest[0]), logsigmoid(-steep * largest[1])]).mean()
        top = [self._top(level, side) for level, side in zip(levels, self.read, strict=True)]
        steered = [
            self._steered(side.pick(picked), self.scale * mean[picked], unit)
            for side, (mean, _) in zip(self.pairs, top, strict=True)
        ]
        return detection, torch.stack(steered).mean(), torch.cat([rest for _, rest in top]).mean()

    def _top(self, level: Tensor, side: "_Read") -> tuple[Tensor, Tensor]:
        """Of each text, the mean of its k largest latents, and the sum of the others over the number of its tokens."""
        latents = level.relu() * side.counted
        number = side.counted.sum(1)
        chosen = latents.topk(min(self.k, latents.shape[1]), dim=1).values.sum(1)
        return chosen / number.clamp(1, self.k), (latents.sum(1) - chosen) / number.clamp(min=1)

    def _steered(self, part: Continuations, lengths: Tensor, unit: Tensor) -> Tensor:
        with self.model.hooked([(self.site, adding(lengths[:, None, None] * unit))]):
            return token_losses(self.model, part)[0].mean()

    @torch.no_grad()
    def renormalise(self) -> None:
        """Back to norm one, of which the losses know nothing."""
        self.w.copy_(normalize(self.w, dim=0))

    @torch.no_grad()
    def finish(self, data: str, losses: list[tuple[float, float, float]]) -> ReftR1:
        """The record, in the units of the activations."""
        direction = Direction(self.w[None], self.site, -1, METHOD, self.model.reference, data)
        bias = float(self.scale * self.b - self.centre @ self.w)
        levels = [side.x @ self.w + bias for side in self.read]
        positive, negative = (_largest(x, side.counted) for x, side in zip(levels, self.read, strict=True))
        magnitude = self._top(levels[0], self.read[0])[0].mean()
        return ReftR1(direction, bias, float(magnitude), *best_threshold(positive, negative), tuple(losses))


@dataclass(frozen=True)
class _Read:
    """A side's activations, and which of its tokens count."""

    x: Float[Tensor, "batch pos d_model"]
    counted: Bool[Tensor, "batch pos"]

    @classmethod
    def of(cls, model: HookedModel, side: Continuations, site: Site) -> "_Read":
        batch = side.tokens
        x = model.capture(batch, site)[site].float()
        return cls(x, _counted(batch).to(x.device))


def _counted(batch: Tokens) -> Bool[Tensor, "batch pos"]:
    """Real tokens but the first; where there is one only, that."""
    return batch.mask & ((batch.position_ids > 0) | (batch.lengths == 1)[:, None])


def _largest(levels: Float[Tensor, "batch pos"], counted: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch"]:
    return levels.masked_fill(~counted, -torch.inf).amax(1)
