"""An exported graph's int8 copy, and how far it moves what texts are read as."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from mpt_edge.backbone import Floats, OnnxBackbone
from mpt_edge.causal import OnnxCausal
from mpt_edge.errors import ParityError
from mpt_edge.readout import pool
from mpt_edge.seq2seq import OnnxSeq2Seq
from mpt_edge.text import Batch

#: Least cosine between what the float32 and the int8 graph make of a text. Real models were above 0.98; a graph below
#: this has lost its weights, not some digits.
LEAST_COSINE = 0.9

_ROWS, _TOKENS = 8, 16

#: Above this, what is left after a quarter could still be more than one file may hold (2 GiB).
_LARGEST = 4 << 30


#: A graph in ONNX Runtime, beneath tasks.
Graph = OnnxBackbone | OnnxCausal | OnnxSeq2Seq


def quantize(path: Path, output: Path) -> None:
    """Write a graph's copy with int8 weights, a scale for each output channel.

    What they are multiplied with is quantised as it comes (dynamic quantisation), so no texts are needed for it.
    An embedding table that is also the head of a model that writes stays in float32, since it is transposed there.

    Args:
        path: the float32 graph.
        output: where its copy goes; where it is large, its weights go beside it.
    """
    large = sum(file.stat().st_size for file in (path, *path.parent.glob("*.onnx_data"))) > _LARGEST
    with _quietly():
        quantize_dynamic(
            path,
            output,
            op_types_to_quantize=["MatMul", "Gather"],
            nodes_to_exclude=_tied_tables(onnx.load(path, load_external_data=False).graph),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    if large:  # ONNX Runtime names the file of weights otherwise than the rest of the field
        model = onnx.load(output)
        output.with_name(f"{output.name}.data").unlink()
        onnx.save(model, output, save_as_external_data=True, location=f"{output.name}_data")


def check_quantized(
    exact: Graph,
    quantized: Graph,
    prompts: Sequence[Floats],
    *,
    vocabulary: int,
    pooling: str,
) -> dict[str, Any]:
    """Compare what both graphs make of random texts under each prompt.

    Args:
        exact: the float32 graph in ONNX Runtime.
        quantized: its int8 copy.
        prompts: composed prompts of the tasks.
        vocabulary: number of tokens.
        pooling: how an encoder's hidden states become one vector.

    Returns:
        The least cosine between pooled hidden states, or between logits of the next token less their mean, and how
        many texts it was taken over.

    Raises:
        ParityError: it is below `LEAST_COSINE`.
    """
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocabulary, (_ROWS, _TOKENS))
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids))
    least = 1.0
    for prompt in prompts:
        a, b = (_read(graph, batch, prompt, pooling) for graph in (exact, quantized))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        least = min(least, float(np.where(np.isfinite(cosines), cosines, -1.0).min()))
    if least < LEAST_COSINE:
        raise ParityError(
            f"the int8 graph reads texts unlike the float32 one (cosine {least:.3f}, at least {LEAST_COSINE} is "
            "wanted); no bundle was written. Export this backbone with --precision float32."
        )
    return {"least_cosine": round(least, 4), "texts": _ROWS * len(prompts)}


def _read(graph: Graph, batch: Batch, prompt: Floats, pooling: str) -> Floats:
    if isinstance(graph, OnnxBackbone):
        return pool(graph.request(batch, graph.encode_prompt(prompt)), batch.attention_mask, pooling)
    logits = graph.open(batch, [graph.encode_prompt(prompt)])[1]
    centred: Floats = logits - logits.mean(1, keepdims=True)
    return centred


def _tied_tables(graph: onnx.GraphProto) -> list[str]:
    """Return the lookups in tables that something else reads too."""
    users: dict[str, list[onnx.NodeProto]] = {value.name: [] for value in graph.initializer}
    for node in graph.node:
        for name in node.input:
            if name in users:
                users[name].append(node)
    return [
        node.name
        for nodes in users.values()
        if any(other.op_type not in ("Gather", "Slice") for other in nodes)
        for node in nodes
        if node.op_type == "Gather"
    ]


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep back the advice to prepare the graph first: what it prepares, the export has done."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
