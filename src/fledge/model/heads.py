"""Heads on a Transformer: what its hidden states are read as. A model is a backbone with a head.

language  the next token, of a decoder or an encoder-decoder          LanguageModel → Output
masked    the token that was hidden (BERT's transform in front)       MaskedModel → Output
pair      whether a second text follows the first (NSP, SOP)          PairModel → Labels [B,2]
pretraining  both of these                                            MaskedModel → Output with `pair`
classifier   labels of a row                                          Classifier → Labels [B,L]
tokens, span labels of each token; start and end of an answer         Classifier → Labels [B,T,L]
scalar    one number per token (reward, value)                        ScalarModel → Values
embedding one vector per row                                          EmbeddingModel → Vectors

Shapes: B batch, T time, S source time, E width, V vocabulary, L labels.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge.model.attention import Memory
from fledge.model.cache import Cache
from fledge.model.config import ModelConfig
from fledge.model.feedforward import ACTIVATIONS, Routing
from fledge.model.normalise import norm_of
from fledge.model.transformer import Transformer

Auxiliary = dict[str, tuple[float, Tensor]]  # name → (coefficient, the loss it multiplies)


@dataclass(frozen=True, slots=True)
class Output:
    """hidden [B,T,E], the projection weight [V,E] and its bias [V]: losses read them, so full logits are never held.

    auxiliary: what a mixture of experts adds to whatever loss is taken. pair [B,2]: logits of a pretraining head.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    auxiliary: Auxiliary = field(default_factory=dict)
    pair: Tensor | None = None

    def logits(self) -> Tensor:
        """[B,T,V]: for tests, short inputs and single positions."""
        dtype = self.hidden.dtype
        return F.linear(self.hidden, self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))


@dataclass(frozen=True, slots=True)
class Values:
    """values [B,T]: one number per position."""

    values: Tensor
    auxiliary: Auxiliary = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Labels:
    """values: logits of each label, [B,L] of rows or [B,T,L] of tokens."""

    values: Tensor
    auxiliary: Auxiliary = field(default_factory=dict)

    def logits(self) -> Tensor:
        """`values`, as other outputs call it."""
        return self.values


@dataclass(frozen=True, slots=True)
class Vectors:
    """vectors [B,E]: one per row, not normalised."""

    vectors: Tensor


class Headed(nn.Module):
    """A Transformer under some head. All are called alike: `Transformer.forward` says what the arguments mean."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Transformer(config)

    def encode(
        self, source_ids: Tensor, source_positions: Tensor | None = None, source_documents: Tensor | None = None
    ) -> Memory:
        """source_ids [B,S] → the memory a decoder reads, its keys and values made once for all decoding steps."""
        memory = self.backbone.encode(source_ids, source_positions, source_documents)
        return Memory(memory.hidden, memory.documents, self.backbone.projected(memory.hidden))

    def read(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        *,
        token_types: Tensor | None = None,
        source_ids: Tensor | None = None,
        source_positions: Tensor | None = None,
        source_documents: Tensor | None = None,
        prefix: Tensor | None = None,
        order: Tensor | None = None,
        branches: Tensor | None = None,
        memory: Memory | None = None,
    ) -> tuple[Tensor, Auxiliary]:
        """Hidden states [B,T,E] of ids [B,T], and the losses of the routers on the way."""
        routed: list[Routing] = []
        if source_ids is not None and memory is None:
            memory = self.backbone.encode(source_ids, source_positions, source_documents, routed=routed)
        hidden = self.backbone(
            ids, positions, documents, cache,
            token_types=token_types, prefix=prefix, order=order, branches=branches, memory=memory, routed=routed,
        )  # fmt: skip
        if not routed:
            return hidden, {}
        balance = torch.stack([each.balance for each in routed]).mean()
        auxiliary = {"balance": (self.config.balance, balance)}
        auxiliary["router_z"] = (self.config.router_z, torch.stack([each.z for each in routed]).mean())
        return hidden, auxiliary


class LanguageModel(Headed):
    """A Transformer that predicts the next token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.head = None if config.tied else nn.Linear(config.out_width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        if self.head is not None:
            nn.init.normal_(self.head.weight, 0, 0.02)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        **others: Tensor | Memory | None,
    ) -> Output:
        """ids [B,T] → Output; the arguments are those of `read`."""
        hidden, auxiliary = self.read(ids, positions, documents, cache, **others)  # type: ignore[arg-type]
        if self.config.output_scale != 1:
            hidden = hidden * self.config.output_scale
        return Output(hidden, projection(self), self.bias, auxiliary)


