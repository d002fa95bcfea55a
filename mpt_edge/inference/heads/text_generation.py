"""Text generation: greedy search, sampling or beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Generator as PieceGenerator

from mpt_edge._arrays import Floats
from mpt_edge.errors import InputError
from mpt_edge.formats.generation_options import GenerationOptions
from mpt_edge.inference.answers import Generation, Stream
from mpt_edge.inference.generation.beams import BeamRow, beam_search
from mpt_edge.inference.generation.search import GeneratedRow, generate
from mpt_edge.inference.generation.streaming import TextStream, stop_check
from mpt_edge.inference.heads.base import Display, Request
from mpt_edge.inference.heads.generative_head import GenerativeHead, Room
from mpt_edge.inference.runtime.decoding import Decoding


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

    def answer(self, requests: Sequence[Request], decoding: Decoding, logits: Floats) -> list[Generation]:
        """Generate each request's text; see `GenerativeHead.answer`."""
        if _options(requests[0]).num_beams > 1:
            beams = [self._beams(request) for request in requests]
            beam_search(decoding, logits, beams, self.reader.eos_ids)
            return [self._best(*item) for item in zip(beams, requests, strict=True)]
        rows = [self._row(request) for request in requests]
        for _ in generate(decoding, logits, rows, self.reader.eos_ids):
            pass
        return [_generation(*item) for item in zip(requests, rows, strict=True)]

    def stream(self, request: Request, open_request: Callable[[], tuple[Decoding, Floats]]) -> Stream:
        """Generate one text piece by piece.

        Args:
            request: the request.
            open_request: reads the input; called with the first piece.

        Raises:
            InputError: the request asks for beam search.
        """
        if _options(request).num_beams > 1:
            raise InputError("beam search knows its text only at the end; stream with one beam.")
        row = self._row(request)

        def pieces() -> PieceGenerator[str]:
            has_begun = False
            for _, piece in generate(*open_request(), [row], self.reader.eos_ids):
                fresh = piece if has_begun else piece.lstrip()
                has_begun = has_begun or bool(fresh)
                if fresh:
                    yield fresh

        return Stream(pieces(), lambda: _generation(request, row), **request.row.notes)

    def _prefix(self, request: Request) -> list[int]:
        return self.reader.backbone.decoder_prefix(request.row.ids)

    def _row(self, request: Request) -> GeneratedRow:
        prefix, options = self._prefix(request), _options(request)
        return GeneratedRow(TextStream(self.reader.texts.tokenizer, prefix, options.stop), options, prefix)

    def _beams(self, request: Request) -> BeamRow:
        prefix, options = self._prefix(request), _options(request)
        return BeamRow(options, prefix, stop_check(self.reader.texts.tokenizer, options.stop, prefix))

    def _best(self, beam: BeamRow, request: Request) -> Generation:
        """Return the text of a row's best beam, up to its stop text."""
        tokens, finish = beam.best
        row = self._row(request)
        for token in tokens:
            row.stream.push(token)
            if row.stream.stopped:
                break
        row.stream.finish()
        row.finish = "stop" if row.stream.stopped else finish
        return _generation(request, row)


def _options(request: Request) -> GenerationOptions:
    assert request.options is not None  # as in every request of a generative model
    return request.options


def _generation(request: Request, row: GeneratedRow) -> Generation:
    return Generation(
        task=request.task.file.name,
        text=row.stream.text.lstrip(),
        tokens=len(row.stream.tokens),
        finish=row.finish or "",
        **request.row.notes,
    )
