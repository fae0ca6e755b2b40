"""AttributionGraph: what active latents, errors and embeddings contribute to each other and to the logits of a prompt.

Nodes that read are the active latents, in the order of layer, position and number, and the logits. Sources are the same
latents, then an error per layer and token, then an embedding per token.

    sum of a node's edges + its constant = its pre-activation (its centred logit before any cap)

`save` and `payload` have the JSON that circuit-tracer's frontend and Neuronpedia read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.attribution.graphs._influence import Pruning, Share, pruned
from interp.attribution.graphs._replacement import LocalReplacement, Readers
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError
from interp.core.files import new_folder, write_json, write_text
from interp.data.corpora import Source
from interp.features.book import Book
from interp.features.book_card import autoencoder_digest
from interp.interventions.latents import Suppress
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.tokens import Tokens
from interp.sae.coder import SparseAutoencoder
from interp.sae.feature import Feature, Snippet, feature_pages

Rules = Literal["complete", "circuit-tracer"]
_EXAMPLES, _BEFORE = 3, 12  # texts of a latent in a file, and tokens before the peak of each
_KINDS = ("cross layer transcoder", "mlp reconstruction error", "embedding", "logit")  # circuit-tracer's names


@dataclass(frozen=True, eq=False)
class Effects(Displayed):
    """The change of each kept node when another one is ablated. Returned by `measure_effects`.

    Attributes:
        sources: The nodes that are ablated: numbers of sources of the graph.
        nodes: The kept latents and the logits: numbers of nodes that read.
        embedded: Which of the sources are embeddings.
        later: Whether a node comes after a source, so that it can change.
        predicted: The change of each node by the graph.
        measured: The change in the run.
        freeze: Whether the run was frozen, and the prediction is the direct edges.
    """

    sources: Int[Tensor, "source"]
    nodes: Int[Tensor, "node"]
    embedded: Bool[Tensor, "source"]
    later: Bool[Tensor, "source node"]
    predicted: Float[Tensor, "source node"]
    measured: Float[Tensor, "source node"]
    freeze: bool

    @property
    def correlation(self) -> float | None:
        """Pearson correlation of predicted and measured changes of later nodes, where latents and errors are ablated.

        None where either does not vary.
        """
        return self._correlation(~self.embedded)

    @property
    def embedding_correlation(self) -> float | None:
        """The same where embeddings are ablated."""
        return self._correlation(self.embedded)

    def _correlation(self, sources: Bool[Tensor, "source"]) -> float | None:
        compared = self.later & sources[:, None]
        both = torch.stack([self.predicted[compared], self.measured[compared]]).double()
        varies = both.shape[1] > 1 and bool((both.std(1) > 0).all())
        return float(torch.corrcoef(both)[0, 1]) if varies else None

    def _card(self) -> Card:
        kind = "in the frozen model, by direct edges" if self.freeze else "in the unfrozen model, by total effects"
        rows = [("r of latents and errors", self.correlation), ("r of embeddings", self.embedding_correlation)]
        return kind, [("ablated", len(self.sources)), ("changes", int(self.later.sum())), *rows]


class Place(NamedTuple):
    """Where a node is, as files name it: layer (E for embeddings), number (-1 for errors; or a token), position."""

    kind: str
    layer: str
    number: int
    position: int

    @property
    def name(self) -> str:
        """The node's identifier."""
        return f"{self.latent}_{self.position}"

    @property
    def latent(self) -> str:
        """Its layer and number, as `layer_number`: those of the same latent at other positions too."""
        return f"{self.layer}_{self.number}"


