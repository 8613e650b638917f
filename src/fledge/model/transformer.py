"""ONE Transformer (arXiv:1706.03762) whose architecture is the point `ModelConfig` in a space of axes.

Tokens to hidden states: embedding, residual blocks of attention and feed-forward, a final norm. A decoder, an encoder,
or an encoder whose result a decoder reads by cross-attention are stacks of the same blocks. Heads are in `heads`;
distribution, precision and caching policy are applied from outside. Projections that read the same input are fused.

Shapes: B batch, T time, S source time, E width, D head size.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fledge.model.attention import Attention, CrossAttention, Mask, Memory, Surroundings, mask_of
from fledge.model.cache import Cache
from fledge.model.config import ModelConfig
from fledge.model.feedforward import Experts, FeedForward, Routing, initial_std
from fledge.model.normalise import norm_of
from fledge.model.positions import alibi_slopes, rotary_table, sinusoids
from fledge.model.visibility import Bias, Visibility


class Block(nn.Module):
    """A residual block: attention, cross-attention where it reads a memory, feed-forward."""

    def __init__(self, config: ModelConfig, *, reads_memory: bool = False) -> None:
        super().__init__()
        self.residual = config.residual
        self.attention_norm = norm_of(config)
        self.attention = Attention(config)
        self.cross_norm = norm_of(config) if reads_memory else None
        self.cross = CrossAttention(config) if reads_memory else None
        self.feedforward_norm = None if config.residual == "parallel_shared" else norm_of(config)
        self.feedforward = Experts(config) if config.experts else FeedForward(config)

    def forward(self, x: Tensor, around: Surroundings, layer: int) -> Tensor:
        """x [B,T,E] → [B,T,E]."""
        if self.residual.startswith("parallel"):
            normed = self.attention_norm(x)
            attended = self.dropped(self.attention(normed, around, layer), around)
            if self.cross is not None and self.cross_norm is not None:
                attended = attended + self.dropped(self.cross(self.cross_norm(x), around, layer), around)
            other = normed if self.feedforward_norm is None else self.feedforward_norm(x)
            return x + attended + self.dropped(self.fed(other, around), around)
        x = self.step(x, self.attention_norm, around, lambda h: self.attention(h, around, layer))
        if self.cross is not None and self.cross_norm is not None:
            cross = self.cross
            x = self.step(x, self.cross_norm, around, lambda h: cross(h, around, layer))
        assert self.feedforward_norm is not None
        return self.step(x, self.feedforward_norm, around, lambda h: self.fed(h, around))

    def step(self, x: Tensor, norm: nn.Module, around: Surroundings, part: Callable[[Tensor], Tensor]) -> Tensor:
        """x and what a part makes of it, normed before or after."""
        if self.residual == "post":
            return norm(x + self.dropped(part(x), around))
        return x + self.dropped(part(norm(x)), around)

    def fed(self, x: Tensor, around: Surroundings) -> Tensor:
        """The feed-forward; a mixture of experts notes what its router did."""
        if isinstance(self.feedforward, FeedForward):
            return self.feedforward(x)
        y, routed = self.feedforward(x, around.real)
        around.routed.append(routed)
        return y

    def dropped(self, y: Tensor, around: Surroundings) -> Tensor:
        """Dropout on a part's result, in training."""
        return F.dropout(y, around.dropout, self.training) if around.dropout else y


