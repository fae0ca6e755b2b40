"""The record of a graph: what is kept, its files, and recipes of its nodes."""

import json
from dataclasses import replace

import pytest
import torch
from sae_samples import autoencoder
from transcoder_sets import cross_layer, per_layer

from interp import InterpError
from interp.attribution import trace_graph
from interp.features import FeatureLabel, ScanOptions, scan

IDS = [5, 9, 77, 12, 30, 8]


@pytest.fixture(scope="module")
def traced(tiny):
    model = tiny("llama")
    return model, trace_graph(model, per_layer(model), [IDS], [7, 50])


def influence(edges, weights):
    """By the inverse of the whole matrix: w (N + N^2 + ...) = w ((I - N)^-1 - I)."""
    nodes, sources = edges.shape
    latents = nodes - len(weights)
    whole = torch.zeros(sources + len(weights), sources + len(weights), dtype=torch.float64)
    whole[:latents, :sources], whole[sources:, :sources] = edges[:latents], edges[latents:]
    normal = whole.abs() / whole.abs().sum(1, keepdim=True).clamp(min=1e-10)
    start = torch.zeros(len(whole), dtype=torch.float64)
    start[sources:] = weights
    total = start @ torch.linalg.inv(torch.eye(len(whole), dtype=torch.float64) - normal)
    return normal, total - start, total


def test_nodes_are_kept_by_influence_and_scores_are_its_shares(traced):
    _, graph = traced
    latents, sources = len(graph.activations), graph.edges.shape[1]
    normal, total, output = influence(graph.edges.double(), graph.probabilities.double())
    errors, embeddings = total[latents : sources - 6].sum(), total[sources - 6 : sources].sum()
    assert graph.pruning.replacement == pytest.approx(float(embeddings / (embeddings + errors)), abs=1e-5)
    assert graph.pruning.error_share == pytest.approx(float(errors / total.sum()), abs=1e-5)
    complete = (1 - normal[:, latents : sources - 6].sum(1)) * output
    assert graph.pruning.completeness == pytest.approx(float(complete.sum() / output.sum()), abs=1e-5)
    order = total[:sources].argsort(descending=True)
    share = total[order].cumsum(0) / total.sum()
    torch.testing.assert_close(graph.pruning.influence[order].double(), share, atol=1e-5, rtol=0)
    weak = graph.pruning.influence > 0.8 + float(total[order][0] / total.sum())
    assert not graph.pruning.sources[: sources - 6][weak[: sources - 6]].any()


def test_what_is_kept_leads_from_something_to_a_logit(traced):
    _, graph = traced
    for pruned in (graph, graph.prune(0.5, 0.9), graph.prune(1.0, 1.0)):
        kept, edges, latents = pruned.pruning.sources, pruned.pruning.edges, len(graph.activations)
        assert kept[-6:].all()
        assert (edges.any(0)[:-6] == kept[:-6]).all(), "every source leads on"
        assert edges[:latents].any(1)[kept[:latents]].all(), "something leads to every latent"
        assert not edges[:latents][~kept[:latents]].any()
    with pytest.raises(InterpError, match=r"expected (a number|numbers) above 0"):
        graph.prune(0.0)
    assert int(graph.prune(0.5, 0.9).pruning.sources.sum()) < int(graph.pruning.sources.sum())
    assert int(graph.prune(1.0, 1.0).pruning.edges.sum()) > 3 * int(graph.pruning.edges.sum())