@dataclass(frozen=True, eq=False)
class AttributionGraph(Displayed):
    """An attribution graph. Returned by `trace_graph`.

    Attributes:
        model: The model.
        transcoders: The transcoders whose latents are nodes.
        batch: The tokens of the prompt.
        tokens: Each token as text.
        nodes: The nodes that read: active latents and logits, with their transcoder, layer, position, number and value.
        targets: The tokens of the logits as text; the first is the traced one, whose changes files show.
        probabilities: Their probabilities.
        edges: What each source contributes to each node.
        constants: What a node reads of biases, and of what is no node by the rules.
        rules: At the first token, whose MLP outputs transcoders are not trained on: all of it is error (`complete`), or
            it is a constant and no node (`circuit-tracer`).
        pruning: What is kept by influence, and the scores.
        effects: The kept nodes, ablated in the unfrozen model.
    """

    model: ModelReference
    transcoders: tuple[SparseAutoencoder, ...]
    batch: Tokens
    tokens: tuple[str, ...]
    nodes: Readers
    targets: tuple[str, ...]
    probabilities: Float[Tensor, "logit"]
    edges: Float[Tensor, "node source"]
    constants: Float[Tensor, "node"]
    rules: Rules
    pruning: Pruning
    effects: Effects | None = None

    @property
    def activations(self) -> Float[Tensor, "latent"]:
        """The values of the active latents."""
        return self.nodes.values[: -len(self.targets)]

    @property
    def kept_nodes(self) -> Int[Tensor, "node"]:
        """Numbers of the kept latents and of the logits."""
        kept = self.pruning.sources[: len(self.activations)].nonzero()[:, 0]
        return torch.cat([kept, torch.arange(len(self.activations), len(self.nodes.values))])

    @property
    def source_places(self) -> tuple[Int[Tensor, "source"], Int[Tensor, "source"]]:
        """Layer and position of each source; embeddings are in layer -1."""
        latents, width = len(self.activations), len(self.tokens)
        layers, positions = torch.arange(-1, self.model.n_layers).roll(-1), torch.arange(width)
        errors = layers.repeat_interleave(width), positions.repeat(len(layers))
        pairs = zip((self.nodes.layers, self.nodes.positions), errors, strict=True)
        of_layers, of_positions = (torch.cat([places[:latents], others]) for places, others in pairs)
        return of_layers, of_positions

    def places(self) -> list[Place]:
        """Each source, and then each logit, as files name it. Latents count from 0 in each layer."""
        sizes = [coder.d_sae // len(coder.reads) for coder in self.transcoders]
        ids, last, latents = self.batch.ids[0].tolist(), len(self.tokens) - 1, len(self.activations)
        coders, readers = self.nodes.coders.tolist(), self.nodes.latents.tolist()
        places = []
        for source, (layer, position) in enumerate(zip(*(x.tolist() for x in self.source_places), strict=True)):
            if source < latents:
                places.append(Place(_KINDS[0], str(layer), readers[source] % sizes[coders[source]], position))
            else:
                error = Place(_KINDS[1], str(layer), -1, position)
                places.append(error if layer >= 0 else Place(_KINDS[2], "E", ids[position], position))
        return places + [Place(_KINDS[3], str(self.model.n_layers + 1), token, last) for token in readers[latents:]]

    def kept_latents(self, position: int | None = None) -> list[Place]:
        """The places of the kept latents, in the order of layer, position and number.

        Args:
            position: Those at this token alone, from 0, or from -1 at the end. Default: all.

        Raises:
            InterpError: The prompt has no token at the position.
        """
        width, places = len(self.tokens), self.places()
        if position is not None and not -width <= position < width:
            raise InterpError(f"position {position} is outside the prompt; expected one from {-width} to {width - 1}")
        kept = [places[number] for number in self.kept_nodes[: -len(self.targets)].tolist()]
        return [place for place in kept if position is None or place.position == position % width]

    def replacement(self, model: HookedModel) -> LocalReplacement:
        """The local replacement model that the graph is of. Raises for another model."""
        return LocalReplacement(model, self.transcoders, self.batch, self.rules == "complete")

    def prune(self, node_share: Share = 0.8, edge_share: Share = 0.98) -> "AttributionGraph":
        """The same graph with other nodes and edges kept, without measured effects.

        Args:
            node_share: Share of influence to which nodes are kept, above 0 and up to 1.
            edge_share: Share of influence to which edges between them are kept.

        Raises:
            InterpError: A share is not above 0 and up to 1.
        """
        if not (0 < node_share <= 1 and 0 < edge_share <= 1):
            raise InterpError(f"shares {node_share} and {edge_share}; expected numbers above 0 and up to 1")
        pruning = pruned(self.edges, self.probabilities, len(self.tokens), node_share, edge_share)
        return replace(self, pruning=pruning, effects=None)

    def recipe(self, nodes: str | Sequence[str], scale: float = 0.0) -> Recipe:
        """A recipe that turns the latents of some nodes down, at all tokens: a supernode as an edit.

        Args:
            nodes: Identifiers of latents, as in files: `layer_number_position`.
            scale: What the latents are multiplied by; 0 ablates them.

        Raises:
            InterpError: A node is no active latent of the graph.
        """
        known = {place.name: number for number, place in enumerate(self.places()[: len(self.activations)])}
        listed, chosen = [nodes] if isinstance(nodes, str) else list(nodes), dict[int, list[int]]()
        for name in listed:
            if name not in known:
                raise InterpError(f"{name} is no active latent here; expected layer_number_position, such as 2_17_5")
            chosen.setdefault(int(self.nodes.coders[known[name]]), []).append(int(self.nodes.latents[known[name]]))
        unique = {number: sorted({*latents}) for number, latents in chosen.items()}
        edits = [
            edit for number, latents in unique.items() for edit in _edits(self.transcoders[number], latents, scale)
        ]
        return Recipe(edits, self.model, note=f"Multiplies the latents of {', '.join(listed)} by {scale:g}.")

    def features(
        self, model: HookedModel, texts: Source, top: int = 8, tokens: int | None = None
    ) -> dict[str, Feature]:
        """Pages of the kept latents, from one pass over a corpus for each transcoder.

        Args:
            model: The model.
            texts: A corpus, as `interp.data.documents` takes it.
            top: Snippets per latent.
            tokens: Use at most this many tokens of the corpus; None for all.

        Returns:
            The pages by `layer_number`, as `payload` takes them.
        """
        corpus, pages = texts if isinstance(texts, str | Path) else list(texts), dict[str, Feature]()
        options: dict[str, Any] = {"tokens": tokens, "context": min(128, model.context or 128)}
        for coder, names in self._named_latents():
            for page in feature_pages(coder, model, corpus, list(names), top, **options):
                pages[names[page.latent]] = page
        return pages

    def book_features(self, book: Book) -> dict[str, Feature]:
        """Pages of the kept latents from a feature book, with its labels, by `layer_number` as `payload` takes them.

        Raises where the book is of none of the transcoders.
        """
        names, pages = {x.digest: name for name, x in book.card.autoencoders.items()}, dict[str, Feature]()
        if names.keys().isdisjoint(map(autoencoder_digest, self.transcoders)):
            raise InterpError(f"{book.folder} is of none of the graph's transcoders; scan these (interp features scan)")
        for coder, latents in self._named_latents():
            if (sae := names.get(autoencoder_digest(coder))) is not None:
                pages |= {name: book.feature(latent, sae) for latent, name in latents.items()}
        return pages

    def _named_latents(self) -> Iterator[tuple[SparseAutoencoder, dict[int, str]]]:
        """The transcoders that have kept latents, and the names of these as `layer_number`."""
        places, kept = self.places(), self.kept_nodes[: -len(self.targets)].tolist()
        for number, coder in enumerate(self.transcoders):
            nodes = [node for node in kept if self.nodes.coders[node] == number]
            if nodes:
                yield coder, {int(self.nodes.latents[node]): places[node].latent for node in nodes}

    def payload(self, slug: str = "graph", features: Mapping[str, Feature] | None = None) -> dict[str, Any]:
        """The kept nodes and edges as circuit-tracer's JSON, with additions that other readers ignore.

        Args:
            slug: The name of the graph.
            features: Pages of latents by `layer_number`: their labels, and text on which they are most active.
        """
        places = self.places()
        sources, logits = places[: self.edges.shape[1]], places[self.edges.shape[1] :]
        readers = [*sources[: len(self.activations)], *logits]
        nodes = [self._node(n, sources[n], features or {}) for n in self.pruning.sources.nonzero()[:, 0].tolist()]
        for number, (place, chance) in enumerate(zip(logits, self.probabilities.tolist(), strict=True)):
            text = {"clerp": f'Output "{self.targets[number]}" (p={chance:.3f})', "is_target_logit": number == 0}
            nodes.append(self._node(None, place, {}) | text | {"token_prob": chance})
        links = [
            {"source": sources[source].name, "target": readers[node].name, "weight": float(self.edges[node, source])}
            for node, source in self.pruning.edges.nonzero().tolist()
        ]
        parameters = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
        return {"metadata": self._metadata(slug), "qParams": parameters, "nodes": nodes, "links": links}

    def _metadata(self, slug: str) -> dict[str, Any]:
        scores = {"replacement_score": self.pruning.replacement, "completeness_score": self.pruning.completeness}
        names = ("correlation", "embedding_correlation")
        measured = {name: None if self.effects is None else getattr(self.effects, name) for name in names}
        return {
            "slug": slug,
            "scan": re.sub(r"[^\w.-]+", "-", self.model.name),
            "transcoder_list": [],
            "prompt_tokens": list(self.tokens),
            "prompt": "".join(self.tokens),
            "node_threshold": None,
            "schema_version": 1,
            "interp": scores | measured | {"error_share": self.pruning.error_share, "rules": self.rules},
        }

    def _node(self, source: int | None, place: Place, features: Mapping[str, Feature]) -> dict[str, Any]:
        """A node of the file; of a latent, its number is paired with its layer by Cantor's function."""
        kind, layer, number, position = place
        node: dict[str, Any] = {"node_id": place.name, "layer": layer, "ctx_idx": position, "feature_type": kind}
        node |= {"clerp": "", "token": self.tokens[position], "feature": number, "jsNodeId": f"L_{number}-{position}"}
        node |= {"influence": None if source is None else float(self.pruning.influence[source])}
        if source is not None and kind == _KINDS[0]:
            total = int(layer) + number
            node |= {"feature": total * (total + 1) // 2 + number, "jsNodeId": f"{layer}_{number}-0"}
            page = features.get(place.latent)
            node |= {"activation": float(self.activations[source]), "top_tokens": page.top_tokens if page else []}
            node |= {"examples": [_example(snippet) for snippet in page.snippets[:_EXAMPLES]] if page else []}
            node |= {"clerp": _label(number, page) if page else ""}
        elif kind == _KINDS[1]:
            node["jsNodeId"] = f"{layer}_{position}-0"
        elif kind == _KINDS[2]:
            node |= {"feature": position, "jsNodeId": f"E_{number}-{position}"}
        return node | self._changes(source)

    def _changes(self, source: int | None) -> dict[str, float | None]:
        """What ablating a source does to the traced logit, by the run and by the graph."""
        if self.effects is None or source is None:
            return {"measured": None, "predicted": None}
        row, node = int(torch.searchsorted(self.effects.sources, source)), -len(self.targets)
        return {name: float(getattr(self.effects, name)[row, node]) for name in ("measured", "predicted")}

    def save(
        self, folder: str | Path, payload: Mapping[str, Any] | None = None, page: str = "", overwrite: bool = False
    ) -> None:
        """Write the graph's files into a new folder: graph.json, graph-metadata.json and, if given, graph.html.

        Args:
            folder: The folder.
            payload: The graph as JSON, such as `payload` makes with other options. Default: as it makes without.
            page: The text of a page that shows it, such as `interp.views.graph_page` makes.
            overwrite: Replace a folder with a graph.json, in one step.
        """
        payload = payload or self.payload()
        with new_folder(folder, mark="graph.json", overwrite=overwrite) as out:
            write_json(out / "graph.json", payload)
            write_json(out / "graph-metadata.json", {"graphs": [payload["metadata"]]})
            if page:
                write_text(out / "graph.html", page)

    def _card(self) -> Card:
        latents, kept, best = len(self.activations), self.pruning.sources, "1 is a graph without errors"
        shown = [f"{text!r} {p:.3f}" for text, p in zip(self.targets, self.probabilities.tolist(), strict=True)]
        errors = int(kept[latents : -len(self.tokens)].sum())
        rows: list[tuple[object, ...]] = [
            ("logits", shown),
            ("active latents", latents),
            ("kept", f"{int(kept[:latents].sum())} latents, {errors} errors, {int(self.pruning.edges.sum())} edges"),
            ("replacement", self.pruning.replacement, best),
            ("completeness", self.pruning.completeness, best),
            ("errors' share of influence", self.pruning.error_share, "0 is a graph without errors"),
        ]
        if self.effects is not None:
            rows.append(("r with ablations", self.effects.correlation, "1 is a graph that predicts them"))
        return "".join(self.tokens), rows


def _label(latent: int, page: Feature) -> str:
    """What a latent is called: as someone says, or by the different tokens that it is most active on."""
    tokens = [f'"{token}"' for token in dict.fromkeys(token for token, _ in page.top_tokens)]
    return page.label or (f"{latent} on {', '.join(tokens[:3])}" if tokens else "")


def _example(snippet: Snippet) -> dict[str, Any]:
    """A snippet under the names of Neuronpedia's features, with few tokens before its peak."""
    first = max(0, snippet.peak - _BEFORE)
    return {"tokens": snippet.tokens[first:], "tokens_acts_list": snippet.activations[first:]}


def _edits(coder: SparseAutoencoder, latents: list[int], scale: float) -> list[tuple[str, Suppress]]:
    """Edits of some latents. Where latents do not depend on each other, they hold these alone, per site written."""
    if coder.threshold is None:
        if len(coder.reads) == len(coder.writes) == 1:
            return [(coder.writes[0].site, Suppress(coder, latents, scale))]
        raise InterpError(f"{coder} ranks the latents of all layers together, so no recipe holds some; use thresholds")
    edits, size = list[tuple[str, Suppress]](), coder.d_sae // len(coder.reads)
    for group, read in enumerate(coder.reads):
        here = [latent for latent in latents if latent // size == group]
        blocks = coder.W_dec[here].split([place.width for place in coder.writes], dim=1)
        for written, rows in zip(coder.writes, blocks, strict=True):
            if rows.any():
                parts: dict[str, Any] = {name: getattr(coder, name)[here] for name in ("W_enc", "b_enc", "threshold")}
                parts |= {"W_dec": rows.contiguous(), "b_dec": torch.zeros(written.width), "W_skip": None}
                part = replace(coder, reads=(read,), writes=(written,), config=None, metrics=None, **parts)
                edits.append((written.site, Suppress(part, list(range(len(here))), scale)))
    return edits
