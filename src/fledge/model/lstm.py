"""The ancestor: sequence-to-sequence learning with two deep LSTMs (arXiv:1409.3215).

One LSTM reads the source, last word first, into its final state; a second begins in that state and writes the target.
There is no attention: whatever is translated goes through that one state. It is called as an encoder-decoder
Transformer is, packed rows included, and gives the same `Output`, so the same stage trains it, on the same batches.
Left out: dropout, and the paper's separate vocabularies (source and target share the embedding).

Shapes: B batch, T time (S of the source), E width, V vocabulary, D documents in all rows, L longest of them, K layers.
"""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fledge.core.config import Config
from fledge.model.heads import Output

SPREAD = 0.08  # weights begin uniform in ±0.08, as in the paper


class LstmConfig(Config):
    """`layers` of `width` in each of the two LSTMs; `reverse` reads the source backwards; `context` is the longest row
    it was trained on (it has no limit of its own)."""

    vocab_size: int = Field(gt=0)
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    context: int = Field(gt=0)
    reverse: bool = True
    tied: bool = True

    def parameters(self) -> int:
        """The number of weights, the tied embedding counted once."""
        layer = 4 * self.width * (2 * self.width + 2)
        return 2 * self.layers * layer + self.vocab_size * self.width * (1 if self.tied else 2)

    def flops_per_token(self, length: int) -> float:
        """FLOPs of forward and backward per token of source and target together: half the weights see each."""
        stack = self.layers * 4 * self.width * 2 * self.width
        return 6 * (stack + self.vocab_size * self.width / 2)


@dataclass
class State:
    """Both halves of the memory of each layer, [K,D,E]: what the source has become, and what writing goes on from."""

    hidden: Tensor
    cell: Tensor

    def rows(self, index: Tensor) -> "State":
        """The state of the documents `index`, in that order, each as often as it is named."""
        return State(self.hidden[:, index], self.cell[:, index])


class LstmModel(nn.Module):
    """Reads a source and predicts the target's next token."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.encoder = nn.LSTM(config.width, config.width, config.layers, batch_first=True)
        self.decoder = nn.LSTM(config.width, config.width, config.layers, batch_first=True)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -SPREAD, SPREAD)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: State | None = None,
        *,
        source_ids: Tensor | None = None,
        source_positions: Tensor | None = None,
        source_documents: Tensor | None = None,
        memory: State | None = None,
    ) -> Output:
        """ids [B,T] with their source [B,S], or with the `memory` that `encode` made of it → Output.

        documents [B,T] number the targets of a row from 1 (0 is padding), source_documents the sources; the same
        number belongs together. With a `cache` writing goes on from it, and it is brought up to date. Positions are
        not needed: order is what an LSTM lives in.
        """
        if cache is not None:
            memory = cache
        elif memory is None:
            assert source_ids is not None, "a sequence-to-sequence model needs a source"
            memory = self.encode(source_ids, source_positions, source_documents)
        places, lengths = sequences(ids, documents)
        written, state = run(self.decoder, self.embedding(ids).flatten(0, 1)[places], lengths, memory)
        if cache is not None:
            cache.hidden, cache.cell = state.hidden, state.cell
        real = torch.arange(places.shape[1], device=ids.device) < lengths[:, None]
        blank = written.new_zeros(ids.numel(), written.shape[-1])
        hidden = blank.index_put((places[real],), written[real]).view(*ids.shape, -1)
        return Output(hidden, self.embedding.weight if self.head is None else self.head.weight)

    def encode(
        self, source_ids: Tensor, source_positions: Tensor | None = None, source_documents: Tensor | None = None
    ) -> State:
        """source_ids [B,S] → the state after reading each document, in the order of rows and documents."""
        places, lengths = sequences(source_ids, source_documents)
        if self.config.reverse:
            steps = torch.arange(places.shape[1], device=places.device)
            places = places.gather(1, (lengths[:, None] - 1 - steps).clamp(min=0))
        return run(self.encoder, self.embedding(source_ids).flatten(0, 1)[places], lengths, None)[1]


def sequences(ids: Tensor, documents: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where each document of each row lies: flat indices into [B·T], [D,L] (past its end: its last), and lengths [D].

    A row's documents are contiguous and numbered upwards; rows come one after the other.
    """
    batch, time = ids.shape
    if documents is None:
        lengths = torch.full((batch,), time, device=ids.device)
        return torch.arange(batch * time, device=ids.device).view(batch, time), lengths
    flat = documents.flatten()
    real = flat.nonzero()[:, 0]
    owner = torch.div(real, time, rounding_mode="floor") * (time + 1) + flat[real]
    _, lengths = torch.unique_consecutive(owner, return_counts=True)
    starts = real[lengths.cumsum(0) - lengths]
    steps = torch.arange(int(lengths.max()), device=ids.device)
    return starts[:, None] + torch.minimum(steps, lengths[:, None] - 1), lengths


def run(lstm: nn.LSTM, x: Tensor, lengths: Tensor, begin: State | None) -> tuple[Tensor, State]:
    """x [D,L,E], of which the first `lengths` count, from the state `begin` (zeros) → what it says [D,L,E], and the
    state after the last step that counts."""
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    start = None if begin is None else (begin.hidden.to(x.dtype), begin.cell.to(x.dtype))
    said, (hidden, cell) = lstm(packed, start)
    return pad_packed_sequence(said, batch_first=True, total_length=x.shape[1])[0], State(hidden, cell)
