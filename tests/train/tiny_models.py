"""A language model and a critic small enough to train in milliseconds; each token sees itself and the one before."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH = 13, 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(2 * WIDTH, 32, bias=False), nn.Linear(32, WIDTH, bias=False)


class Tiny(nn.Module):
    """Called and read like fledge's models: output.hidden, output.weight."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.2)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList([Block()])

    def features(self, ids: Tensor, positions: Tensor) -> Tensor:
        here = self.embedding(ids)
        before = torch.cat([torch.zeros_like(here[:, :1]), here[:, :-1]], 1) * (positions > 0)[..., None]
        block = self.blocks[0]
        return self.norm(here + block.down(torch.nn.functional.gelu(block.up(torch.cat([here, before], -1)))))

    def forward(self, ids: Tensor, positions: Tensor, documents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(hidden=self.features(ids, positions), weight=self.embedding.weight)


class TinyCritic(Tiny):
    """The same with one number per token: output.values."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.score = nn.Linear(WIDTH, 1, bias=False)

    def forward(self, ids: Tensor, positions: Tensor, documents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(values=self.score(self.features(ids, positions))[..., 0])


def text_batch(rows: int, seed: int, length: int = 12) -> dict[str, Tensor]:
    """Random rows in which about a third of the targets is supervised."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (rows, length), generator=generator)
    targets = ids.roll(-1, 1).masked_fill(torch.rand(rows, length, generator=generator) > 0.35, -100)
    positions = torch.arange(length).expand(rows, length).clone()
    documents = torch.ones(rows, length, dtype=torch.int32)
    return {"ids": ids, "targets": targets, "positions": positions, "documents": documents}
