"""Incremental detokenization: whole characters only, and no text that may still become a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer

#: Stand-in of the tokenizer for bytes that are no complete character yet.
_INCOMPLETE = "\ufffd"

#: Largest number of bytes of a character in UTF-8.
_LONGEST_CHARACTER = 4

#: Tokens decoded again with each new one, so that joins between tokens come out right.
_CONTEXT = 6


def _special(tokenizer: Tokenizer, stop: Sequence[str]) -> frozenset[int]:
    """Return the special tokens among stop texts, such as ``<|im_end|>``; decoded text never contains them."""
    ids = {text: tokenizer.token_to_id(text) for text in stop}
    return frozenset(
        token for token in ids.values() if token is not None and not tokenizer.decode([token], skip_special_tokens=True)
    )


def stop_check(tokenizer: Tokenizer, stop: Sequence[str], before: Sequence[int] = ()) -> Callable[[list[int]], bool]:
    """Return a function that tells whether the last token of a text completes a stop text.

    Args:
        tokenizer: decodes tokens.
        stop: texts that end generation.
        before: tokens before the text; they decide whether it begins with a space, as in `TextStream`.
    """
    # A token has at least one character, unless it is a single byte.
    reach = 4 * max(map(len, stop), default=0) + _CONTEXT
    front, special = list(before)[-_CONTEXT:], _special(tokenizer, stop)

    def decoded(window: Sequence[int]) -> str:
        return str(tokenizer.decode(window, skip_special_tokens=True))

    known = len(decoded(front)) if stop else 0

    def stops(tokens: list[int]) -> bool:
        if not stop:
            return False
        if tokens[-1] in special:
            return True
        start = len(tokens) - reach
        end = decoded([*front, *tokens])[known:] if start <= 0 else decoded(tokens[start:])
        while start > max(0, len(tokens) - reach - _LONGEST_CHARACTER) and end.startswith(_INCOMPLETE):
            start -= 1  # a cut character can spoil all that follow
            end = decoded(tokens[start:])
        # An incomplete character is no text yet.
        return not end.endswith(_INCOMPLETE) and any(text in end for text in stop)

    return stops


class TextStream:
    """Text of one row.

    Attributes:
        tokens: tokens pushed so far.
        text: text returned so far.
        stopped: whether a stop text has been reached.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        """Start a text.

        Args:
            tokenizer: decodes tokens.
            before: tokens before the text; they decide whether it begins with a space.
            stop: texts that end it.
        """
        self._tokenizer, self._stop = tokenizer, [text for text in stop if text]
        self._special = _special(tokenizer, self._stop)
        self.tokens: list[int] = []
        self.text = ""
        self.stopped = False
        self._window = list(before)
        self._shorten()
        self._shown = len(self._decoded())
        self._held = ""

    def push(self, token: int) -> str:
        """Add a token, and return the text that is certain by now; often none."""
        self.tokens.append(token)
        if token in self._special:
            rest = self.finish()
            self.stopped = True
            return rest
        self._window.append(token)
        whole = self._decoded()
        if whole.endswith(_INCOMPLETE):
            return ""  # the character is incomplete
        fresh, self._shown = whole[self._shown :], len(whole)
        if len(self._window) > 4 * _CONTEXT and self._shorten():
            self._shown = len(self._decoded())
        return self._release(fresh, last=False)

    def finish(self) -> str:
        """Return the text held back, after the last token."""
        return "" if self.stopped else self._release(self._decoded()[self._shown :], last=True)

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._window, skip_special_tokens=True))

    def _shorten(self) -> bool:
        """Drop all but the last tokens, unless that would cut a character; return whether it did."""
        kept = self._window[-_CONTEXT:]
        text = str(self._tokenizer.decode(kept, skip_special_tokens=True))
        if _INCOMPLETE in text or not self._decoded().endswith(text):
            return False
        self._window = kept
        return True

    def _release(self, fresh: str, *, last: bool) -> str:
        """Return text up to a stop text, or up to the possible beginning of one."""
        if self.stopped:
            return ""
        self._held += fresh
        positions = [position for position in (self._held.find(text) for text in self._stop) if position >= 0]
        if positions:
            self.stopped = True
            ready, self._held = self._held[: min(positions)], ""
        else:
            keep = 0 if last else self._may_be_stop()
            cut = len(self._held) - keep
            ready, self._held = self._held[:cut], self._held[cut:]
        self.text += ready
        return ready

    def _may_be_stop(self) -> int:
        """Return the number of characters at the end that may begin a stop text."""
        longest = max((len(text) for text in self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-size:]) for text in self._stop):
                return size
        return 0
