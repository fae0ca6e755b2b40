"""Methods that train a direction through the model, as a search fits them: by name, at one site, with their defaults.

They take minutes where closed forms take milliseconds, so a search runs them only if they are named, and measures no
stability of them. Steering vectors get as long as the two sides' means are apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.data.contrast import Contrast
from interp.directions.contrast_activations import ContrastActivations
from interp.directions.methods.closed_form import diff_means
from interp.directions.methods.reft import reft_r1
from interp.directions.methods.steering_vectors import steering_vector
from interp.models.hooked import HookedModel

Trainer = Callable[[HookedModel, Contrast, ContrastActivations], Tensor]


@dataclass(frozen=True)
class TrainedFit:
    """One training to do, in the place of a fit: it needs the texts rather than their activations."""

    trainer: Trainer
    model: HookedModel
    contrast: Contrast
    cell: ContrastActivations

    def __call__(self, positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"]) -> Tensor:
        """The row; the activations are those of the cell, and are not looked at."""
        return self.trainer(self.model, self.contrast, self.cell)


def _steering_vector(model: HookedModel, contrast: Contrast, cell: ContrastActivations) -> Tensor:
    norm = float(diff_means(*cell.fit).norm())
    return steering_vector(model, contrast, cell.site, norm).direction.rows[0]


def _reft_r1(model: HookedModel, contrast: Contrast, cell: ContrastActivations) -> Tensor:
    return reft_r1(model, contrast, cell.site).direction.rows[0]


TRAINED: dict[str, Trainer] = {"steering_vector": _steering_vector, "reft_r1": _reft_r1}
