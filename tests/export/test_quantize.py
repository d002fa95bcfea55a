"""Quantized graphs: distance from PyTorch, parts in float32, and bundles with one precision or several."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import mpt_edge
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.bundle import Bundle
from mpt_edge.formats.bundle_reader import graph_names, weights_name
from mpt_edge.formats.manifest import Family, Precision
from mpt_edge.formats.placement import PromptPosition
from mpt_edge.formats.prompts import compose
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.session import SessionOptions, open_session
from mpt_edge.inference.text import Batch
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.backbones.encoder_backbone import EncoderBackbone
from mpt_edge_export import ExportPlan, export_bundle, quantized_parity
from mpt_edge_export.causal_graph import export_causal_graph
from mpt_edge_export.dimensions import causal_dimensions
from mpt_edge_export.quantize import quantize
from mpt_edge_export.quantized_parity import Comparison
from mpt_edge_export.weights import save_graph
from tests.support import commands
from tests.support.manifests import graph_manifest

GRAPHS = {precision: graph_names(Family.ENCODER, precision)[0] for precision in (Precision.FLOAT32, Precision.INT8)}
TEXTS = ["a witty film", "the ball game", "a dull, bad movie and a good star"]


@pytest.fixture(scope="module")
def exported(tiny_folder: Path, tiny_vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> commands.Result:
    """Export a bundle with a graph in each precision, by the command."""
    output = tmp_path_factory.mktemp("bundles") / "both"
    return commands.run_here(
        "export", tiny_folder, "--vectors", tiny_vectors, "--output", output, "--precision", "both"
    )


@pytest.fixture(scope="module")
def both(exported: commands.Result) -> Path:
    """Return that bundle. Do not change it; copy it."""
    assert exported.returncode == 0, exported.stderr
    return Path(exported.stdout.partition(": ")[0])


def int8_weights(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    values = {value.name: value for value in graph.initializer}
    types = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)  # of products, and of lookups
    return {name: numpy_helper.to_array(v) for name, v in values.items() if v.data_type in types}


def test_int8_embeddings_are_near_those_of_pytorch(both: Path, tiny: EncoderBackbone) -> None:
    bundle = Bundle.open(both)
    assert bundle.precisions == ["float32", "int8"]
    task, shared = bundle.task("topic"), bundle.prompt("mpt")
    prompt = torch.from_numpy(compose(shared.values, task.u, task.v))[None]
    result = mpt_edge.load(both, precision="int8", threads=1).task("topic").embed(TEXTS)
    for text, state in zip(TEXTS, result, strict=True):
        row = tiny.texts.encode([text], 16)[0]
        ids, types = torch.tensor([row.ids]), torch.tensor([row.types])
        with torch.no_grad():
            past = tiny.model.encode_prompt(prompt)
            mask = torch.ones(1, 6 + len(row.ids), dtype=torch.long)
            hidden, _ = tiny.model(ids, mask, types, past=past)
        expected = hidden[0].mean(0).numpy()
        cosine = float(state @ expected / np.linalg.norm(state) / np.linalg.norm(expected))
        assert 0.97 < cosine < 0.9999999  # near, but not the float32 graph


def test_each_channel_of_weights_has_a_scale(both: Path, tiny: EncoderBackbone) -> None:
    """Each int8 weight times its channel's scale is the float32 weight, to half a step."""
    graph = onnx.load(both / GRAPHS["int8"]).graph
    weights = int8_weights(graph)
    scales = {v.name: numpy_helper.to_array(v) for v in graph.initializer if v.name.endswith("_scale")}
    expected = {tuple(p.shape[::-1]): [] for p in tiny.model.parameters() if p.ndim == 2}
    for parameter in tiny.model.parameters():
        if parameter.ndim == 2:
            expected[tuple(parameter.shape[::-1])].append(parameter.detach().numpy().T)
    for layer in tiny.model.model.encoder.layer:
        own = layer.attention.self
        merged = torch.cat([own.query.weight, own.key.weight, own.value.weight]).detach().numpy().T
        expected.setdefault(merged.shape, []).append(merged)
    products = {name: w for name, w in weights.items() if w.ndim == 2 and w.shape in expected and w.shape[1] != 100}
    matched = 0
    for name, weight in products.items():
        scale = scales[name.replace("_quantized", "_scale")]
        if scale.ndim == 1 and len(scale) == weight.shape[1]:
            restored = weight * scale
            matched += any((np.abs(restored - one) <= scale * 0.51).all() for one in expected[weight.shape])
    assert matched == 2 * 4  # query, key and value in one, output of attention, two of the feed-forward part, twice


