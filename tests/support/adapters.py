"""Adapters that PEFT itself saves for tiny random models."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import MultitaskPromptTuningConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MT5Config,
    PreTrainedModel,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

from tests.support.encoders import save_tokenizer

VIRTUAL = 5
LABELS = 3

_SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_MORE = {"intermediate_size": 48, "max_position_embeddings": 48, "initializer_range": 0.3, "pad_token_id": 0}
CONFIGS = {
    "bert": BertConfig(**_SIZES, **_MORE),
    "distilbert": DistilBertConfig(
        vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=48, initializer_range=0.3
    ),
    "electra": ElectraConfig(**_SIZES, **_MORE, embedding_size=32),
    "roberta": RobertaConfig(**_SIZES, **_MORE, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**_SIZES, **_MORE, type_vocab_size=1),
    "camembert": CamembertConfig(**_SIZES, **_MORE, type_vocab_size=1),
}
_NO_END = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
_ROTARY = _SIZES | _MORE | _NO_END | {"num_key_value_heads": 2, "head_dim": 8}
CAUSAL = {
    "gemma2": Gemma2Config(**_ROTARY, query_pre_attn_scalar=8, sliding_window=12),
    "gpt2": GPT2Config(
        vocab_size=100, n_positions=48, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, **_NO_END
    ),
    "gpt_neo": GPTNeoConfig(
        vocab_size=100,
        max_position_embeddings=48,
        hidden_size=32,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        intermediate_size=48,
        window_size=9,
        initializer_range=0.3,
        **_NO_END,
    ),
    "llama": LlamaConfig(**_ROTARY),
}
_T5 = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_T5 |= {"pad_token_id": 0, "eos_token_id": None, "decoder_start_token_id": 0}
SEQ2SEQ = {
    "t5": T5Config(**_T5, initializer_factor=2.0),
    "flan-t5": T5Config(**_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False, initializer_factor=1.5),
    "mt5": MT5Config(**_T5, tie_word_embeddings=False, initializer_factor=1.5),
}
MODELS = {
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
    "FEATURE_EXTRACTION": AutoModel,
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
}


class Code:
    """An object that runs code when it is unpickled: it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def save_base(kind: str, folder: Path) -> Path:
    """Write a small random model with a tokenizer, random norms and biases included."""
    torch.manual_seed(1)
    family = AutoModelForCausalLM if kind in CAUSAL else AutoModelForSeq2SeqLM if kind in SEQ2SEQ else AutoModel
    model = family.from_config((CONFIGS | CAUSAL | SEQ2SEQ)[kind])
    shake(model)
    if kind in ("flan-t5", "mt5"):
        with torch.no_grad():  # for logits as large as those of trained models
            model.decoder.final_layer_norm.weight.mul_(0.2)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def shake(model: torch.nn.Module) -> None:
    """Randomize biases and norms, whose zeros and ones would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))


def make_adapter(base: Path, task_type: str, folder: Path, *, multitask: bool = True, **options: Any) -> PeftModel:
    """Make a PEFT adapter without training, give it random values, and save it."""
    torch.manual_seed(2)
    labels = {"num_labels": LABELS} if task_type in ("SEQ_CLS", "TOKEN_CLS") else {}
    model: PreTrainedModel = MODELS[task_type].from_pretrained(base, **labels)
    sizes = {"token_dim": 32, "num_layers": 2, "num_attention_heads": 4}  # PEFT does not find DistilBERT's
    save = {"safe_serialization": options.pop("safe_serialization", True)}
    config = MultitaskPromptTuningConfig if multitask else PromptTuningConfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = {"num_virtual_tokens": VIRTUAL} | sizes | ({"num_tasks": 3} if multitask else {}) | options
        adapted = get_peft_model(model, config(task_type=task_type, **values)).eval()
        with torch.no_grad():
            for name, value in adapted.named_parameters():
                if "prompt_encoder" in name or value.requires_grad:
                    value.copy_(torch.randn_like(value) * (0.5 if "prompt_encoder" in name else 0.3))
        adapted.save_pretrained(folder, **save)
    return adapted
