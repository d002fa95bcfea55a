"""Tokens into text as it comes: whole characters only, and nothing that may yet turn out to be a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer

#: What stands where bytes do not make up a character yet.
_INCOMPLETE = "\ufffd"

#: Bytes of the longest character in UTF-8.
_LONGEST_CHARACTER = 4

#: Tokens that are decoded again with each new one, so that joins between tokens come out right.
_CONTEXT = 6


def _special(tokenizer: Tokenizer, stop: Sequence[str]) -> frozenset[int]:
    """Return the special tokens among stop texts, such as ``<|im_end|>``, which no text ever shows."""
    found = {text: tokenizer.token_to_id(text) for text in stop}
    return frozenset(
        token
        for token in found.values()
        if token is not None and not tokenizer.decode([token], skip_special_tokens=True)
    )


def stop_check(tokenizer: Tokenizer, stop: Sequence[str], before: Sequence[int] = ()) -> Callable[[list[int]], bool]:
    """Return a function that tells whether a text, in tokens, has come to a stop text with its last token.

    Args:
        tokenizer: turns tokens into text.
        stop: texts that end it.
        before: tokens in front of the text; they decide whether it begins with a space, as in `TextStream`.
    """
    # A token is a character or more, but for those that are single bytes.
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
            start -= 1  # a character was cut, which can spoil all that follow it
            end = decoded(tokens[start:])
        # Bytes that make up no character yet are no text.
        return not end.endswith(_INCOMPLETE) and any(text in end for text in stop)

    return stops


class TextStream:
    """One row's text.

    Attributes:
        tokens: those pushed so far.
        text: what has been handed out.
        stopped: whether a stop text has come.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        """Start a text.

        Args:
            tokenizer: turns tokens into text.
            before: tokens in front of the text; they decide whether it begins with a space.
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
        """Take a token, and return the text that is certain by now; often none."""
        self.tokens.append(token)
        if token in self._special:
            rest = self.finish()
            self.stopped = True
            return rest
        self._window.append(token)
        whole = self._decoded()
        if whole.endswith(_INCOMPLETE):
            return ""  # the rest of a character is still to come
        fresh, self._shown = whole[self._shown :], len(whole)
        if len(self._window) > 4 * _CONTEXT and self._shorten():
            self._shown = len(self._decoded())
        return self._release(fresh, last=False)

    def finish(self) -> str:
        """Return what was held back; no stop text came."""
        return "" if self.stopped else self._release(self._decoded()[self._shown :], last=True)

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._window, skip_special_tokens=True))

    def _shorten(self) -> bool:
        """Drop all but the last tokens, unless that would cut through a character; return whether it was done."""
        kept = self._window[-_CONTEXT:]
        text = str(self._tokenizer.decode(kept, skip_special_tokens=True))
        if _INCOMPLETE in text or not self._decoded().endswith(text):
            return False
        self._window = kept
        return True

    def _release(self, fresh: str, *, last: bool) -> str:
        """Hand out text up to a stop text, or to what may be the beginning of one."""
        if self.stopped:
            return ""
        self._held += fresh
        places = [place for place in (self._held.find(text) for text in self._stop) if place >= 0]
        if places:
            self.stopped = True
            ready, self._held = self._held[: min(places)], ""
        else:
            keep = 0 if last else self._may_be_stop()
            cut = len(self._held) - keep
            ready, self._held = self._held[:cut], self._held[cut:]
        self.text += ready
        return ready

    def _may_be_stop(self) -> int:
        """Return how many characters at the end may be the beginning of a stop text."""
        longest = max((len(text) for text in self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-size:]) for text in self._stop):
                return size
        return 0