def test_the_payload_has_the_fields_of_circuit_tracers_files(traced):
    _, graph = traced
    payload = json.loads(json.dumps(graph.payload("two words")))
    nodes = {node["node_id"]: node for node in payload["nodes"]}
    assert len(nodes) == len(payload["nodes"]) == int(graph.pruning.sources.sum()) + 2
    assert payload["metadata"]["prompt_tokens"] == [f" w{token}" for token in IDS]
    assert {"slug", "scan", "prompt", "schema_version", "node_threshold"} < set(payload["metadata"])
    assert set(payload["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    kinds = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}
    assert {node["feature_type"] for node in nodes.values()} == kinds
    logit = nodes["4_7_5"]
    assert (logit["layer"], logit["jsNodeId"], logit["is_target_logit"], logit["feature"]) == ("4", "L_7-5", True, 7)
    assert logit["clerp"].startswith('Output " w7" (p=0.')
    assert nodes["E_77_2"] | {"influence": 0, "measured": 0, "predicted": 0} == {
        "node_id": "E_77_2", "layer": "E", "ctx_idx": 2, "feature_type": "embedding", "feature": 2, "clerp": "",
        "jsNodeId": "E_77-2", "token": " w77", "influence": 0, "measured": 0, "predicted": 0,
    }  # fmt: skip
    weights = {(link["source"], link["target"]): link["weight"] for link in payload["links"]}
    assert len(weights) == int(graph.pruning.edges.sum())
    places = graph.places()
    for row, number in enumerate(graph.effects.sources.tolist()):
        node = nodes[places[number].name]
        assert node["measured"] == pytest.approx(float(graph.effects.measured[row, -2]))
        assert node["predicted"] == pytest.approx(float(graph.effects.predicted[row, -2]))
        if (node["node_id"], "4_7_5") in weights:
            assert weights[node["node_id"], "4_7_5"] == pytest.approx(float(graph.edges[-2, number]))
        if node["feature_type"] == "cross layer transcoder":
            layer, latent, _ = map(int, node["node_id"].split("_"))
            assert node["feature"] == (layer + latent) * (layer + latent + 1) // 2 + latent
            assert node["activation"] == pytest.approx(float(graph.activations[number]))


def test_kept_latents_are_those_of_the_payload(traced):
    _, graph = traced
    nodes = [node for node in graph.payload()["nodes"] if node["feature_type"] == "cross layer transcoder"]
    assert [place.name for place in graph.kept_latents()] == [node["node_id"] for node in nodes]
    for position in range(-6, 6):
        here = [node["node_id"].rpartition("_")[0] for node in nodes if node["ctx_idx"] == position % 6]
        assert [place.latent for place in graph.kept_latents(position)] == here
    assert graph.kept_latents(-1), "control"
    for position in (-7, 6):
        with pytest.raises(InterpError, match=f"position {position} is outside the prompt; expected one from -6 to 5"):
            graph.kept_latents(position)


def test_files_are_written_whole(traced, tmp_path):
    _, graph = traced
    graph.save(tmp_path / "graph", graph.payload("words"), "<p>")
    assert sorted(x.name for x in (tmp_path / "graph").iterdir()) == ["graph-metadata.json", "graph.html", "graph.json"]
    assert json.loads((tmp_path / "graph/graph-metadata.json").read_text())["graphs"][0]["slug"] == "words"
    with pytest.raises(InterpError, match="exists already"):
        graph.save(tmp_path / "graph")
    graph.save(tmp_path / "graph", overwrite=True)


@pytest.mark.parametrize("layered", [False, True])
def test_a_recipe_takes_what_the_latents_write(tiny, layered):
    model = tiny("llama")
    coders = [cross_layer(model)] if layered else per_layer(model)
    graph = trace_graph(model, coders, [IDS], 7, measure=False)
    names = [place.name for place in graph.places()[: len(graph.activations)]]
    first, second = names[3], next(name for name in names if name.startswith("1_"))
    acts = model.capture([IDS], "mlp_input.*", chat=False)
    _, latent, _ = map(int, first.split("_"))
    coder = coders[0]
    read = torch.cat([acts[x.site] for x in coder.reads], -1)
    written = coder.encode(read)[..., [latent]] * coder.W_dec[latent]
    changes = [(f"mlp_out.{n}", lambda x, part=part: x - part) for n, part in enumerate(written.split(32, -1))]
    with model.hooked(changes):
        expected = model.logits([IDS])
    with model.hooked(graph.recipe(first)):
        torch.testing.assert_close(model.logits([IDS]), expected, atol=1e-5, rtol=1e-5)
    assert (expected - model.logits([IDS])).abs().max() > 1e-4, "control"
    assert len(graph.recipe([first, second], scale=0.5).edits) == (5 if layered else 2)
    with pytest.raises(InterpError, match="E_5_0 is no active latent here"):
        graph.recipe("E_5_0")


def test_pages_of_latents_are_labels_and_have_the_activations_of_the_graph(tiny):
    model, text = tiny("llama"), "w5 w9 w77 w12 w30 w8"
    graph = trace_graph(model, cross_layer(model), [[1, *IDS]], [7, 50], measure=False)  # after the corpus' first token
    pages = graph.features(model, iter([text]))
    latents = [node for node in graph.payload("a", pages)["nodes"] if node["feature_type"] == "cross layer transcoder"]
    assert {"_".join(node["node_id"].split("_")[:2]) for node in latents} == pages.keys()
    largest = dict[str, float]()
    for place, value in zip(graph.places(), graph.activations.tolist(), strict=False):
        name = place.name.rpartition("_")[0]
        largest[name] = max(value, largest.get(name, 0.0)) if place.position else largest.get(name, 0.0)
    for node in latents:
        name, number, _ = node["node_id"].split("_")
        (token, value), *_ = node["top_tokens"]
        assert value == pytest.approx(largest[f"{name}_{number}"], abs=1e-4)
        assert node["clerp"].startswith(f'{number} on "{token}"')
        example = node["examples"][0]
        assert (token, value) in zip(example["tokens"], example["tokens_acts_list"], strict=True)
    said = {name: replace(page, label="rivers") for name, page in pages.items()}
    labels = {node["clerp"] for node in graph.payload("a", said)["nodes"] if node["feature_type"].startswith("cross")}
    assert labels == {"rivers"}


def test_a_feature_book_gives_the_same_pages_with_its_labels(tiny, tmp_path):
    model, text = tiny("llama"), "w5 w9 w77 w12 w30 w8"
    coders = cross_layer(model)
    graph = trace_graph(model, coders, [[1, *IDS]], [7, 50], measure=False)
    sizes = {"top": 8, "context": 64}
    (coder,) = graph.transcoders
    book = scan({"clt": coder}, model, tmp_path / "book", ScanOptions(**sizes), texts=[text])
    pages, again = graph.features(model, [text]), graph.book_features(book)
    assert pages.keys() == again.keys()
    assert len(pages) > 1
    for name, page in pages.items():
        assert again[name].latent == page.latent
        assert again[name].density == pytest.approx(page.density)
        assert [token for token, _ in again[name].top_tokens] == [token for token, _ in page.top_tokens]
    name, page = next(iter(again.items()))
    book.labels.add([FeatureLabel(sae="clt", latent=page.latent, text="rivers", rater="ana")])
    assert graph.book_features(book)[name].label == "rivers"
    other = scan(autoencoder(model), model, tmp_path / "other", ScanOptions(**sizes), texts=[text])
    with pytest.raises(InterpError, match="is of none of the graph's transcoders"):
        graph.book_features(other)
