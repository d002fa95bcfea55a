"""Chat templates as frames: the same text and tokens as transformers', and templates that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mpt_edge.errors import InputError
from mpt_edge.inference.text import TextEncoder
from mpt_edge.training.backbones.chat_template import ChatTemplate
from tests.support.checkpoints import assert_one_sentence
from tests.support.encoders import save_tokenizer

TURNS = (
    "{% for m in messages %}{{ '[CLS]' + m['role'] + '\n' + CONTENT + '[SEP]\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[CLS]assistant\n' }}{% endif %}"
)
#: As models write them: with their own system text, with a first token and trimmed, without a system message.
TEMPLATES = {
    "smollm2": "{% if messages[0]['role'] != 'system' %}[CLS]system\nbe good[SEP]\n{% endif %}" + TURNS,
    "llama3": "{{ bos_token }}" + TURNS.replace("CONTENT", "m['content'] | trim"),
    "gemma": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + TURNS,
}
TEXTS = ("a witty film", "  a dull film \n", "{text} and {{ braces }}", "a [SEP] in it", "FILM", "x" * 30, "[CLS]")


def tokenizer(folder: Path, template: str) -> PreTrainedTokenizerBase:
    """Write a tokenizer that puts special tokens around each text, with a chat template, and load it."""
    save_tokenizer(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    loaded.bos_token = "[CLS]"
    loaded.chat_template = template.replace("CONTENT", "m['content']")
    loaded.save_pretrained(folder)
    return loaded


def messages(text: str, system: str | None) -> list[dict[str, str]]:
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("name", "system"),
    [("smollm2", None), ("smollm2", "be a ball"), ("llama3", None), ("llama3", "x"), ("gemma", None)],
)
def test_tokens_of_transformers(tmp_path: Path, name: str, system: str | None) -> None:
    reference = tokenizer(tmp_path, TEMPLATES[name])
    template = ChatTemplate.read(tmp_path)
    assert template is not None
    frame = template.frame("tiny", system)
    assert frame.trims is (name == "llama3")
    texts = TextEncoder((tmp_path / "tokenizer.json").read_bytes())
    for text in TEXTS:
        chat = messages(text, system)
        assert frame.wrap(text) == reference.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        expected = reference.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        assert texts.fit(None, text, 200, chat=frame).ids == expected


def test_model_without_a_template(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert ChatTemplate.read(tmp_path) is None


def test_system_text_that_a_template_refuses(tmp_path: Path) -> None:
    tokenizer(tmp_path, TEMPLATES["gemma"])
    template = ChatTemplate.read(tmp_path)
    assert template is not None
    with pytest.raises(InputError) as caught:
        template.frame("tiny", "be good")
    assert_one_sentence(caught.value, "the chat template of tiny refuses", "System role not supported", "leave out 's")


@pytest.mark.parametrize("source", ["{% for %}", "{{ messages[5]['content'] + 1 }}", "{{ raise_exception('a\nb') }}"])
def test_template_that_fails(source: str) -> None:
    with pytest.raises(InputError) as caught:
        ChatTemplate(source, {}).frame("tiny")
    assert_one_sentence(caught.value, "the chat template of tiny refuses a recipe's messages (", "; write the template")


@pytest.mark.parametrize(
    "content",
    [
        "'always the same'",
        "m['content'] | upper",
        "m['content'] + m['content']",
        "m['content'][:20]",
        "m['content'] | length ~ m['content']",
        "m['content'].split('#')[0]",
    ],
)
def test_template_that_changes_a_message(content: str) -> None:
    source = f"{{% for m in messages %}}{{{{ {content} }}}}{{% endfor %}}"
    with pytest.raises(InputError) as caught:
        ChatTemplate(source, {}).frame("tiny")
    assert_one_sentence(
        caught.value, "does more with a message than put it between two texts", "write the template out"
    )
