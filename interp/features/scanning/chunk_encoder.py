"""Chunk encoder: which latents of autoencoders fire on the tokens of a chunk, in this process or in others."""

from collections.abc import Callable, Mapping
from functools import partial

import torch

from interp.activations.columns import parse_sites
from interp.activations.store import Store
from interp.activations.token_rows import CorpusPasses, reloader
from interp.features.scanning.token_chunk import TokenChunk
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae.code import Code
from interp.sae.coder import SparseAutoencoder


class ChunkEncoder:
    """Reads the activations of chunks, and encodes them.

    Args:
        saes: The autoencoders by name.
        source: Where activations are from.
        device: Where to encode.
        batch_size: Rows per forward pass of a model.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.features import model_chunks
        >>> from interp.features.scanning.chunk_encoder import ChunkEncoder
        >>> from interp.sae import SparseAutoencoder, TopK
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> encoder = ChunkEncoder({"sae": sae}, model, model.device, batch_size=4)
        >>> (chunk,) = model_chunks(model, ["the baker ."], [], size=40)
        >>> encoder.codes(chunk)["sae"].latents.shape
        torch.Size([6])
    """

    def __init__(
        self,
        saes: Mapping[str, SparseAutoencoder],
        source: Store | HookedModel,
        device: torch.device,
        batch_size: int,
    ):
        self.saes, self.source, self.device = {name: sae.to(device) for name, sae in saes.items()}, source, device
        names = [place.site for sae in saes.values() for place in sae.reads]
        self.sites: list[Site] = list(dict.fromkeys(parse_sites(names)))
        self.batch_size = batch_size
        self._read = source if isinstance(source, Store) else CorpusPasses(source, self.sites, batch_size)

    @torch.no_grad()
    def codes(self, chunk: TokenChunk) -> dict[str, Code]:
        """The code of each autoencoder, on the CPU. Raises where an activation is NaN or infinite."""
        activations, codes = chunk.read(self._read, self.sites).activations, {}
        for name, sae in self.saes.items():
            x = torch.cat([activations[str(Site.parse(place.site))] for place in sae.reads], dim=1)
            code = sae.encode_sparse(x.to(self.device))
            codes[name] = Code(code.values.cpu(), code.tokens.cpu(), code.latents.cpu(), code.count)
        return codes

    def elsewhere(self) -> Callable[[], "ChunkEncoder"]:
        """What opens the same encoder in another process: a store's files, or the model's."""
        saes = {name: sae.to(torch.device("cpu")) for name, sae in self.saes.items()}
        if isinstance(self.source, Store):
            return partial(ChunkEncoder, saes, self.source, self.device, self.batch_size)
        return partial(_with_model, saes, reloader(self.source), self.device, self.batch_size)


def _with_model(
    saes: Mapping[str, SparseAutoencoder],
    load_model: Callable[[], HookedModel],
    device: torch.device,
    batch_size: int,
) -> ChunkEncoder:
    return ChunkEncoder(saes, load_model(), device, batch_size)
