"""Text generation: greedy search, sampling or beam search."""

from __future__ import annotations

from collections.abc import Generator as PieceGenerator
from collections.abc import Sequence
from time import perf_counter

from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.answers import Generation, Stream
from mpt_edge.inference.generation.beams import BeamRow, beam_search
from mpt_edge.inference.generation.constraints import Follower
from mpt_edge.inference.generation.search import GeneratedRow, generate
from mpt_edge.inference.generation.streaming import TextStream, stop_check
from mpt_edge.inference.generation.token_bytes import SPACE
from mpt_edge.inference.heads.base import Display, Request
from mpt_edge.inference.heads.generative_head import GenerativeHead, Opener, Room


class TextGeneration(GenerativeHead):
    """A text that continues the input, or translates it in an encoder-decoder model."""

    name = "generation"
    min_labels = 0
    answer_type = Generation
    display = Display.BLOCK

    def room(self, options: GenerationOptions) -> Room:
        """Return the maximum number of new tokens."""
        remedy = "ask for fewer, or train the task with a lower max_target_length"
        return Room(options.max_new_tokens, "new tokens", remedy)

    def width(self, options: GenerationOptions) -> int:
        """Return one row per beam."""
        return options.num_beams

    def answer(self, requests: Sequence[Request], open_requests: Opener) -> list[Generation]:
        """Generate each request's text; see `GenerativeHead.answer`."""
        began = perf_counter()
        decoding, logits = open_requests()
        if _options(requests[0]).num_beams > 1:
            beams = [self._beams(request) for request in requests]
            beam_search(decoding, logits, beams, self.reader.eos_ids)
            return [self._best(*item, began) for item in zip(beams, requests, strict=True)]
        rows = [self._row(request) for request in requests]
        for _ in generate(decoding, logits, rows, self.reader.eos_ids):
            pass
        return [_generation(*item, began) for item in zip(requests, rows, strict=True)]

    def stream(self, request: Request, open_request: Opener) -> Stream:
        """Generate one text piece by piece.

        Args:
            request: the request.
            open_request: reads the input; called with the first piece.

        Raises:
            InputError: the request asks for beam search.
        """
        if _options(request).num_beams > 1:
            raise InputError("beam search knows its text only at the end; stream with one beam.")
        row, began = self._row(request), 0.0

        def pieces() -> PieceGenerator[str]:
            nonlocal began
            has_begun, began = False, perf_counter()
            for _, piece in generate(*open_request(), [row], self.reader.eos_ids):
                fresh = piece if has_begun else row.trim(piece)
                has_begun = has_begun or bool(fresh)
                if fresh:
                    yield fresh

        return Stream(pieces(), lambda: _generation(request, row, began), **request.row.notes)

    def _prefix(self, request: Request) -> list[int]:
        return self.reader.backbone.decoder_prefix(request.row.ids)

    def _row(self, request: Request) -> GeneratedRow:
        prefix, options = self._prefix(request), _options(request)
        stream = TextStream(self.reader.texts.tokenizer, prefix, options.stop)
        return GeneratedRow(stream, options, prefix, follower=self._follower(request, prefix))

    def _follower(self, request: Request, prefix: list[int]) -> Follower | None:
        """Return the constraint on a new text of a request."""
        if request.constraint is None:
            return None
        tokenizer = self.reader.texts.tokenizer
        before = str(tokenizer.decode(prefix, skip_special_tokens=True))
        space = tokenizer.token_to_id(
            SPACE
        )  # only SentencePiece's kind has one, and removes it from a text's beginning
        is_trimmed = space is not None and str(tokenizer.decode([*prefix, space], skip_special_tokens=True)) == before
        return request.constraint.follow(is_trimmed=is_trimmed)

    def _beams(self, request: Request) -> BeamRow:
        prefix, options = self._prefix(request), _options(request)
        stops = stop_check(self.reader.texts.tokenizer, options.stop, prefix)
        return BeamRow(options, prefix, stops, follower=self._follower(request, prefix))

    def _best(self, beam: BeamRow, request: Request, began: float) -> Generation:
        """Return the text of a row's best beam, up to its stop text."""
        tokens, finish = beam.best
        row = self._row(request)
        for token in tokens:
            row.stream.push(token)
            if row.stream.stopped:
                break
        row.stream.finish()
        row.finish = "stop" if row.stream.stopped else "eos" if finish == "complete" else finish
        row.first_at, row.ended_at = beam.first_at, beam.ended_at
        return _generation(request, row, began)


def _options(request: Request) -> GenerationOptions:
    assert request.options is not None  # as in every request of a generative model
    return request.options


def _generation(request: Request, row: GeneratedRow, began: float) -> Generation:
    return Generation(
        task=request.task.file.name,
        text=row.trim(row.stream.text),
        input_tokens=len(request.row.ids),
        new_tokens=len(row.stream.tokens),
        finish=row.finish or "",
        first_token_seconds=row.first_at - began,
        seconds=row.ended_at - began,
        **request.row.notes,
    )
