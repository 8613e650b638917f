"""A generator and a discriminator as one model (ELECTRA, arXiv:2003.10555), so that they go through the one loop.

The two share nothing; ELECTRA's share their embeddings, which asks for one width.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fledge.model.heads import Headed
from fledge.objectives.loss import Projectable


class Detector(nn.Module):
    """An encoder `generator` with a masked head and an encoder `discriminator` with two labels per token."""

    def __init__(self, generator: Headed, discriminator: Headed) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None, **others: Any
    ) -> "Detection":
        """ids, positions, documents [B,T] → what the generator predicts, and the discriminator to ask."""
        generated = self.generator(ids, positions, documents, **others)
        return Detection(generated, self.discriminator, positions, documents)


@dataclass(frozen=True)
class Detection:
    """`generated`: the generator's output. `detect` runs the discriminator on what was made of it."""

    generated: Projectable
    discriminator: Headed
    positions: Tensor | None
    documents: Tensor | None

    def detect(self, ids: Tensor) -> Tensor:
        """ids [B,T] → logits [B,T,2]: was this token kept, or replaced?"""
        scores: Tensor = self.discriminator(ids, self.positions, self.documents).values
        return scores
