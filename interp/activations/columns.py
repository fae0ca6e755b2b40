"""Places: sites of models, with their widths. What a source of activations gives side by side, in this order."""

from collections.abc import Sequence
from typing import final

from pydantic import PositiveInt, field_validator

from interp.core.config import Config
from interp.models.identity import ModelReference
from interp.models.sites import Site

Sites = str | Site | Sequence[str | Site]


@final
class SiteColumns(Config):
    """A site of a model, and the number of its features. The site is kept in its short form."""

    site: str
    model: ModelReference
    width: PositiveInt

    @field_validator("site")
    @classmethod
    def _short(cls, site: str) -> str:
        return str(Site.parse(site))

    def __str__(self) -> str:
        return f"{self.site} of {self.model.name}"


def parse_sites(sites: Sites) -> list[Site]:
    """One site or several, as a list of sites. Raises for names that are none."""
    several = [sites] if isinstance(sites, str | Site) else sites
    return [site if isinstance(site, Site) else Site.parse(site) for site in several]
