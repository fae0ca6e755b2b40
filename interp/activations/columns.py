"""Columns of a batch of activations: which sites of which models are side by side, and their widths."""

from collections.abc import Mapping, Sequence
from typing import final

from pydantic import Field, PositiveInt, field_validator

from interp.core.config import Config
from interp.core.errors import InterpError, nearest
from interp.models.identity import ModelReference
from interp.models.sites import Site

Sites = str | Site | Sequence[str | Site]


@final
class SiteColumns(Config):
    """A site of a model, as some columns of a batch.

    Example:
        >>> from interp.activations import SiteColumns
        >>> columns = SiteColumns(site="blocks.1.hook_resid_post", model=model.reference, width=192)
        >>> columns.site, columns.width
        ('resid_post.1', 192)
    """

    site: str = Field(description="the site, in any of its names; it is kept in the short form")
    model: ModelReference = Field(description="the model whose activations these are")
    width: PositiveInt = Field(description="number of columns, heads side by side")

    @field_validator("site")
    @classmethod
    def _short(cls, site: str) -> str:
        return str(Site.parse(site))

    def __str__(self) -> str:
        return f"{self.site} of {self.model.name}"


def parse_sites(sites: Sites) -> list[Site]:
    """One site or several, as a list. Raises for an unknown name."""
    names = [sites] if isinstance(sites, str | Site) else sites
    return [name if isinstance(name, Site) else Site.parse(name) for name in names]


def select_sites(sites: Sites, widths: Mapping[str, int], source: str) -> list[Site]:
    """One site or several, as a list. Raises unless the source has each of them; `widths` are those that it has."""
    selected = parse_sites(sites)
    if not selected:
        raise InterpError(f"no site given; {source} has {', '.join(widths)}")
    for site in selected:
        if str(site) not in widths:
            hint = f"{nearest(str(site), widths)}; for other sites, make {source} with them"
            raise InterpError(f"site {str(site)!r} is not in {source}; {hint}")
    return selected
