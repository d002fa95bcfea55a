"""An exported graph's int8 copy, and how far it moves what texts are read as."""

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
from mpt_edge.inference.numerics import pool
from mpt_edge.inference.runtime.causal import OnnxCausal
from mpt_edge.inference.runtime.encoder import OnnxEncoder
from mpt_edge.inference.runtime.seq2seq import OnnxSeq2Seq
from mpt_edge.inference.text import Batch
from mpt_edge_export.graph import quiet

#: Least cosine between what the float32 and the int8 graph make of a text. Real models were above 0.98; a graph below
#: this has lost its weights, not some digits.
MIN_COSINE = 0.9

_ROWS, _TOKENS = 8, 16

#: A graph in ONNX Runtime, beneath tasks.
Graph = OnnxEncoder | OnnxCausal | OnnxSeq2Seq


def quantize(path: Path) -> onnx_ir.Model:
    """Return a graph's copy with int8 weights, a scale for each output channel.

    What they are multiplied with is quantized as it comes (dynamic quantization), so no texts are needed for it.
    An embedding table that is also the head of a model that writes becomes two, each with scales of its own.
    """
    # It advises to prepare the graph first, and what that would do, the export has done.
    with quiet(), tempfile.TemporaryDirectory() as place:
        untied, small = Path(place) / "untied.onnx", Path(place) / "small.onnx"
        model = onnx_ir.load(path)
        _untie(model.graph)
        onnx_ir.save(model, untied, external_data="untied.onnx_data")
        quantize_dynamic(
            untied,
            small,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,  # also what is left of a large model can be more than one file takes
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return onnx_ir.from_proto(onnx.load(small))


def check_quantized(
    exact: Graph,
    quantized: Graph,
    prompts: Sequence[Floats],
    *,
    vocabulary: int,
    pooling: str,
    longest: int = _TOKENS,
) -> dict[str, Any]:
    """Compare what both graphs make of random texts under each prompt.

    Args:
        exact: the float32 graph in ONNX Runtime.
        quantized: its int8 copy.
        prompts: composed prompts of the tasks.
        vocabulary: number of tokens.
        pooling: how an encoder's hidden states become one vector.
        longest: most tokens that a text may have.

    Returns:
        The least cosine between pooled hidden states, or between logits of the next token less their mean, and how
        many texts it was taken over.

    Raises:
        ParityError: it is below `MIN_COSINE`.
    """
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocabulary, (_ROWS, min(_TOKENS, longest)))
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids))
    least = 1.0
    for prompt in prompts:
        a, b = (_read(graph, batch, prompt, pooling) for graph in (exact, quantized))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        least = min(least, float(np.where(np.isfinite(cosines), cosines, -1.0).min()))
    if least < MIN_COSINE:
        raise ParityError(
            f"the int8 graph reads texts unlike the float32 one (cosine {least:.3f}, at least {MIN_COSINE} is "
            "wanted); no bundle was written. Export this backbone with --precision float32."
        )
    return {"min_cosine": round(least, 4), "texts": _ROWS * len(prompts)}


def _read(graph: Graph, batch: Batch, prompt: Floats, pooling: str) -> Floats:
    if isinstance(graph, OnnxEncoder):
        return pool(graph.request(batch, graph.encode_prompt(prompt)), batch.attention_mask, pooling)
    logits = graph.open(batch, [graph.encode_prompt(prompt)])[1]
    centerd: Floats = logits - logits.mean(1, keepdims=True)
    return centerd


def _untie(graph: onnx_ir.Graph) -> None:
    """Give products that read a table turned round, as tied heads do, a weight of their own.

    Only a product with a weight is quantized, and a lookup wants the table's scales another way than a product does.
    """
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Transpose" else None
        if table is None or table.const_value is None:
            continue
        turned = np.ascontiguousarray(table.const_value.numpy().transpose(node.attributes.get_ints("perm")))
        weight = onnx_ir.Value(name=f"{table.name}_turned", const_value=onnx_ir.tensor(turned))
        graph.register_initializer(weight)
        node.outputs[0].replace_all_uses_with(weight)
        graph.remove(node)
