"""Tokenizers that are trained here: byte-level, and of SentencePiece's kind."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

#: Training data of the model. Other characters than ASCII are several tokens each, so a stream must wait for them.
SENTENCES = [
    "The cat sat on the mat and ate süße Törtchen 🍰 with Max. It was happy.",
    "Tom had a red ball. One day, he saw 日本 and sang 🎉🎉 all the way home! Then he slept.",
    "Once upon a time a dog ran to the park, où il était très content 😀. The end.",
    "Question: who sang in the park?\nAnswer: Lily and the dog, für immer 🐕. Yes!",
]
#: Texts of labels, whose words are tokens too.
LABEL_TEXTS = ("He was very happy.", "He was sad.")


def byte_level() -> Tokenizer:
    """Return a byte-level tokenizer, trained on ASCII only, so that other characters stay bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = [sentence.encode("ascii", "ignore").decode() for sentence in [*SENTENCES, *LABEL_TEXTS]]
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words * 3, trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """Return a tokenizer of SentencePiece's kind, with tokens for single bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    known = tokenizer.get_vocab()
    merges: list[tuple[str, str]] = []
    vocabulary = known | {token: len(known) + i for i, token in enumerate(bytes_)}
    tokenizer.model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)
    return tokenizer