def test_manifest_states_files_and_parity(both: Path) -> None:
    manifest = json.loads((both / "bundle.json").read_text())
    assert set(manifest["files"]) >= set(GRAPHS.values())
    assert 0.9 <= manifest["parity"]["int8"]["min_cosine"] < 1
    assert manifest["parity"]["int8"]["texts"] == 3 * 8
    assert manifest["parity"]["max_abs_difference"] < 1e-4
    sizes = [manifest["files"][weights_name(precision)]["size"] for precision in GRAPHS]
    assert sizes[1] < sizes[0]


def test_float32_is_the_default(both: Path, tiny_bundle: Path) -> None:
    expected = mpt_edge.load(tiny_bundle, threads=1).task("topic")(TEXTS)
    assert mpt_edge.load(both, threads=1).task("topic")(TEXTS) == expected
    assert mpt_edge.load(both, precision="int8", threads=1).task("topic")(TEXTS) != expected


def test_bundle_of_int8_alone(
    tiny: EncoderBackbone, tiny_vectors: Path, both: Path, tmp_path: Path, quick: None
) -> None:
    export_bundle(ExportPlan(tiny, [tiny_vectors], tmp_path / "small", precisions=[Precision.INT8]))
    names = {"model_quantized.onnx", "model_quantized.onnx_data"}
    assert {path.name for path in (tmp_path / "small/onnx").iterdir()} == names
    result = mpt_edge.load(tmp_path / "small", threads=1).task("topic")(TEXTS)
    assert result == mpt_edge.load(both, precision="int8", threads=1).task("topic")(TEXTS)
    with pytest.raises(InputError, match="has no float32 graph, only int8; choose one, or export again"):
        mpt_edge.load(tmp_path / "small", precision="float32")


def test_missing_precision(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="has no int8 graph, only float32; choose one, or export again"):
        mpt_edge.load(tiny_bundle, precision="int8")
    with pytest.raises(InputError, match="has no int4 graph, only float32; choose one, or export again"):
        mpt_edge.load(tiny_bundle, precision="int4")
    with pytest.raises(InputError, match="has no int2 graph, only float32; choose one, or export again"):
        mpt_edge.load(tiny_bundle, precision="int2")


def test_only_the_graph_in_use_is_checked(both: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "both"))
    data = bytearray((folder / GRAPHS["int8"]).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / GRAPHS["int8"]).write_bytes(data)
    assert mpt_edge.load(folder, threads=1).task("topic")("ball").label
    with pytest.raises(CorruptFileError, match=r"model_quantized\.onnx is damaged"):
        mpt_edge.load(folder, precision="int8")


def test_numbers_are_those_of_onnx_runtime(tmp_path: Path) -> None:
    """ONNX Runtime's own tool gives the same weights, scales and answers, of a graph whose tables are untied."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    model = PromptedCausal(LlamaForCausalLM(config))
    with torch.no_grad():
        model.model.model.layers[0].mlp.up_proj.weight[3] = 0  # a channel without a scale
    size = causal_dimensions(model)
    export_causal_graph(model, size, PromptPosition.FIRST_LAYER, tmp_path / "model.onnx")
    save_graph(quantize(tmp_path / "model.onnx"), tmp_path / "small.onnx")
    quantize_dynamic(
        tmp_path / "model.onnx", tmp_path / "reference.onnx", op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True, weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )  # fmt: skip
    ours, theirs = (onnx.load(tmp_path / name).graph for name in ("small.onnx", "reference.onnx"))
    values, expected = ({v.name: numpy_helper.to_array(v) for v in graph.initializer} for graph in (ours, theirs))
    assert values.keys() == expected.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert sorted(node.op_type for node in ours.node) == sorted(node.op_type for node in theirs.node)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_are_quantized_twice(tmp_path: Path, tied: bool) -> None:
    """Rows of the table have scales for lookups, columns of the head scales for products."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.3,
    )  # fmt: skip
    model = PromptedCausal(LlamaForCausalLM(config))
    size = causal_dimensions(model)
    export_causal_graph(model, size, PromptPosition.FIRST_LAYER, tmp_path / "model.onnx")
    save_graph(quantize(tmp_path / "model.onnx"), tmp_path / "small.onnx")
    graph = onnx.load(tmp_path / "small.onnx").graph
    shapes = [weights.shape for weights in int8_weights(graph).values()]
    assert shapes.count((2000, 32)) == shapes.count((32, 2000)) == 1
    tables = [value for value in graph.initializer if len(value.dims) == 2 and 2000 in value.dims]
    assert onnx.TensorProto.FLOAT not in [value.data_type for value in tables]
    graphs = [
        OnnxCausal(tmp_path / name, graph_manifest(size), SessionOptions(threads=1))
        for name in ("model.onnx", "small.onnx")
    ]
    prompt = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    manifest = graph_manifest(size, max_length=32)
    result = Comparison(Precision.INT8, *graphs, vocabulary=2000, manifest=manifest).measure([prompt])
    assert 0.9 <= result["min_cosine"] < 1
    assert 0.5 < result["equal_next_tokens"] <= 1
    assert 0 < result["mean_divergence"] < 0.5


