"""The int8 copy of an exported graph, and its comparison with the float32 one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnxruntime.quantization import QuantType, quantize_dynamic

from mpt_edge._arrays import Floats
from mpt_edge.errors import ParityError
from mpt_edge.formats.manifest import Pooling
from mpt_edge.inference.numerics import pool
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.text import Batch
from mpt_edge_export.graph import quiet
from mpt_edge_export.parity import Graph

#: Smallest cosine between float32 and int8 outputs of a text. Real models were above 0.98; a graph below this has lost
#: its weights, not some digits.
MIN_COSINE = 0.9

_ROWS, _TOKENS = 8, 16


def quantize(path: Path) -> onnx_ir.Model:
    """Return a graph's copy with int8 weights, a scale for each output channel.

    Activations are quantized at run time (dynamic quantization), so no texts are needed to calibrate
    them. An embedding table that is also the head of a generative model becomes two, each with its
    own scales.
    """
    # ONNX Runtime advises to prepare the graph first; the export has done that already.
    with quiet(), tempfile.TemporaryDirectory() as folder:
        untied, small = Path(folder) / "untied.onnx", Path(folder) / "small.onnx"
        model = onnx_ir.load(path)
        _untie(model.graph)
        onnx_ir.save(model, untied, external_data="untied.onnx_data")
        quantize_dynamic(
            untied,
            small,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,  # the result of a large model can also be more than one file takes
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return onnx_ir.from_proto(onnx.load(small))


def check_quantized(
    exact: Graph,
    quantized: Graph,
    prompts: Sequence[Floats],
    *,
    vocabulary: int,
    pooling: Pooling | None,
    max_length: int = _TOKENS,
) -> dict[str, Any]:
    """Compare the outputs of both graphs for random texts under each prompt.

    Args:
        exact: the float32 graph in ONNX Runtime.
        quantized: its int8 copy.
        prompts: composed prompts of the tasks.
        vocabulary: number of tokens.
        pooling: pooling of an encoder; None for generative models.
        max_length: maximum length of a text in tokens.

    Returns:
        The smallest cosine and the number of texts. The cosine is that of pooled hidden states, or of
        centered logits of the next token.

    Raises:
        ParityError: the cosine is below `MIN_COSINE`.
    """
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocabulary, (_ROWS, min(_TOKENS, max_length)))
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids))
    smallest = 1.0
    for prompt in prompts:
        a, b = (_outputs(graph, batch, prompt, pooling) for graph in (exact, quantized))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        smallest = min(smallest, float(np.where(np.isfinite(cosines), cosines, -1.0).min()))
    if smallest < MIN_COSINE:
        raise ParityError(
            f"the int8 graph reads texts unlike the float32 one (cosine {smallest:.3f}, at least {MIN_COSINE} is "
            "expected); no bundle was written. Export this backbone with --precision float32."
        )
    return {"min_cosine": round(smallest, 4), "texts": _ROWS * len(prompts)}


def _outputs(graph: Graph, batch: Batch, prompt: Floats, pooling: Pooling | None) -> Floats:
    """Return a vector of each text: its pooled state, or the centered logits of its next token."""
    if isinstance(graph, OnnxEncoder):
        assert pooling is not None
        return pool(graph.request(batch, graph.encode_prompt(prompt)), batch.attention_mask, pooling)
    logits = graph.open(batch, [graph.encode_prompt(prompt)])[1]
    centered: Floats = logits - logits.mean(1, keepdims=True)
    return centered


def _untie(graph: onnx_ir.Graph) -> None:
    """Give products with a transposed table, such as tied heads, a weight of their own.

    Only a product with a weight is quantized, and lookups need other scales of the table than products.
    """
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Transpose" else None
        if table is None or table.const_value is None:
            continue
        transposed = np.ascontiguousarray(table.const_value.numpy().transpose(node.attributes.get_ints("perm")))
        weight = onnx_ir.Value(name=f"{table.name}_transposed", const_value=onnx_ir.tensor(transposed))
        graph.register_initializer(weight)
        node.outputs[0].replace_all_uses_with(weight)
        graph.remove(node)