class MaskedModel(Headed):
    """An encoder that predicts hidden tokens; with the pretraining head also whether the second text follows."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = config.out_width
        self.transform = nn.Linear(width, width)
        self.activation = ACTIVATIONS[config.activation]
        self.transform_norm = norm_of(config, width)
        self.head = None if config.tied else nn.Linear(width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        self.pair = Pooled(config, 2) if config.head == "pretraining" else None
        for linear in (self.transform, self.head):
            if linear is not None:
                nn.init.normal_(linear.weight, 0, 0.02)
        nn.init.zeros_(self.transform.bias)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        **others: Tensor | Memory | None,
    ) -> Output:
        """ids [B,T] → Output; the arguments are those of `read`."""
        hidden, auxiliary = self.read(ids, positions, documents, cache, **others)  # type: ignore[arg-type]
        pair = None if self.pair is None else self.pair(hidden[:, 0])
        hidden = self.transform_norm(self.activation(self.transform(hidden)))
        return Output(hidden, projection(self), self.bias, auxiliary, pair)


def projection(model: LanguageModel | MaskedModel) -> Tensor:
    """The weight [V,E] that makes logits: the head's, or the embedding's where it is tied."""
    return model.backbone.embedding.weight if model.head is None else model.head.weight


class Pooled(nn.Module):
    """BERT's pooler and a projection: one hidden state [B,E] → tanh of a linear → labels [B,L]."""

    def __init__(self, config: ModelConfig, labels: int) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.out_width, config.out_width)
        self.out = nn.Linear(config.out_width, labels)
        for linear in (self.pooler, self.out):
            nn.init.normal_(linear.weight, 0, 0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B,E] → [B,L]."""
        return self.out(torch.tanh(self.pooler(hidden)))


class Classifier(Headed):
    """Labels of a row (an encoder reads them at its first token, a decoder at the row's last), or of each token.

    The head is `Pooled` where an encoder takes part and rows are classified; every other one is linear. A pair model
    is one of two labels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.of_rows = config.head in ("classifier", "pair")
        labels = config.labels if config.head in ("classifier", "tokens") else 2
        pooled = self.of_rows and config.shape != "decoder"
        self.score = Pooled(config, labels) if pooled else nn.Linear(config.out_width, labels, bias=not self.of_rows)
        if isinstance(self.score, nn.Linear):
            nn.init.normal_(self.score.weight, 0, 0.02)
            if self.score.bias is not None:
                nn.init.zeros_(self.score.bias)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        **others: Tensor | Memory | None,
    ) -> Labels:
        """ids [B,T] → Labels; the arguments are those of `read`."""
        hidden, auxiliary = self.read(ids, positions, documents, cache, **others)  # type: ignore[arg-type]
        if self.of_rows:
            hidden = pool(hidden, documents, "first" if self.config.shape == "encoder" else "last")
        return Labels(self.score(hidden), auxiliary)


class ScalarModel(Headed):
    """A Transformer with one number per position: a reward model is read at the last token, a critic at each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.out_width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        **others: Tensor | Memory | None,
    ) -> Values:
        """ids [B,T] → Values; the arguments are those of `read`."""
        hidden, auxiliary = self.read(ids, positions, documents, cache, **others)  # type: ignore[arg-type]
        return Values(self.score(hidden)[:, :, 0], auxiliary)


class EmbeddingModel(Headed):
    """A Transformer whose rows are read as one vector each."""

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        **others: Tensor | Memory | None,
    ) -> Vectors:
        """ids [B,T] → Vectors; the arguments are those of `read`."""
        hidden, _ = self.read(ids, positions, documents, cache, **others)  # type: ignore[arg-type]
        return Vectors(pool(hidden, documents, self.config.pooling))


def pool(hidden: Tensor, documents: Tensor | None, how: str) -> Tensor:
    """One vector per row of hidden [B,T,E]: the first token's, the last real one's or the mean of the real ones."""
    if how == "first":
        return hidden[:, 0]
    if documents is None:
        return hidden[:, -1] if how == "last" else hidden.mean(1)
    real = documents != 0
    if how == "last":
        steps = torch.arange(hidden.shape[1], device=hidden.device)
        return hidden[torch.arange(len(hidden), device=hidden.device), (steps * real).argmax(1)]
    weights = real.to(hidden.dtype)
    return torch.einsum("bte,bt->be", hidden, weights) / weights.sum(1, keepdim=True).clamp(min=1)


MODELS: dict[str, type[Headed]] = {
    "language": LanguageModel,
    "masked": MaskedModel,
    "pretraining": MaskedModel,
    "pair": Classifier,
    "classifier": Classifier,
    "tokens": Classifier,
    "span": Classifier,
    "scalar": ScalarModel,
    "embedding": EmbeddingModel,
}


def build(config: ModelConfig) -> Headed:
    """A model of this architecture with fresh weights, drawn from torch's generator."""
    return MODELS[config.head](config)


def count(model: nn.Module) -> int:
    """The number of weights, shared ones once."""
    return sum(p.numel() for p in model.parameters())
