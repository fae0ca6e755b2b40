"""Attribution graphs that circuit-tracer itself traces, for the tests that compare ours with them.

    python -m venv traced && traced/bin/pip install circuit-tracer==0.5
    traced/bin/python experiments/circuit_tracer_graphs.py [--out tests/attribution/circuit_tracer]

circuit-tracer needs an older transformers than interp, so it runs in an environment of its own, and this script imports
nothing of interp. It draws a small random Llama and three small random sets of transcoders: one per layer that read the
normalised input of the MLP; the same with skip connections and thresholds; and cross-layer ones that read the residual
stream. Each set is written in circuit-tracer's own files and traced over one prompt. In the folder:

- `model/`: the model and its tokenizer, of words `w3`, `w4`, …
- `plain/`, `skip/`, `cross_layer/`: `config.yaml` and the tensors of the set.
- `plain.safetensors`, …: the graph before pruning. `features` (layer, position, latent), `activations`, `adjacency`
  (rows are targets, columns sources; features, errors, tokens, logits in turn), the tokens and probabilities of the
  `logits`; and what `prune_graph` and `compute_graph_scores` say of it: the masks of nodes and edges at the thresholds,
  the cumulative influence, the replacement and completeness scores.
- `plain.json`: the file for circuit-tracer's frontend of the first.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
import yaml
from circuit_tracer import ReplacementModel, attribute
from circuit_tracer.graph import Graph, compute_graph_scores, prune_graph
from circuit_tracer.transcoder.activation_functions import JumpReLU
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from circuit_tracer.utils.create_graph_files import create_graph_files
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import loading_from_pretrained
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FOLDER = Path(__file__).parents[1] / "tests" / "attribution" / "circuit_tracer"
VOCABULARY, WIDTH, LAYERS, LATENTS = 40, 16, 3, 12
PROMPT = "w5 w9 w17 w5 w30"  # `<s>` is put before it
THRESHOLDS = {"node_threshold": 0.8, "edge_threshold": 0.9}


def write_model(folder: Path) -> None:
    """A Llama with grouped heads, and weights large enough that its predictions differ."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    names = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(3, VOCABULARY))]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def fill(coder: torch.nn.Module) -> None:
    """Weights with which about half of the latents are active.

    The first latents are never: circuit-tracer 0.5 gives its error nodes the ids of those of layer 0.
    """
    draw = torch.Generator().manual_seed(1)
    for name, tensor in coder.state_dict().items():
        scale = {"threshold": 0.2, "b_enc": 0.3, "b_dec": 0.1}.get(name.rsplit(".", 1)[-1], 0.4)
        tensor.copy_(torch.randn(tensor.shape, generator=draw) * scale)
        if name.endswith("threshold"):
            tensor.abs_()
        if name.endswith("b_enc"):
            tensor[..., :LAYERS] = -10


def per_layer(folder: Path, skip: bool) -> TranscoderSet:
    """One transcoder per layer, from the normalised input of the MLP to its output."""
    coders = {}
    for layer in range(LAYERS):
        kind = JumpReLU(torch.zeros(LATENTS), 0.1) if skip else torch.nn.functional.relu
        coders[layer] = SingleLayerTranscoder(
            WIDTH, LATENTS, kind, layer, skip_connection=skip, device=torch.device("cpu"), dtype=torch.float32
        )
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    coder = TranscoderSet(coders, **hooks, scan=folder.name)
    write_config(folder, "transcoder_set", hooks)
    return coder


def cross_layer(folder: Path) -> CrossLayerTranscoder:
    """Transcoders from the residual stream before the MLP to the outputs of its layer and of all later ones."""
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    coder = CrossLayerTranscoder(
        LAYERS, LATENTS, WIDTH, "jump_relu", lazy_decoder=False, scan=folder.name,
        device=torch.device("cpu"), dtype=torch.float32, **hooks,
    )  # fmt: skip
    write_config(folder, "cross_layer_transcoder", hooks)
    return coder


def write_config(folder: Path, kind: str, hooks: dict[str, str]) -> None:
    """The settings of a set, as circuit-tracer reads them."""
    folder.mkdir(parents=True)
    config = {"model_name": "model", "model_kind": kind, **hooks}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def write_graph(graph: Graph, path: Path) -> None:
    """The tensors of a graph and of its pruning."""
    pruned = prune_graph(graph, **THRESHOLDS)
    tensors = {
        "tokens": graph.input_tokens,
        "features": graph.active_features[graph.selected_features],
        "activations": graph.activation_values[graph.selected_features],
        "adjacency": graph.adjacency_matrix,
        "logits": graph.logit_token_ids,
        "probabilities": graph.logit_probabilities,
        "scores": torch.tensor(compute_graph_scores(graph)),
        "node_mask": pruned.node_mask,
        "edge_mask": pruned.edge_mask,
        "influence": pruned.cumulative_scores,
    }
    notes = {"prompt": PROMPT} | {name: str(value) for name, value in THRESHOLDS.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, notes)


def main() -> None:
    """Write the folder anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    folder = parser.parse_args().out
    shutil.rmtree(folder, ignore_errors=True)
    write_model(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    # TransformerLens reads a model's folder, but first looks its name up among those that it knows.
    loading_from_pretrained.get_official_model_name = str
    for name in ("plain", "skip", "cross_layer"):
        torch.manual_seed(1)
        coder = cross_layer(folder / name) if name == "cross_layer" else per_layer(folder / name, name == "skip")
        fill(coder)
        coder.to_safetensors(str(folder / name))
        model = ReplacementModel.from_pretrained_and_transcoders(
            str(folder / "model"), coder, tokenizer=tokenizer, device=torch.device("cpu"), dtype=torch.float32
        )
        graph = attribute(PROMPT, model, max_n_logits=4, desired_logit_prob=0.95)
        print(name, f"{len(graph.selected_features)} features, {int((graph.adjacency_matrix != 0).sum())} edges")
        write_graph(graph, folder / f"{name}.safetensors")
        if name == "plain":
            create_graph_files(graph, name, str(folder), **THRESHOLDS)
            text = json.loads((folder / f"{name}.json").read_text())
            (folder / f"{name}.json").write_text(json.dumps(text) + "\n")
            (folder / "graph-metadata.json").unlink()


if __name__ == "__main__":
    main()
