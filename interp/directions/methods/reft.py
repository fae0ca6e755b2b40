"""ReFT-r1: one unit direction that both detects a concept and steers towards it.

Wu et al. 2025, "AxBench", https://arxiv.org/abs/2501.17148. At a site, the latent of a token is ReLU(w·h + b). Three
losses are minimised together over w (kept at unit norm), b and the slope of the detector:

- detection: the logistic loss of a text's side, predicted from the largest w·h + b of its tokens;
- steering: the next-token loss of both sides' answers while m·w is added to every token of a text, where m is the mean
  of the text's k largest latents. On negative texts, which must be predicted as well, this keeps m small;
- sparsity: the latents that are not among a text's k largest.

The paper trains on steering and sparsity, and its labels enter through the choice of the steered text. The detection
loss, from the paper's supervised probes, reduces the number of steps to a hundred or fewer. First tokens are left out,
since models use them as attention sinks.

Limitations: whether the model itself uses the direction stays open, as does how much to add (the paper tunes it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.core.files import new_folder, read_json, read_tensors, write_json
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.direction import Direction, residual_site
from interp.directions.methods._answers import Answers, adding, answer_texts, batches, require_positive
from interp.directions.scores import best_threshold
from interp.models.continuations import Continuations, frozen_weights, token_losses
from interp.models.hooked import HookedModel
from interp.models.losses import LinearDescent
from interp.models.sites import Site
from interp.models.tokens import Tokens

METHOD = "reft_r1"
_RATE = 0.02


@dataclass(frozen=True)
class ReftR1(Displayed):
    """A trained direction. It detects with `detect`, and steers by `Add(direction, factor * magnitude)`.

    Args:
        direction: The unit direction w at its site.
        bias: The b of the latent, ReLU(w·h + b).
        magnitude: Mean of the k largest latents of a text, over the positive training texts.
        threshold: The largest w·h + b per text that best separates the training texts.
        accuracy: Balanced accuracy of the threshold on the training texts, from 0.5 to 1.
        losses: Detection, steering and sparsity loss of each step.

    Example:
        >>> from interp.directions import ReftR1
        >>> row = interp.Direction(torch.eye(192)[:1], interp.models.Site("resid_post", 1), -1, "", model.reference, "")
        >>> detector = ReftR1(row, bias=-1.0, magnitude=2.0, threshold=0.5, accuracy=1.0, losses=())
        >>> detector.latents(torch.tensor([[3.0] * 192, [0.0] * 192]))
        tensor([2., 0.])
        >>> detector.save(tmp / "reft")
        >>> ReftR1.load(tmp / "reft").threshold
        0.5
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
        """Score texts for the concept.

        Args:
            model: The model that the direction was trained on.
            prompts: One text or several.

        Returns:
            Per text, the largest w·h + b over its tokens (without the first) minus the threshold: above 0 where the
            concept is detected.

        Limitations:
            The threshold was chosen on the training texts. For texts of other lengths, choose one on some of them.
        """
        self.direction.check(model.reference)
        batch = model.tokens([prompts] if isinstance(prompts, str) else list(prompts))
        x = model.capture(batch, self.direction.site)[self.direction.site].float().cpu()
        return _largest(self.direction.read(x)[..., 0] + self.bias, _counted_tokens(batch)) - self.threshold

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the row and the rest into a new folder; `overwrite` replaces what was saved there, in one step."""
        numbers = {name: value for name, value in vars(self).items() if name != "direction"}
        with new_folder(folder, mark="reft.json", overwrite=overwrite) as staging:
            save_file({"rows": self.direction.rows}, staging / "reft.safetensors")
            write_json(staging / "reft.json", {"direction": self.direction.to_json(), **numbers})

    @classmethod
    def load(cls, folder: str | Path) -> "ReftR1":
        """Load what `save` wrote."""
        values: dict[str, Any] = read_json(Path(folder) / "reft.json")
        # A copy is aligned in memory like a trained row, so that detection gives the same bits on every processor.
        rows = read_tensors(Path(folder) / "reft.safetensors")["rows"].clone()
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
    """Train ReFT-r1 on the texts of a contrast: on their answers where they have some, else on all their tokens.

    Args:
        model: The model; its weights stay fixed.
        contrast: Pairs of texts with and without the concept.
        site: One site in the residual stream's basis.
        steps: Steps of training.
        k: Number of largest latents per text that set the steering's strength.
        steering: Weight of the steering loss, which is in nats per token.
        sparsity: Weight of the sparsity loss.
        batch_size: Pairs that are steered per step. Detection uses all pairs.
        seed: Draws the initial direction and the batches.

    Returns:
        The trained direction.

    Raises:
        InterpError: A setting is out of range, a loss is not finite, or all activations are equal.

    Example:
        >>> few = interp.Contrast(contrast.pairs[:4])
        >>> interp.directions.reft_r1(model, few, "resid_post.4", steps=1, batch_size=2).direction.rows.shape
        torch.Size([1, 192])
    """
    require_positive(steps=steps, k=k, batch_size=batch_size)
    if min(steering, sparsity) < 0:
        raise InterpError(f"steering is {steering} and sparsity {sparsity}; expected weights of 0 or more")
    site, pairs = residual_site(model, site), answer_texts(model, contrast)
    fitter = _Fitter(model, site, pairs, k, torch.Generator().manual_seed(seed))
    descent = LinearDescent(fitter.trained, _RATE, steps)
    losses: list[tuple[float, float, float]] = []
    with frozen_weights(model):
        for batch in track(batches(len(contrast), batch_size, steps, seed), "reft", total=steps, unit="steps"):
            with torch.enable_grad():
                detection, steered, dense = fitter.losses(batch)
                loss = detection + steering * steered + sparsity * dense
            losses.append((float(detection.detach()), float(steered.detach()), float(dense.detach())))
            descent.step(loss, f"lower steering ({steering:g})")
            fitter.renormalise()
    return fitter.finish(contrast.digest, losses)


class _Fitter:
    """The parameters in training. Latents are in units of `scale`, so that one learning rate suits every site."""

    def __init__(self, model: HookedModel, site: Site, pairs: Answers, k: int, generator: torch.Generator):
        self.model, self.site, self.pairs, self.k = model, site, pairs, k
        self.sides = [_SideActivations.of(model, side, site) for side in pairs]
        rows = torch.cat([side.x[side.counted] for side in self.sides])
        if not len(rows) or not torch.isfinite(rows).all():
            raise InterpError(f"{site}: no tokens past the first ones, or activations that are not finite")
        # About the standard deviation of the tokens along a random direction.
        self.centre, self.scale = rows.mean(0), float((rows - rows.mean(0)).square().mean().sqrt())
        if self.scale == 0:
            raise InterpError(f"{site}: every token's activation is the same; choose a site at which the texts differ")
        self.w = normalize(torch.randn(model.d_model, generator=generator), dim=0).to(model.device).requires_grad_()
        self.b, self.slope = (torch.zeros((), device=model.device, requires_grad=True) for _ in range(2))
        self.trained = [self.w, self.b, self.slope]

    def losses(self, picked: Int[Tensor, "n"]) -> tuple[Tensor, Tensor, Tensor]:
        """Detection on all texts, steering on the picked pairs, sparsity on all texts."""
        unit = normalize(self.w, dim=0)
        levels = [(side.x - self.centre) @ unit / self.scale + self.b for side in self.sides]
        largest = [_largest(level, side.counted) for level, side in zip(levels, self.sides, strict=True)]
        steep = self.slope.exp()
        detection = -torch.cat([logsigmoid(steep * largest[0]), logsigmoid(-steep * largest[1])]).mean()
        top = [self._top(level, side) for level, side in zip(levels, self.sides, strict=True)]
        steered = [
            self._steered_loss(side.pick(picked), self.scale * mean[picked], unit)
            for side, (mean, _) in zip(self.pairs, top, strict=True)
        ]
        return detection, torch.stack(steered).mean(), torch.cat([rest for _, rest in top]).mean()

    def _top(self, level: Tensor, side: "_SideActivations") -> tuple[Tensor, Tensor]:
        """Per text, the mean of its k largest latents, and the sum of the others divided by its number of tokens."""
        latents = level.relu() * side.counted
        number = side.counted.sum(1)
        chosen = latents.topk(min(self.k, latents.shape[1]), dim=1).values.sum(1)
        return chosen / number.clamp(1, self.k), (latents.sum(1) - chosen) / number.clamp(min=1)

    def _steered_loss(self, part: Continuations, lengths: Tensor, unit: Tensor) -> Tensor:
        with self.model.hooked([(self.site, adding(lengths[:, None, None] * unit))]):
            return token_losses(self.model, part)[0].mean()

    @torch.no_grad()
    def renormalise(self) -> None:
        """Set w to unit norm; the losses do not depend on its norm."""
        self.w.copy_(normalize(self.w, dim=0))

    @torch.no_grad()
    def finish(self, data: str, losses: list[tuple[float, float, float]]) -> ReftR1:
        """The trained direction, in the units of the activations."""
        direction = Direction(self.w[None], self.site, -1, METHOD, self.model.reference, data)
        bias = float(self.scale * self.b - self.centre @ self.w)
        levels = [side.x @ self.w + bias for side in self.sides]
        positive, negative = (_largest(x, side.counted) for x, side in zip(levels, self.sides, strict=True))
        magnitude = self._top(levels[0], self.sides[0])[0].mean()
        return ReftR1(direction, bias, float(magnitude), *best_threshold(positive, negative), tuple(losses))


@dataclass(frozen=True)
class _SideActivations:
    """The activations of one side, and which of its tokens count."""

    x: Float[Tensor, "batch pos d_model"]
    counted: Bool[Tensor, "batch pos"]

    @classmethod
    def of(cls, model: HookedModel, side: Continuations, site: Site) -> "_SideActivations":
        batch = side.tokens
        x = model.capture(batch, site)[site].float()
        return cls(x, _counted_tokens(batch).to(x.device))


def _counted_tokens(batch: Tokens) -> Bool[Tensor, "batch pos"]:
    """All tokens except the first and padding; the first if there is no other."""
    return batch.mask & ((batch.position_ids > 0) | (batch.lengths == 1)[:, None])


def _largest(levels: Float[Tensor, "batch pos"], counted: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch"]:
    return levels.masked_fill(~counted, -torch.inf).amax(1)
