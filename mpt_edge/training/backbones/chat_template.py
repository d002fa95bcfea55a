"""A model's chat template, and the frame that it puts around a message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from mpt_edge.errors import InputError
from mpt_edge.formats.chat_frame import ChatFrame
from mpt_edge.training.backbones.weights import quiet_transformers, reason

#: Messages by which a template is tried: a word that no template has, others of another form, and spaces around one.
_WORD = "Qx7v"
_MESSAGES = (_WORD, "a 'word', {text} and\n\n# 3.14", "<b>\u00e9\u4e2d</b>", "q" * 300)
_SPACES = ("  ", "\n\t")


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template with the special tokens that it may write."""

    source: str
    """The template."""
    tokens: Mapping[str, str]
    """Special tokens by transformers' names, such as ``bos_token``."""

    @classmethod
    def read(cls, folder: Path) -> ChatTemplate | None:
        """Return the template of a model's folder, the default one of several; None if there is none."""
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        try:
            source = tokenizer.get_chat_template()
        except ValueError:  # there is none, or none that is the default
            return None
        return cls(source, dict(tokenizer.special_tokens_map))

    def frame(self, model: str, system: str | None = None) -> ChatFrame:
        """Return the text around a user's message up to the answer.

        Args:
            model: the model's name, for messages.
            system: text of the system message; None for the template's own, if it has one.

        Raises:
            InputError: the template refuses the messages, or does more with one than put it between two texts.
        """
        try:
            before, found, after = self._render(_WORD, system).partition(_WORD)
            frame = ChatFrame(before, after)
            if self._render(_WORD.join(_SPACES), system) != frame.wrap(_WORD.join(_SPACES)):
                frame = ChatFrame(before, after, trims=True)
            messages = (*_MESSAGES, _WORD.join(_SPACES))
            is_fixed = bool(found) and all(self._render(each, system) == frame.wrap(each) for each in messages)
        except MemoryError:
            raise
        except Exception as error:  # templates are programs, which raise errors of their own
            fix = "leave out 'system', or write the template out" if system else "write the template out"
            raise InputError(
                f"the chat template of {model} refuses a recipe's messages ({reason(error)}); {fix}."
            ) from error
        if not is_fixed:
            raise InputError(
                f"the chat template of {model} does more with a message than put it between two texts, which a device "
                "cannot do; write the template out, with {text}."
            )
        return frame

    def _render(self, message: str, system: str | None) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        conversation = [*messages, {"role": "user", "content": message}]
        texts, _ = render_jinja_template(
            [conversation], chat_template=self.source, add_generation_prompt=True, **self.tokens
        )
        return str(texts[0])
