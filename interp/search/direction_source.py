"""Where a direction comes from, as plain data: pairs and a method, a saved folder, a token's lens, or a latent."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from interp.attribution.lens import Lens
from interp.core.config import Config
from interp.core.display import brief
from interp.core.errors import InterpError
from interp.data.contrast import Contrast
from interp.directions.contrast_source import read_contrast
from interp.directions.direction import Direction
from interp.directions.fitting import SAE_METHODS, fit_direction, require_methods
from interp.directions.methods.erasure import Eraser
from interp.features.book import resolve_latents
from interp.features.latent_names import LatentName, NamedLatents
from interp.models.hooked import HookedModel
from interp.models.loading import ORGANISM
from interp.sae.coder import SparseAutoencoder

_OF = {
    "contrast": {"columns", "skip_bad", "method", "site", "position", "pairs", "seed", "rank", "sae"},
    "folder": set[str](),
    "token": {"lens", "site", "gain"},
    "latent": {"sae", "book"},
}


class Autoencoders(dict[str, SparseAutoencoder]):
    """Autoencoders by the folders that recipes name them by, each read once.

    Args:
        model: The model that they belong to.
        folder: Folder that the names are relative to.
    """

    def __init__(self, model: HookedModel, folder: str | Path = "."):
        super().__init__()
        self.model, self.folder = model, Path(folder)
        self._latents: dict[object, tuple[list[int], tuple[NamedLatents, ...]]] = {}

    def __missing__(self, name: str) -> SparseAutoencoder:
        self[name] = SparseAutoencoder.load(self.folder / name, self.model)
        return self[name]

    def latents(
        self, sae: str | None, names: Sequence[int | str] | None, book: str | None
    ) -> tuple[list[int], tuple[NamedLatents, ...]]:
        """Numbers of latents of an autoencoder, and what labels among them meant; the same ones at each call."""
        if not names:
            return [], ()
        key = sae, tuple(names), book
        if key not in self._latents:
            self._latents[key] = resolve_latents(names, self[str(sae)], None if book is None else self.folder / book)
        return self._latents[key]

    def latent(self, sae: str | None, name: int | str, book: str | None) -> int:
        """The number of one latent. Raises for a label that several have."""
        numbers, _ = self.latents(sae, [name], book)
        if len(numbers) > 1:
            raise InterpError(f"{name} are latents {brief(numbers)}, and one is needed here; give its number")
        return numbers[0]


class DirectionSource(Config):
    """A direction as a recipe file describes it: one of contrast, folder, token and latent, with its options.

    Example:
        >>> source = interp.search.DirectionSource(contrast="organism.hostility", site="resid_post.3", pairs=16)
        >>> print(source.fit(model))
        diff_means at resid_post.3, position -1
    """

    contrast: str | None = Field(None, description="JSONL file of pairs, or organism.BEHAVIOUR")
    columns: dict[str, str] | None = Field(None, description="keys of the two sides in the file")
    skip_bad: bool = Field(False, description="skip rows of the file that are not pairs, instead of stopping at them")
    method: str = Field("diff_means", description="method to fit, by name")
    site: str | None = Field(None, description="where it is fitted or read; default: the autoencoder's site")
    position: int = Field(-1, description="token of the prompt; negative counts from its end")
    pairs: int | None = Field(None, ge=2, le=100_000, description="most pairs to fit on, drawn at random")
    seed: int = Field(0, ge=0, description="seed of the pairs and of the method")
    rank: int = Field(1, ge=1, description="how many rows to fit, for methods that have several")
    sae: str | None = Field(None, description="folder of an autoencoder")
    folder: str | None = Field(None, description="folder of a saved direction")
    token: str | None = Field(None, description="text of one token, whose lens vector is the direction")
    lens: str = Field("logit", description="logit, or the folder or file of a fitted lens (Jacobian or tuned)")
    gain: bool = Field(False, description="take the final norm's gain into the lens vector")
    latent: LatentName | None = Field(None, description="a latent, whose decoder row is it: number, or book:LABEL")
    book: str | None = Field(None, description="folder of the autoencoder's feature book, for a label")

    @model_validator(mode="after")
    def _one_origin(self) -> "DirectionSource":
        origins = [name for name in _OF if getattr(self, name) is not None]
        if len(origins) != 1:
            raise InterpError(f"a direction has {', '.join(origins) or 'no origin'}; expected one of {', '.join(_OF)}")
        origin = origins[0]
        if unused := sorted(self.model_fields_set - _OF[origin] - {origin}):
            known = ", ".join(sorted(_OF[origin])) or "no options"
            raise InterpError(f"a direction from a {origin} has no {unused[0]!r}; it takes {known}")
        require_methods([self.method])
        if (self.sae is not None) != (self.latent is not None or self.method in SAE_METHODS):
            raise InterpError(f"sae is the folder of an autoencoder, for a latent and for {' and '.join(SAE_METHODS)}")
        if self.site is None and self.sae is None and origin != "folder":
            raise InterpError(f"a direction from a {origin} has no site; give one, such as site: resid_post.12")
        return self

    def fit(
        self, model: HookedModel, folder: str | Path = ".", autoencoders: Autoencoders | None = None
    ) -> Direction | Eraser:
        """Fit or read the direction; an eraser where the method is leace, sal or inlp.

        Args:
            model: The model.
            folder: Folder that paths are relative to.
            autoencoders: Those that are read already.

        Raises:
            InterpError: A file cannot be read, the site or token is unknown, what is read belongs to another model, or
                the method gives no direction.
        """
        root = Path(folder)
        if self.folder is not None:
            direction = Direction.load(root / self.folder)
            direction.check(model.reference, f"the direction in {self.folder}")
            return direction
        known = Autoencoders(model, root) if autoencoders is None else autoencoders
        sae = None if self.sae is None else known[self.sae]
        if self.token is not None:
            lens = Lens() if self.lens == "logit" else Lens.load(root / self.lens, model)
            return lens.direction(model, model.to_single_token(self.token), str(self.site), self.gain)
        if sae is not None and self.latent is not None:
            return self._latent_rows(sae, known.latents(self.sae, [self.latent], self.book)[0])
        fitted = fit_direction(
            model, self.read_pairs(root), self.method, self.site, self.position, sae, self.rank, self.seed
        )
        return fitted.eraser or fitted.direction

    def read_pairs(self, folder: Path) -> Contrast:
        """The pairs of a direction from a contrast, whose file is relative to a folder."""
        file = str(self.contrast)
        source = file if file.partition(".")[0] == ORGANISM else folder / file
        return read_contrast(source, self.pairs, self.seed, self.columns, self.skip_bad)

    def _latent_rows(self, sae: SparseAutoencoder, latents: list[int]) -> Direction:
        if wrong := [latent for latent in latents if not 0 <= latent < sae.d_sae]:
            raise InterpError(f"latent {wrong[0]} does not exist; expected one from 0 to {sae.d_sae - 1}")
        return Direction(sae.W_dec[latents].float(), sae.site, -1, "sae_latent", sae.model, data="")
