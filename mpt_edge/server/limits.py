"""Limits of a server: what one request may send, and how much may wait."""

from __future__ import annotations

from dataclasses import dataclass

#: Characters up to which texts are tokenized at once on the event loop; a thread costs more than they do.
INLINE_CHARACTERS = 4096

#: Seconds for the headers of a request, and for a body that has not come whole.
READ_SECONDS = 30.0

#: Seconds for which the rest of a refused body is read, so that its sender sees the answer.
DRAIN_SECONDS = 5.0


#: Bytes of bodies in memory, of all requests.
HELD_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server."""

    body_bytes: int = 2 << 20
    """Maximum size of a request's body."""
    texts: int = 256
    """Maximum number of texts of a request."""
    queue: int = 1024
    """Maximum number of texts that wait, of all requests."""
    batch_texts: int = 32
    """Maximum number of texts of a batch."""
    batch_tokens: int = 4096
    """Maximum number of tokens of a batch, unless one text has more."""
    workers: int = 1
    """Maximum number of batches of labels and vectors that run at once."""
    max_delay: float = 0.002
    """Seconds that a request waits for others, where others have been there."""
    streams: int = 4
    """Texts that are streamed at once; others wait."""
    connections: int = 1000
    """Maximum number of open connections."""
