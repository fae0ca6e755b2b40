"""Maps after a norm: y = g · x / rms(x) can be mapped by mapping x, up to one factor per token (`affine_maps`)."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.editing.fold.affine_maps import TensorMap
from interp.editing.fold.plan import Status
from interp.models.architectures.writers import Writer

GainRead = Callable[[str], Tensor]
SCALED = "the model normalises what attention and MLP write, so each token's write has another norm than with hooks"
ELSEWHERE = (
    "some gains of the norm after it are near 0: nothing is left along the direction, but more than that is removed"
)


@dataclass
class Gains:
    """Reads tensors of a checkpoint while a plan is made, and keeps the gains of norms."""

    read: GainRead | None
    known: dict[str, Tensor] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        """A tensor by its name."""
        if self.read is None:
            raise InterpError(
                "the fold depends on tensors of the checkpoint, such as gains where a model normalises what attention "
                "and MLP write; give fold a function that reads them (read)"
            )
        return self.read(name)

    def through(self, edit: TensorMap, writer: Writer) -> tuple[TensorMap, Status, str]:
        """The map of a writer's tensors that has an edit's effect on what the norm after them returns."""
        if edit.constant is not None:
            raise InterpError(f"nothing holds a constant after the norm at {writer.site}")
        if edit.keep is not None:
            return (edit, "scale", SCALED) if edit.keep.any() else (edit, "exact", "")
        gain = self._gain(writer)
        if not edit.blows_up(gain):
            return edit.before_norm(gain), "scale", SCALED
        if not edit.projection:
            raise InterpError(
                f"some gains of {writer.gain} are near 0, where only a full projection can be folded; project instead, "
                "or run the recipe with hooks (model.hooked(recipe))"
            )
        return edit.onto(gain), "approximate", ELSEWHERE

    def _gain(self, writer: Writer) -> Float[Tensor, "d_model"]:
        name = writer.gain or ""
        if name not in self.known:
            self.known[name] = self.tensor(name).double() + writer.offset
        return self.known[name]
