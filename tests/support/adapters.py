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
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

from tests.support import causal, seq2seq
from tests.support.encoders import save_tokenizer
from tests.support.prompted import shake

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
#: Kinds of `tests.support.causal` and `tests.support.seq2seq` with adapters of their own.
CAUSAL = ("gemma2", "gpt2", "gpt_neo", "llama")
SEQ2SEQ = ("t5", "flan-t5", "mt5")
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
    if kind in CONFIGS:
        torch.manual_seed(1)
        model = AutoModel.from_config(CONFIGS[kind])
        shake(model)
    else:
        model = (causal if kind in CAUSAL else seq2seq).make(kind)
        model.config.eos_token_id = model.generation_config.eos_token_id = None  # no text ends early
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


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