class Stack(nn.Module):
    """Blocks, the final norm, and the bias by distance that they share: hidden states to hidden states.

    Set from outside: `checkpointing` (blocks are computed again in the backward pass), `dropout`.
    """

    slopes: Tensor | None

    def __init__(self, config: ModelConfig, *, causal: bool) -> None:
        super().__init__()
        self.config, self.causal = config, causal
        self.checkpointing, self.dropout = False, 0.0

    def pile(self, layers: int, *, reads_memory: bool = False) -> None:
        """Makes the blocks and what they share."""
        config = self.config
        self.blocks = nn.ModuleList(Block(config, reads_memory=reads_memory) for _ in range(layers))
        self.norm = norm_of(config) if config.final_norm else None
        self.distances = nn.Parameter(torch.empty(config.buckets, config.heads)) if self.by_bucket else None
        self.register_buffer("slopes", alibi_slopes(config.heads) if self.by_slope else None, persistent=False)

    @property
    def by_bucket(self) -> bool:
        """Whether a learned bias by distance is added to the scores."""
        return self.config.positions == "buckets"

    @property
    def by_slope(self) -> bool:
        """Whether ALiBi is."""
        return self.config.positions == "alibi"

    def run(self, x: Tensor, around: Surroundings) -> Tensor:
        """x [B,T,E] through all blocks and the final norm."""
        for layer, block in enumerate(self.blocks):
            if self.checkpointing and self.training:
                x = checkpoint(block, x, around, layer, use_reentrant=False)
            else:
                x = block(x, around, layer)
        return x if self.norm is None else self.norm(x)

    def bias(self) -> Bias | None:
        """What lies on the scores by distance."""
        if self.distances is None and self.slopes is None:
            return None
        return Bias(self.slopes, self.distances, self.config.bucket_distance, not self.causal)

    def mask(
        self,
        x: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        prefix: Tensor | None = None,
        order: Tensor | None = None,
        branches: Tensor | None = None,
    ) -> Mask:
        """Who sees whom in x [B,T,E], as `Transformer.forward` says it."""
        window, bias, time = self.config.window, self.bias(), x.shape[1]
        if cache is not None and positions is not None:
            visible = Visibility(positions, cache.reach, self.causal, window, bias=bias)
        else:
            steps = torch.arange(time, device=x.device)
            visible = Visibility(steps, time, self.causal, window, documents, documents, prefix, order, branches, bias)
        return mask_of(visible, x, self.config.heads, self.config.head_size)


def set_checkpointing(model: nn.Module, on: bool) -> None:
    """Whether every stack of a model computes its blocks again in the backward pass (arXiv:1604.06174)."""
    for module in model.modules():
        if isinstance(module, Stack):
            module.checkpointing = on


