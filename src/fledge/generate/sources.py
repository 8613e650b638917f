"""Writing from sources: n-best lists by beam search for every shape, and an engine for models with an encoder.

A text to be written begins with the padding mark and ends with the document mark, which closes a source too: T5's
convention (arXiv:1910.10683), and what the objectives of pretraining keep to.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from fledge.generate.beam import BeamConfig, Hypothesis, beam_search
from fledge.generate.decoding import decoding_of, draw
from fledge.generate.request import Completion, Event, Request
from fledge.model.heads import LanguageModel
from fledge.model.lstm import LstmModel
from fledge.text.tokenizer import Tokenizer

TOGETHER = 64  # texts written at once


def nbest(
    model: LanguageModel | LstmModel,
    tokenizer: Tokenizer,
    sources: Sequence[list[int]] | None,
    prompts: Sequence[list[int]] | None = None,
    *,
    max_new_tokens: int = 64,
    config: BeamConfig | None = None,
) -> list[list[Hypothesis]]:
    """The n-best lists for sources (ids, closed by the document mark), or for what a decoder goes on from.

    With both, `prompts` are what the texts must begin with. Those of like length are searched together.
    """
    given = sources or prompts or []
    starts = prompts or [[tokenizer.pad_id]] * len(given)
    ends = sorted({tokenizer.document_id, tokenizer.eos_id})
    found: list[list[Hypothesis]] = [[]] * len(given)
    order = sorted(range(len(given)), key=lambda i: len(given[i]))
    with evaluating(model):
        for begin in range(0, len(order), TOGETHER):
            group = order[begin : begin + TOGETHER]
            read = [sources[i] for i in group] if sources else None
            written = [starts[i] for i in group]
            decoding = decoding_of(model, written, max_new_tokens, read)
            lists = beam_search(
                decoding, len(group), ends=ends, max_new_tokens=max_new_tokens, config=config, prompts=written
            )
            for i, hypotheses in zip(group, lists):
                found[i] = hypotheses
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class SourceEngine:
    """`Engine` for a model that reads a source: a request's `ids` are the source, what it asks for is drawn."""

    def __init__(self, model: LanguageModel | LstmModel, tokenizer: Tokenizer, *, max_batch: int = 64) -> None:
        self.model, self.tokenizer, self.max_batch = model, tokenizer, max_batch

    def run(self, requests: Sequence[Request], on_progress: Any = None) -> list[Completion]:
        """Complete all requests, in order."""
        done: list[Completion] = []
        for _, completion in self.completions(requests):
            done.append(completion)
            if on_progress:
                on_progress(len(done), len(requests))
        return done

    def completions(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Yield (index, completion), in order."""
        device, start = next(self.model.parameters()).device, [self.tokenizer.pad_id]
        with evaluating(self.model):
            for begin in range(0, len(requests), self.max_batch):
                group = requests[begin : begin + self.max_batch]
                sources = [[*request.ids, self.tokenizer.document_id] for request in group]
                most = max(request.max_new_tokens for request in group)
                decoding = decoding_of(self.model, [start] * len(group), most, sources)
                for place, (ids, logprobs) in enumerate(draw(decoding, group, device)):
                    yield begin + place, self.completion(group[place], ids, logprobs)

    def completion(self, request: Request, ids: list[int], logprobs: list[float]) -> Completion:
        """What was drawn, with its text up to a stop string."""
        text = self.tokenizer.decode(ids)
        cuts = [text.find(stop) for stop in request.stop if stop in text]
        ended = bool(cuts) or ids[-1] in request.stop_ids
        return Completion(ids, logprobs, "stop" if ended else "length", text[: min(cuts)] if cuts else text)

    def stream(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Yield each text as one event, when it is written: such texts are short."""
        for index, completion in self.completions(requests):
            yield Event(index, completion.ids[-1], completion.text, completion.finish)
