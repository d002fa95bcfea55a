"""A GGUF file as a backbone: one file with weights, tokenizer and chat template."""

from __future__ import annotations

from mpt_edge.errors import CorruptFileError
from mpt_edge.inference.text import TextEncoder
from mpt_edge.training.backbones.backbone import origin_fields, weights_fingerprint
from mpt_edge.training.backbones.causal import PromptedCausal
from mpt_edge.training.backbones.chat_template import ChatTemplate
from mpt_edge.training.backbones.generative_backbone import CausalBackbone
from mpt_edge.training.backbones.gguf_config import read_config
from mpt_edge.training.backbones.gguf_file import GgufFile
from mpt_edge.training.backbones.gguf_tokenizer import read_gguf_tokenizer, special_token
from mpt_edge.training.backbones.gguf_weights import read_gguf_model
from mpt_edge.training.backbones.locating import ModelSource

#: Special tokens by transformers' names and GGUF's.
_SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read_gguf(source: ModelSource) -> CausalBackbone:
    """Load a decoder-only model from a file.

    Raises:
        MissingExtraError: the package that reads these files is not installed.
        UnsupportedModelError: its architecture, tokenizer or a type of its weights is not supported.
        CorruptFileError: the file is damaged, or its vocabulary does not fit its weights.
    """
    file = GgufFile.open(source.path)
    config = read_config(file)
    tokenizer_json, pad_id = read_gguf_tokenizer(file)
    ends = tuple(config.eos_token_id or ())
    _check_vocabulary(file, config.vocab_size, (pad_id, *ends))
    texts = TextEncoder(tokenizer_json, pad_id=pad_id, source=f"the vocabulary in {file.path}")
    model = PromptedCausal(read_gguf_model(file, config))
    license = file.value("general.license", str, "") or source.license
    return CausalBackbone(
        **(origin_fields(source) | {"license": license}),
        model=model,
        texts=texts,
        tokenizer_json=tokenizer_json,
        pad_id=pad_id,
        eos_ids=ends,
        max_length=model.max_positions,
        fingerprint=weights_fingerprint(model),
        chat=_chat_template(file),
    )


def _chat_template(file: GgufFile) -> ChatTemplate | None:
    """Return the file's chat template with the special tokens that it may write; None if it has none."""
    source = file.value("tokenizer.chat_template", str, "")
    texts = {name: special_token(file, key) for name, key in _SPECIAL_TOKENS.items()}
    return ChatTemplate(source, {name: text for name, text in texts.items() if text is not None}) if source else None


def _check_vocabulary(file: GgufFile, size: int, special: tuple[int, ...]) -> None:
    """Check that all tokens have an embedding. Raises CorruptFileError."""
    tokens = len(file.entries["tokenizer.ggml.tokens"])
    largest = max(tokens - 1, *special)
    if largest >= size:
        raise CorruptFileError(
            f"{file.path} has token ids up to {largest}, and embeddings for ids 0 to {size - 1}; download the file "
            "again, or use the folder of the model that it was made from."
        )
