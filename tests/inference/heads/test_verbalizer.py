"""Label words at a mask: their tokens, their scores, and the position of the mask."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mpt_edge.errors import InputError
from mpt_edge.formats.manifest import MaskToken
from mpt_edge.inference.heads.verbalizer import Verbalizer, mask_position
from mpt_edge.inference.text import Text, TextEncoder

MASK = MaskToken(5, "<mask>")


def test_a_word_has_the_token_of_its_place_in_the_template() -> None:
    """Tokenizers like RoBERTa's have two tokens of a word: after a space, and at the beginning of a text."""
    vocabulary = {"<unk>": 0, "no": 1, " no": 2, "yes": 3, " yes": 4}
    texts = TextEncoder(Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")).to_str().encode())
    for template, tokens in (("{text} <mask>", [2, 4]), ("<mask> {text}", [1, 3])):
        assert Verbalizer.encode(texts, template, "<mask>", [["no"], ["yes"]]).tokens.tolist() == tokens
    for template in ("<mask> {text} <mask>", "{text}"):
        with pytest.raises(InputError, match="must have the mask <mask> once"):
            Verbalizer.encode(texts, template, "<mask>", [["no"], ["yes"]])


def test_scores_are_means_of_the_words_of_each_label() -> None:
    verbalizer = Verbalizer(np.array([7, 8, 9]), np.array([0, 0, 1]), 2)
    logits = np.array([[1, 3, 5], [0, -4, 2]], np.float32)
    np.testing.assert_array_equal(verbalizer.scores(logits), [[2, 5], [-2, 2]])
    np.testing.assert_array_equal(verbalizer.scores(logits[0]), [2, 5])
    assert verbalizer.scores(logits).dtype == np.float32


@pytest.mark.parametrize(
    ("template", "text", "position"),
    [
        ("{text} <mask>", "a b", 2),
        ("<mask> {text}", "a b", 0),
        ("{text} <mask>", "a <mask> b", 3),
        ("<mask> {text}", "a <mask> b", 0),
        ("{text} <mask> {text_pair}", ("<mask>", "a <mask>"), 1),
        ("{text} <mask> {text_pair}", ("a", "<mask>"), 1),
    ],
)
def test_masks_of_the_text_do_not_count(template: str, text: Text, position: int) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2, "<mask>": 5}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    row = TextEncoder(tokenizer.to_str().encode()).fit(template, text, 16)
    assert mask_position(row, MASK, template) == position