def test_t5_in_int8(tmp_path: Path, tiny_folder: Path) -> None:
    """Encoder and decoder are quantized; the float32 graphs and their weights are gone."""
    torch.manual_seed(0)
    config = T5Config(vocab_size=100, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_folder / name, tmp_path / "t5" / name)
    result = commands.run_here("export", tmp_path / "t5", "--output", tmp_path / "out", "--precision", "int8")
    assert result.returncode == 0, result.stderr
    names = {"encoder_model_quantized.onnx", "decoder_model_quantized.onnx"}
    assert {path.name for path in (tmp_path / "out/onnx").iterdir()} == names | {"model_quantized.onnx_data"}
    assert all(int8_weights(onnx.load(tmp_path / "out/onnx" / name).graph) for name in names)
    model = mpt_edge.load(tmp_path / "out", threads=1)
    assert [path.name for path in model.bundle.graphs()] == sorted(names, reverse=True)
    parity = Bundle.open(tmp_path / "out").manifest.parity
    assert parity["int8"]["min_cosine"] >= 0.9
    assert parity["cases"] == 2 * 9  # in both layouts


def restored(graph: onnx.GraphProto, node: onnx.NodeProto) -> np.ndarray:
    """Return the weights of a product in blocks, ``(inputs, outputs)``, by the operator's documentation."""
    values = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    sizes = {attribute.name: attribute.i for attribute in node.attribute}
    assert sizes["block_size"] == 32
    weight = np.zeros((sizes["K"], sizes["N"]))
    for (k, n), _ in np.ndenumerate(weight):
        block, place = divmod(k, 32)
        numbers, scale = values[node.input[1]], values[node.input[2]][n, block]
        if sizes["bits"] == 8:
            weight[k, n] = (int(numbers[n, block, place]) - 128) * float(scale)
        else:
            byte, offset = int(numbers[n, block, place // 2]), values[node.input[1].replace("quantized", "offset")]
            weight[k, n] = ((byte >> 4 * (place % 2) & 15) - 8) * float(scale) + float(offset[block, n])
    return weight


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("precision", "width"), [(Precision.INT4, 4), (Precision.INT8, 8)])
def test_blocks_of_a_decoder(tmp_path: Path, tied: bool, precision: Precision, width: int) -> None:
    """The table and the head have eight bits, and the graph answers as PyTorch with these weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=90, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.3,
    )  # fmt: skip
    model = PromptedCausal(LlamaForCausalLM(config))
    size = causal_dimensions(model)
    export_causal_graph(model, size, PromptPosition.FIRST_LAYER, tmp_path / "model.onnx")
    save_graph(quantize(tmp_path / "model.onnx", precision, Family.CAUSAL), tmp_path / "small.onnx")
    graph = onnx.load(tmp_path / "small.onnx").graph
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert not [node for node in graph.node if node.op_type == "MatMul" and "weight" in node.input[1]]
    bits = [{attribute.name: attribute.i for attribute in node.attribute}["bits"] for node in products]
    assert bits == [width] * 7 + [8]
    inner, layer = model.model, model.model.model.layers[0]
    own, mlp = layer.self_attn, layer.mlp
    modules = [own.q_proj, own.k_proj, own.v_proj, own.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    with torch.no_grad():
        for module, node, count in zip([*modules, inner.lm_head], products, bits, strict=True):
            weight, result = module.weight.numpy(), restored(graph, node).T
            assert np.abs(result - weight).max() < (weight.max() - weight.min()) / (2**count - 1)
            module.weight = torch.nn.Parameter(torch.from_numpy(result).float())  # not the table, which may be tied
        ids = torch.randint(0, 90, (1, 9))
        logits = inner(ids).logits[0, -1].numpy()
    written = OnnxCausal(tmp_path / "small.onnx", graph_manifest(size), SessionOptions(threads=1))
    batch = Batch(ids.numpy(), np.ones((1, 9), np.int64), np.zeros((1, 9), np.int64))
    result = written.open(batch, [written.no_past])[1][0]
    assert np.corrcoef(result, logits)[0, 1] > 0.999


def test_one_large_activation_leaves_the_others_their_digits_in_a_decoder(tmp_path: Path) -> None:
    """A decoder's activations have a scale for each block; those of other models have one scale."""
    rng = np.random.default_rng(0)
    weight, row = rng.standard_normal((96, 256)).astype(np.float32), rng.standard_normal((1, 96)).astype(np.float32)
    row[0, 5], weight[5] = 1e3, 0.0  # nothing of it is left in the product
    x, y = (helper.make_tensor_value_info(*each) for each in (("x", 1, ["n", 96]), ("y", 1, ["n", 256])))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10), tmp_path / "g.onnx")
    cosines = {}
    for family in (Family.CAUSAL, Family.ENCODER):
        save_graph(quantize(tmp_path / "g.onnx", Precision.INT8, family), tmp_path / "small.onnx")
        (result,) = open_session(tmp_path / "small.onnx", SessionOptions(threads=1)).run(None, {"x": row})
        expected = (row @ weight)[0]
        cosines[family] = float(result[0] @ expected / np.linalg.norm(result) / np.linalg.norm(expected))
    assert cosines[Family.CAUSAL] > 0.75  # two blocks of three
    assert not cosines[Family.ENCODER] > 0.5


