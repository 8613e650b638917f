"""Heads on a Transformer: the next token, or one number (reward, value). A model is a backbone with a head.

Shapes: B batch, T time, E width, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from fledge.model.cache import Cache
from fledge.model.config import ModelConfig
from fledge.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Output:
    """hidden [B,T,E] and the projection weight [V,E]: losses read both, so that full logits are never held."""

    hidden: Tensor
    weight: Tensor

    def logits(self) -> Tensor:
        """[B,T,V]: for tests, short inputs and single positions."""
        return nn.functional.linear(self.hidden, self.weight.to(self.hidden.dtype))


@dataclass(frozen=True, slots=True)
class Values:
    """values [B,T]: one number per position."""

    values: Tensor


class LanguageModel(nn.Module):
    """A Transformer that predicts the next token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Transformer(config)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        if self.head is not None:
            nn.init.normal_(self.head.weight, 0, 0.02)

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None, cache: Cache | None = None
    ) -> Output:
        """ids [B,T] → Output; the arguments are those of `Transformer.forward`."""
        hidden = self.backbone(ids, positions, documents, cache)
        return Output(hidden, self.backbone.embedding.weight if self.head is None else self.head.weight)


class ScalarModel(nn.Module):
    """A Transformer with one number per position: a reward model is read at the last token, a critic at each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Transformer(config)
        self.score = nn.Linear(config.width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None, cache: Cache | None = None
    ) -> Values:
        """ids [B,T] → Values."""
        hidden = self.backbone(ids, positions, documents, cache)
        return Values(self.score(hidden)[:, :, 0])


def build(config: ModelConfig) -> LanguageModel | ScalarModel:
    """A model of this architecture with fresh weights, drawn from torch's generator."""
    return LanguageModel(config) if config.head == "language" else ScalarModel(config)


def count(model: nn.Module) -> int:
    """The number of weights, shared ones once."""
    return sum(p.numel() for p in model.parameters())
