"""A model whose weights take no gradients for a while, so that what is trained on its output leaves them alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from interp.models.hooked import HookedModel


@contextmanager
def frozen(model: HookedModel) -> Iterator[None]:
    """No gradients for the model's own weights within the block."""
    wanted = [parameter for parameter in model.hf.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