class Transformer(Stack):
    """The decoder, or the only stack, with the embedding in front of it, and the encoder it reads from, if any."""

    cos: Tensor | None
    sin: Tensor | None
    sinusoid: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, causal=config.shape != "encoder")
        narrow, both = config.embedding_width, config.shape == "encoder_decoder"
        rows = config.context + config.position_offset if config.positions == "learned" else 0
        self.embedding = nn.Embedding(config.vocab_size, narrow or config.width)
        self.widen = nn.Linear(narrow, config.width, bias=False) if narrow else None
        self.position_embedding = nn.Embedding(rows, config.width) if rows else None
        self.type_embedding = nn.Embedding(config.token_types, config.width) if config.token_types else None
        self.embedding_norm = norm_of(config) if config.embedding_norm else None
        self.pile(config.layers, reads_memory=both)
        self.narrow = nn.Linear(config.width, narrow, bias=False) if narrow else None
        self.encoder = Stack(config, causal=False) if both else None
        if self.encoder is not None:
            self.encoder.pile(config.encoding_layers)
        for name in ("cos", "sin", "sinusoid"):
            self.register_buffer(name, None, persistent=False)
        self.make_tables()
        self.initialise()

    def make_tables(self) -> None:
        """The tables that are computed and not stored: of rotary or sinusoidal positions, and ALiBi's slopes."""
        config = self.config
        if config.positions == "rotary":
            self.cos, self.sin = rotary_table(config)
        if config.positions == "sinusoidal":
            self.sinusoid = sinusoids(config.context, config.width)
        for stack in (self, self.encoder):
            if stack is not None and stack.by_slope:
                stack.slopes = alibi_slopes(config.heads)

    @torch.no_grad()
    def initialise(self) -> None:
        """Normal weights of std 0.02, output projections scaled down by √(2·layers) (GPT-2).

        Two corrections keep the scores and the logits of a fresh model at the scale of this rule: of the queries where
        the attention's scale is not 1/√D, of the final norm where its result is scaled before it is projected.
        """
        config = self.config
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim >= 2:
                parameter.normal_(0, initial_std(name, config.layers))
        if config.attention_scale is not None:
            inner = config.heads * config.head_size
            for module in self.modules():
                if isinstance(module, Attention | CrossAttention):
                    queries = module.qkv.weight[:inner] if isinstance(module, Attention) else module.q.weight
                    queries /= config.attention_scale * math.sqrt(config.head_size)
        if config.output_scale != 1 and self.norm is not None:
            self.norm.weight.div_(config.output_scale)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        *,
        token_types: Tensor | None = None,
        prefix: Tensor | None = None,
        order: Tensor | None = None,
        branches: Tensor | None = None,
        memory: Memory | None = None,
        routed: list[Routing] | None = None,
    ) -> Tensor:
        """ids [B,T] → hidden [B,T,E] (or of the width that heads read).

        positions [B,T]: 0, 1, 2 … by default. documents [B,T]: tokens see only their own document; 0 is padding.
        cache: token t of row b is written at positions[b,t] and sees the cached positions up to it.
        token_types [B,T]: 0 by default. prefix [B,T] bool: these are seen by their whole document, also backwards.
        order [B,T]: each token sees those of a lower order, and itself; an entry -1-r is a query slot of rank r that
        nobody else sees, so [content | slots] in one row is two-stream attention with shared weights.
        branches [B,T]: a document may branch: 0 is the trunk, others see the trunk and themselves (`can_branch`).
        memory: of `encode`; a token sees what belongs to its document there (without documents: all but padding).
        routed: where mixtures of experts note what their routers did.
        """
        x = self.embedded(ids, positions, token_types)
        around = Surroundings(
            mask=self.mask(x, positions, documents, cache, prefix, order, branches),
            turn=self.turn(ids, positions),
            positions=positions,
            cache=cache,
            memory=memory,
            memory_mask=None if memory is None else self.memory_mask(x, documents, memory),
            real=None if documents is None else documents != 0,
            routed=[] if routed is None else routed,
            dropout=self.dropout,
        )
        x = self.run(x, around)
        return x if self.narrow is None else self.narrow(x)

    def encode(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        *,
        routed: list[Routing] | None = None,
    ) -> Memory:
        """Source ids [B,S] → what the decoder reads; the arguments are those of `forward`."""
        assert self.encoder is not None
        x = self.embedded(ids, positions, None)
        around = Surroundings(
            mask=self.encoder.mask(x, documents=documents),
            turn=self.turn(ids, positions),
            real=None if documents is None else documents != 0,
            routed=[] if routed is None else routed,
            dropout=self.dropout,
        )
        return Memory(self.encoder.run(x, around), documents)

    def projected(self, hidden: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """The keys and values each decoder layer makes of a memory's hidden [B,S,E]."""
        crosses = [module for module in self.modules() if isinstance(module, CrossAttention)]
        return tuple(cross.project(hidden) for cross in crosses)

    def embedded(self, ids: Tensor, positions: Tensor | None, token_types: Tensor | None) -> Tensor:
        """The embedding of ids [B,T] with what is added to it: [B,T,E]."""
        config = self.config
        x = self.embedding(ids)
        if config.embedding_scale != 1:
            x = x * config.embedding_scale
        if self.widen is not None:
            x = self.widen(x)
        if self.position_embedding is not None:
            steps = torch.arange(ids.shape[1], device=ids.device) if positions is None else positions
            x = x + self.position_embedding(steps + config.position_offset)
        if self.sinusoid is not None:
            x = x + (self.sinusoid[: ids.shape[1]] if positions is None else self.sinusoid[positions]).to(x.dtype)
        if self.type_embedding is not None:
            x = x + (self.type_embedding.weight[0] if token_types is None else self.type_embedding(token_types))
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def turn(self, ids: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """cos and sin of the positions, [B,T,1,R/2] or [T,1,R/2]; None where positions are not rotary."""
        if self.cos is None or self.sin is None:
            return None
        if positions is None:
            return self.cos[: ids.shape[1], None], self.sin[: ids.shape[1], None]
        return self.cos[positions][:, :, None], self.sin[positions][:, :, None]

    def memory_mask(self, x: Tensor, documents: Tensor | None, memory: Memory) -> Mask:
        """What of the memory each token of x [B,T,E] sees."""
        time, source = x.shape[1], memory.hidden.shape[1]
        steps = torch.arange(time, device=x.device)
        theirs = memory.documents
        visible = Visibility(steps, source, False, documents=documents, key_documents=theirs)
        return mask_of(visible, x, self.config.heads, self.config.head_size)
