"""The page of an attribution graph: layers by positions, one HTML file that makes no network requests.

Nodes are pinned and grouped into supernodes. A node is shown with its label, its inputs and outputs, the tokens on
which it is most active, and its measured effect beside the predicted one. The strongest links are drawn; the page says
how many are not. It is used with a mouse, a finger, or the keyboard alone.

It reads the JSON of circuit-tracer (Hanna et al. 2025; the schema of its frontend and of Neuronpedia), so graphs from
there have this page too, without the fields that only interp writes.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from interp.core.config import Config
from interp.core.display import clipped
from interp.core.errors import InterpError, nearest, printable
from interp.views._page import rendered_page, visible

_KINDS = {
    "cross layer transcoder": "latent", "mlp reconstruction error": "error", "embedding": "token", "logit": "output",
}  # fmt: skip
_SCORES = {
    "replacement_score": (
        "replacement",
        "share of the influence on the outputs that starts at tokens, not errors",
    ),
    "completeness_score": ("completeness", "of the inputs of nodes, weighted by influence, the share that is no error"),
    "error_share": ("error share", "of the influence on the outputs, the share of error nodes"),
    "correlation": ("correlation", "of the measured effects of latents and errors with those that the graph predicts"),
    "embedding_correlation": ("correlation of tokens", "the same of the effects of embeddings"),
}
_Text = Annotated[str, AfterValidator(lambda text: printable(visible(text)))]


class _Schema(Config):
    model_config = ConfigDict(extra="ignore", strict=False, allow_inf_nan=False)


class _Example(_Schema):
    tokens: tuple[_Text, ...]
    tokens_acts_list: tuple[float, ...]


class _Node(_Schema):
    node_id: str
    layer: str = Field(pattern=r"^(E|\d{1,4})$")
    ctx_idx: int = Field(ge=0)
    feature_type: Literal["cross layer transcoder", "mlp reconstruction error", "embedding", "logit"]
    clerp: _Text = ""
    activation: float | None = None
    influence: float | None = None
    measured: float | None = None
    predicted: float | None = None
    top_tokens: tuple[tuple[_Text, float], ...] = ()
    examples: tuple[_Example, ...] = ()

    @property
    def texts(self) -> list[list[tuple[str, float]]]:
        """Tokens and activations of the texts on which it is most active; where there is no text, of single tokens."""
        texts = [list(zip(x.tokens, x.tokens_acts_list, strict=False)) for x in self.examples]
        return texts or [[pair] for pair in self.top_tokens]

    @property
    def row(self) -> int:
        """Its layer; -1 for the embeddings."""
        return -1 if self.layer == "E" else int(self.layer)


class _Link(_Schema):
    source: str
    target: str
    weight: float


class _Scores(_Schema):
    replacement_score: float | None = None
    completeness_score: float | None = None
    error_share: float | None = None
    correlation: float | None = None
    embedding_correlation: float | None = None


class _Metadata(_Schema):
    slug: _Text
    scan: _Text | None = ""
    transcoder_list: tuple[_Text, ...] | None = ()
    prompt_tokens: list[_Text]
    interp: _Scores = _Scores()


class _Choices(_Schema):
    pinnedIds: tuple[str, ...] = ()
    supernodes: tuple[tuple[str, ...], ...] = ()
    clickedId: str | None = None


class _Graph(_Schema):
    metadata: _Metadata
    nodes: list[_Node]
    links: list[_Link]
    qParams: _Choices = _Choices()


def graph_page(payload: Mapping[str, Any], *, labels: Mapping[str, str] = {}) -> str:
    """The page of an attribution graph, as the text of one HTML file.

    Args:
        payload: The graph: `AttributionGraph.payload()`, or what circuit-tracer or Neuronpedia wrote, read from JSON.
        labels: What nodes are called, by `node_id`. The others have the label in the payload, or their number.

    Returns:
        The page. It is the same for the same graph.

    Raises:
        InterpError: The payload lacks a field or has a wrong one; a label or a link names a node that is not there.

    Example:
        >>> from interp.views import graph_page
        >>> token = {"node_id": "E_5_0", "layer": "E", "ctx_idx": 0, "feature_type": "embedding"}
        >>> latent = {"node_id": "0_7_0", "layer": "0", "ctx_idx": 0, "feature_type": "cross layer transcoder"}
        >>> link = {"source": "E_5_0", "target": "0_7_0", "weight": 1.5}
        >>> metadata = {"slug": "rivers", "prompt_tokens": ["The"]}
        >>> payload = {"metadata": metadata, "nodes": [token, latent], "links": [link]}
        >>> page = graph_page(payload, labels={"0_7_0": "water"})
        >>> "rivers" in page and "water" in page
        True
    """
    graph = _Graph.parse(dict(payload), source="payload")
    numbers = {node.node_id: number for number, node in enumerate(graph.nodes)}
    _check(graph, numbers, labels)
    links = sorted(graph.links, key=lambda link: -abs(link.weight))
    rows = sorted({node.row for node in graph.nodes})
    outputs = {node.row for node in graph.nodes if node.feature_type == "logit"}
    choices = graph.qParams
    data = {
        "tokens": graph.metadata.prompt_tokens,
        "rows": ["tokens" if row == -1 else "output" if row in outputs else f"layer {row}" for row in rows],
        "nodes": [_node(node, graph, rows, labels) for node in graph.nodes],
        "links": [(numbers[link.source], numbers[link.target], float(f"{link.weight:.4g}")) for link in links],
        "pinned": [name for name in choices.pinnedIds if name in numbers],
        "clicked": choices.clickedId,
        "groups": [[printable(name), *members] for name, *members in filter(None, choices.supernodes)],
    }
    scores = [(*_SCORES[name], value) for name, value in graph.metadata.interp if value is not None]
    title = clipped("".join(graph.metadata.prompt_tokens), 80)
    return rendered_page("graph.html.j2", title=title, metadata=graph.metadata, scores=scores, data=data)


def _node(node: _Node, graph: _Graph, rows: list[int], labels: Mapping[str, str]) -> dict[str, Any]:
    kind = _KINDS[node.feature_type]
    names = {"latent": node.node_id.split("_")[1:2], "token": [f'"{graph.metadata.prompt_tokens[node.ctx_idx]}"']}
    label = labels.get(node.node_id) or node.clerp or " ".join([kind, *names.get(kind, [])])
    values = node.model_dump(include={"activation", "influence", "measured", "predicted"})
    place = {"id": node.node_id, "kind": kind, "row": rows.index(node.row), "position": node.ctx_idx}
    return place | {"label": printable(visible(label)), "top": node.texts} | values


def _check(graph: _Graph, numbers: Mapping[str, int], labels: Mapping[str, str]) -> None:
    """Raises where ids are not one node's each, or name none."""
    if not graph.nodes:
        raise InterpError("payload: nodes is empty; expected at least one node, so trace a longer prompt or keep more")
    tokens = len(graph.metadata.prompt_tokens)
    for name, count in Counter(node.node_id for node in graph.nodes).items():
        if count > 1:
            raise InterpError(
                f"payload: {count} nodes have the id {name!r}, so a link to it is ambiguous; circuit-tracer up to 0.5 "
                f"gives error nodes the ids of latents of layer 0, so trace the graph with interp"
            )
    for node in graph.nodes:
        if node.ctx_idx >= tokens:
            problem = f"node {node.node_id!r} is at position {node.ctx_idx}, of {tokens} prompt_tokens"
            raise InterpError(f"payload: {problem}; a position is a number from 0 on")
    if wrong := [name for name in labels if not isinstance(name, str)]:
        example = f"expected a text such as {graph.nodes[0].node_id!r}"
        raise InterpError(f"labels: {wrong[0]!r} is not the id of a node; {example}")
    named = [("labels", name) for name in labels]
    for link in graph.links:
        named += [(f"payload: the link {link.source} to {link.target}", name) for name in (link.source, link.target)]
    for place, name in named:
        if name not in numbers:
            raise InterpError(f"{place}: no node has the id {name!r}; {nearest(name, numbers)}")
