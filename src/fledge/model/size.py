"""Where a Transformer's weights and FLOPs are, by arithmetic: nothing is built."""

from fledge.model.config import ModelConfig


def parameters(config: ModelConfig) -> dict[str, int]:
    """Weights by part: embedding, attention, feedforward, norms, head. Their sum is the model's."""
    encoder, layers = config.encoding_layers, config.layers
    blocks, cross = encoder + layers, layers if encoder else 0
    scaled = 1 + (config.norm == "layer" and config.norm_bias)
    norm = config.width * scaled
    per_block = 1 if config.residual == "parallel_shared" else 2
    stacks = (2 if encoder else 1) * config.final_norm
    return {
        "embedding": embedding(config),
        "attention": (blocks + cross) * attention(config) + (2 if encoder else 1) * distances(config),
        "feedforward": blocks * feedforward(config, config.experts),
        "norms": norm * (blocks * per_block + cross + stacks + config.embedding_norm),
        "head": head(config, scaled),
    }


def embedding(config: ModelConfig) -> int:
    """Tables of tokens, positions and token types, and the projections around a narrow token table."""
    rows = config.context + config.position_offset if config.positions == "learned" else 0
    table = config.vocab_size * config.out_width + (rows + config.token_types) * config.width
    return table + projections(config)


def projections(config: ModelConfig) -> int:
    """Into the width and out of it, where the token table is narrower."""
    return 2 * config.width * config.embedding_width if config.embedding_width else 0


def attention(config: ModelConfig) -> int:
    """Of one block; cross-attention is as large."""
    projected = (config.heads + 2 * config.kv_heads) * config.head_size
    weights = projected * config.width + config.heads * config.head_size * config.width
    return (
        weights
        + config.qkv_bias * projected
        + config.output_bias * config.width
        + config.qk_norm * (2 * config.head_size)
    )


def distances(config: ModelConfig) -> int:
    """The table of learned distances of one stack."""
    return config.buckets * config.heads if config.positions == "buckets" else 0


def feedforward(config: ModelConfig, experts: int) -> int:
    """Of one block with so many experts (0: a dense one)."""
    inner = 1 + config.gated
    if not experts:
        return (inner + 1) * config.width * config.hidden + config.feedforward_bias * (
            inner * config.hidden + config.width
        )
    router = config.experts * config.width
    return router + (inner + 1) * config.width * (experts * config.hidden + config.shared_hidden)


def head(config: ModelConfig, scaled: int) -> int:
    """What stands on top of the hidden states; a tied projection is counted with the embedding. scaled: the weights
    of a norm per dimension."""
    width, labels = config.out_width, config.labels
    dense = width * width + width
    projection = (0 if config.tied else config.vocab_size * width) + config.head_bias * config.vocab_size
    transform = dense + scaled * width
    pooled = config.shape != "decoder"
    return {
        "language": projection,
        "masked": transform + projection,
        "pretraining": transform + projection + dense + 2 * width + 2,
        "pair": dense + 2 * width + 2,
        "classifier": labels * width + pooled * (dense + labels),
        "tokens": labels * width + labels,
        "span": 2 * width + 2,
        "scalar": width,
        "embedding": 0,
    }[config.head]


def active(config: ModelConfig) -> int:
    """The weights one token goes through."""
    unused = feedforward(config, config.experts) - feedforward(config, min(config.top_k, config.experts))
    return config.parameters() - (config.encoding_layers + config.layers) * unused


def flops_per_token(config: ModelConfig, length: int) -> float:
    """As ModelConfig.flops_per_token. Of an encoder-decoder: a source and a target token together."""
    tables = embedding(config) - projections(config)
    projects = config.head in ("language", "masked", "pretraining")
    multiplying = active(config) - tables + config.vocab_size * config.out_width * (projects and config.tied)
    spans = config.encoding_layers + config.layers * (2 if config.encoding_layers else 1)
    return 6 * multiplying + 12 * spans * config.heads * config.head_size * length
