"""Peers of `encoder.py`: a stock ONNX export and CTranslate2, both without a prompt, and transformers itself.

A `Reader` returns the last hidden states of padded token ids.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

# Heavy libraries are imported where they are used: bulk reading runs in processes that do without.

#: Maps token ids and mask, each ``(rows, tokens)``, to hidden states ``(rows, tokens, d)``.
Reader = Callable[[np.ndarray, np.ndarray], np.ndarray]

_CPU = ["CPUExecutionProvider"]


@dataclass(frozen=True)
class Peers:
    """The files of the peers of one backbone."""

    source: Path
    """Folder of the model as transformers saves it."""
    place: Path
    """Folder with the stock graphs and CTranslate2's model."""

    def stock(self, precision: str, threads: int) -> Reader:
        """Open the stock export in ONNX Runtime, with its own optimizations."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(str(self.place / f"{precision}.onnx"), options, providers=_CPU)
        names = [value.name for value in session.get_inputs()]

        def read(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            feeds = dict(zip(names, (ids, mask, np.zeros_like(ids)), strict=True))
            return np.asarray(session.run(None, feeds)[0])

        return read

    def ctranslate2(self, precision: str, threads: int) -> Reader:
        """Open CTranslate2's model. Raises ImportError where it is not installed."""
        import ctranslate2

        encoder = ctranslate2.Encoder(
            str(self.place / f"ct2-{precision}"), compute_type=precision, intra_threads=threads, inter_threads=1
        )

        def read(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            view = ctranslate2.StorageView
            lengths = mask.sum(1).astype(np.int32)
            states = encoder.forward_batch(view.from_array(ids.astype(np.int32)), view.from_array(lengths))
            return np.asarray(states.last_hidden_state)

        return read

    def torch(self, threads: int) -> Reader:
        """Run transformers' model in PyTorch."""
        import torch
        from transformers import AutoModel

        model = AutoModel.from_pretrained(self.source, trust_remote_code=False).eval()
        torch.set_num_threads(threads)

        @torch.inference_mode()
        def read(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            states = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
            return np.asarray(states.last_hidden_state.numpy())

        return read


def make_peers(backbone: str, place: Path) -> Peers:
    """Export a backbone as common tools do, and convert it for CTranslate2 where that is installed."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    from mpt_edge.training.backbones.locating import locate_model
    from mpt_edge_export.graph import quiet

    peers = Peers(locate_model(backbone).folder, place)
    model = AutoModel.from_pretrained(peers.source, trust_remote_code=False, attn_implementation="eager").eval()
    tokens = torch.ones(2, 5, dtype=torch.long)
    auto = torch.export.Dim.AUTO
    with quiet(), warnings.catch_warnings(), torch.no_grad():
        torch.onnx.export(
            model, (), kwargs={"input_ids": tokens, "attention_mask": tokens, "token_type_ids": tokens * 0},
            f=place / "float32.onnx", dynamo=True, external_data=False, verbose=False,
            dynamic_shapes={key: {0: auto, 1: auto} for key in ("input_ids", "attention_mask", "token_type_ids")},
        )  # fmt: skip
        quantize_dynamic(
            place / "float32.onnx", place / "int8.onnx", op_types_to_quantize=["MatMul", "Gather"], per_channel=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError:
        return peers
    for precision in ("float32", "int8"):
        converter = TransformersConverter(str(peers.source))
        converter.convert(str(place / f"ct2-{precision}"), quantization=precision, force=True)
    return peers


def read_in_bulk(read: Reader, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Return the mean states of texts, which are read in batches of 32 that are sorted by length."""
    encoded = tokenizer.encode_batch_fast(list(texts))
    pooled = np.empty((len(texts), 0), np.float32)
    for rows in _batches([len(text.ids) for text in encoded]):
        width = max(len(encoded[i].ids) for i in rows)
        ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
        for k, i in enumerate(rows):
            count = len(encoded[i].ids)
            ids[k, :count], mask[k, :count] = encoded[i].ids, 1
        states = read(ids, mask)
        if not pooled.shape[1]:
            pooled = np.empty((len(texts), states.shape[2]), np.float32)
        pooled[rows] = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return pooled


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    for start in range(0, len(order), 32):
        yield order[start : start + 32]


def main(kind: str, place: str, source: str, precision: str, threads: str, texts: str) -> None:
    """Read the texts of a file in bulk as a peer does."""
    peers = Peers(Path(source), Path(place))
    read = (peers.stock if kind == "stock" else peers.ctranslate2)(precision, int(threads))
    tokenizer = Tokenizer.from_file(str(peers.source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    read_in_bulk(read, tokenizer, json.loads(Path(texts).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(*sys.argv[1:])
