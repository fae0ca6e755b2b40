"""Graphs of circuit-tracer, which its own run wrote into files, are the same from `trace_graph` under its rules."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import interp
from interp.attribution import load_transcoders, trace_graph
from interp.models.tokens import Tokens

FOLDER = Path(__file__).parents[1] / "attribution" / "circuit_tracer"


@pytest.fixture(scope="module")
def model():
    return interp.load(FOLDER / "model")


def traced(model, name, rules):
    """Our graph, and theirs: the same transcoders, prompt, logits and thresholds."""
    theirs = load_file(FOLDER / f"{name}.safetensors")
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        thresholds = file.metadata()
    prompt = Tokens(theirs["tokens"][None], torch.ones(1, len(theirs["tokens"]), dtype=torch.bool))
    shares = {f"{part}_share": float(thresholds[f"{part}_threshold"]) for part in ("node", "edge")}
    coders = load_transcoders(FOLDER / name, model)
    return trace_graph(model, coders, prompt, theirs["logits"].tolist(), rules=rules, measure=False, **shares), theirs


def features(graph):
    places = graph.places()[: len(graph.activations)]
    return [[int(place.layer), place.position, place.number] for place in places]


@pytest.mark.parametrize("name", ["plain", "skip", "cross_layer"])
def test_nodes_and_edges_are_those_of_circuit_tracer(model, name):
    graph, theirs = traced(model, name, "circuit-tracer")
    assert features(graph) == theirs["features"].tolist()
    torch.testing.assert_close(graph.activations, theirs["activations"], rtol=0, atol=1e-4)
    torch.testing.assert_close(graph.probabilities, theirs["probabilities"])
    rows = [*range(len(graph.activations)), *range(-len(graph.targets), 0)]
    sources = theirs["adjacency"][rows, : -len(graph.targets)]
    assert sources.abs().max() > 1
    torch.testing.assert_close(graph.edges, sources, rtol=0, atol=1e-4)
    complete, _ = traced(model, name, "complete")
    assert complete.edges.shape[0] != graph.edges.shape[0] or not torch.allclose(complete.edges, sources, atol=1e-2), (
        "the first token's rule decides"
    )


@pytest.mark.parametrize("name", ["plain", "skip", "cross_layer"])
def test_what_is_kept_by_influence_and_the_scores_are_those_of_circuit_tracer(model, name):
    graph, theirs = traced(model, name, "circuit-tracer")
    latents, logits = len(graph.activations), len(graph.targets)
    pruning = graph.pruning
    assert pruning.sources.equal(theirs["node_mask"][:-logits])
    assert 0 < pruning.sources[:latents].sum() < latents
    rows = [*range(latents), *range(-logits, 0)]
    assert pruning.edges.equal(theirs["edge_mask"][rows, :-logits])
    scores = torch.tensor([pruning.replacement, pruning.completeness])
    torch.testing.assert_close(scores, theirs["scores"], rtol=0, atol=1e-5)
    # Shares up to a source differ where sources have the same influence, such as none.
    influential = theirs["influence"][:-logits] < 0.999
    torch.testing.assert_close(pruning.influence[influential], theirs["influence"][:-logits][influential])


def test_the_file_is_the_one_that_circuit_tracer_writes_for_its_frontend(model):
    theirs = json.loads((FOLDER / "plain.json").read_text())
    # The words of this tokenizer have spaces before them in interp, where tokens are texts that join to the prompt.
    text = json.dumps(traced(model, "plain", "circuit-tracer")[0].payload("plain"))
    ours = json.loads(text.replace(" w", "w").replace(" <s>", "<s>"))
    # circuit-tracer 0.5 names the error of layer 1 at position 2 `0_1_2`, a latent's name, and later ones `1_-1_2`.
    names = {
        node["node_id"]: f"{node['layer']}_-1_{node['ctx_idx']}" if node["feature"] == -1 else node["node_id"]
        for node in theirs["nodes"]
    }
    shown = ("layer", "ctx_idx", "feature_type", "feature", "jsNodeId", "clerp", "is_target_logit")
    of_theirs = {names[node["node_id"]]: {key: node[key] for key in shown} for node in theirs["nodes"]}
    of_ours = {node["node_id"]: {key: node.get(key, False) for key in shown} for node in ours["nodes"]}
    assert of_ours == of_theirs
    links = {(names[link["source"]], names[link["target"]]): link["weight"] for link in theirs["links"]}
    our_links = {(link["source"], link["target"]): link["weight"] for link in ours["links"]}
    assert our_links == pytest.approx(links, abs=1e-4)
    assert ours["metadata"]["prompt_tokens"] == theirs["metadata"]["prompt_tokens"]
    assert ours["metadata"].keys() - {"interp"} == theirs["metadata"].keys()
    assert ours["qParams"] == theirs["qParams"]