def test_lookups_have_a_scale_for_each_row(tmp_path: Path) -> None:
    """A row of small numbers keeps its digits beside one of large numbers."""
    table = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32) * 10.0 ** np.arange(-3, 3)[:, None]
    table = table.astype(np.float32)
    index, output = (helper.make_tensor_value_info(*each) for each in (("i", 7, ["n"]), ("y", 1, ["n", 8])))
    node = helper.make_node("Gather", ["table", "i"], ["y"])
    graph = helper.make_graph([node], "g", [index], [output], [numpy_helper.from_array(table, "table")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), tmp_path / "m.onnx")
    save_graph(quantize(tmp_path / "m.onnx", Precision.INT4), tmp_path / "small.onnx")
    rows = open_session(tmp_path / "small.onnx").run(["y"], {"i": np.array([5, 0, 3])})[0]
    expected = table[[5, 0, 3]]
    assert (np.abs(rows - expected) <= np.abs(expected).max(1, keepdims=True) / 254 * 1.001).all()
    assert int8_weights(onnx.load(tmp_path / "small.onnx").graph).keys() == {"table_quantized"}


def test_bundle_of_all_precisions(
    tiny: EncoderBackbone, tiny_vectors: Path, both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding to four bits moves normal weights by 7 %, and an untrained model follows each."""
    monkeypatch.setattr(quantized_parity, "MIN_COSINE", 0.7)
    export_bundle(ExportPlan(tiny, [tiny_vectors], tmp_path / "all", precisions=list(Precision)))
    bundle = Bundle.open(tmp_path / "all")
    assert bundle.precisions == ["float32", "int8", "int4"]
    assert (bundle.folder / "onnx/model_q4.onnx_data").exists()
    assert 0.7 <= bundle.manifest.parity["int4"]["min_cosine"] < bundle.manifest.parity["int8"]["min_cosine"]
    answers = [
        mpt_edge.load(tmp_path / "all", precision=each, threads=1).task("topic").embed(TEXTS) for each in Precision
    ]
    cosines = [(answers[0] * each).sum(1) for each in answers[1:]]
    norms = [np.linalg.norm(each, axis=1) for each in answers]
    assert all((cosine / norm / norms[0] > 0.7).all() for cosine, norm in zip(cosines, norms[1:], strict=True))
    assert not np.array_equal(answers[1], answers[2])
    np.testing.assert_array_equal(
        answers[1], mpt_edge.load(both, precision="int8", threads=1).task("topic").embed(TEXTS)
    )


def test_commands(exported: commands.Result, both: Path) -> None:
    assert "int8 against float32: cosine 0.9" in exported.stdout
    result = commands.run_here("run", "-b", both, "--task", "topic", "--precision", "int8", "--json", "atom cell")
    expected = mpt_edge.load(both, precision="int8").task("topic")("atom cell")
    assert json.loads(result.stdout)["label"] == expected.label
    verified = commands.run_here("tasks", "verify", "-b", both, "--precision", "int8")
    assert (verified.returncode, verified.stderr) == (0, "")
    metrics = [
        json.loads(commands.run_here("bench", "-b", both, "--json", "--repeats", 3, *more).stdout)
        for more in ((), ("--precision", "int8"))
    ]
    assert [each["precision"] for each in metrics] == ["float32", "int8"]
    files = [(graph, weights_name(precision)) for precision, graph in GRAPHS.items()]
    sizes = [sum((both / name).stat().st_size for name in pair) for pair in files]
    assert [each["model_bytes"] for each in metrics] == sizes
    refused = commands.run_here("run", "-b", both, "--task", "topic", "--precision", "int2", "atom")
    assert refused.returncode == 2
    assert "'int2'" in refused.stderr
