"""A Transformer's architecture as a point in a space of small independent axes; no family has a name here."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fledge.core.config import Config

Shape = Literal["decoder", "encoder", "encoder_decoder"]
Head = Literal["language", "masked", "pretraining", "pair", "classifier", "tokens", "span", "scalar", "embedding"]


class ModelConfig(Config):
    """The axes. The defaults are a modern decoder: pre-norm RMS, rotary, normed queries and keys, gated, no biases.

    shape: which stacks there are. A decoder is causal, an encoder sees both ways; an encoder_decoder has
    `encoder_layers` of the one (default: `layers`) and `layers` of the other, with cross-attention. `context` is the
    longest sequence, `hidden` the inner width of the feed-forward (of one expert, where there are experts).

    positions: rotary (of the first `rope_fraction` of a head), learned (row 0 of the table is position
    -`position_offset`), sinusoidal, alibi, buckets (T5's learned distances: half of `buckets` exact, the rest
    logarithmic up to `bucket_distance`), or none. rope_scaling: see `positions.scaled`.
    residual: norms before each part (pre), after the sum (post), or one step for attention and feed-forward together
    (parallel: a norm for each; parallel_shared: one for both).
    window: the number of positions a token sees, itself included; None is all of them. attention_scale: what
    queries·keys are multiplied with; None is 1/√head_size.
    experts: how many feed-forwards a token chooses `top_k` from; their weights are the router's probabilities,
    normalised to sum to 1 if `normalised_routing`. shared_hidden: inner width of a feed-forward every token goes
    through beside them. balance, router_z: coefficients of the router's losses.
    embedding_width: of the token table where it is not `width`; projections lead in and out, and heads read the
    narrow states. output_scale: what hidden states are multiplied with before a language head.
    head: what stands on top, see `heads`; `labels`: how many a classifier knows; pooling: which hidden states make
    up an embedding.
    """

    vocab_size: int = Field(gt=0)
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_size: int = Field(gt=0)
    hidden: int = Field(gt=0)
    context: int = Field(gt=0)
    shape: Shape = "decoder"
    encoder_layers: int | None = Field(None, gt=0)

    positions: Literal["rotary", "learned", "sinusoidal", "alibi", "buckets", "none"] = "rotary"
    rope_base: float = 10_000.0
    rope_fraction: float = Field(1.0, gt=0, le=1)
    rope_scaling: dict[str, Any] | None = None
    position_offset: int = Field(0, ge=0)
    buckets: int = Field(32, ge=4, multiple_of=4)
    bucket_distance: int = Field(128, gt=0)

    residual: Literal["pre", "post", "parallel", "parallel_shared"] = "pre"
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    norm_bias: bool = True
    final_norm: bool = True
    embedding_norm: bool = False

    qk_norm: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    attention_scale: float | None = None
    window: int | None = None

    gated: bool = True
    feedforward_bias: bool = False
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    experts: int = Field(0, ge=0)
    top_k: int = Field(2, gt=0)
    normalised_routing: bool = True
    shared_hidden: int = Field(0, ge=0)
    balance: float = 0.01
    router_z: float = 0.0

    tied: bool = True
    embedding_scale: float = 1.0
    embedding_width: int | None = Field(None, gt=0)
    token_types: int = Field(0, ge=0)
    output_scale: float = 1.0
    head_bias: bool = False
    head: Head = "language"
    labels: int = Field(2, gt=0)
    pooling: Literal["mean", "first", "last"] = "mean"

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        """Refuses axes that exclude each other."""
        if self.positions == "rotary" and self.rotary_size % 2:
            raise ValueError(f"head_size: rotary positions turn pairs, {self.rotary_size} dimensions are odd")
        if self.head in ("masked", "pretraining", "pair") and self.shape != "encoder":
            raise ValueError(f"head: '{self.head}' stands on an encoder, this is a {self.shape}")
        if self.head == "language" and self.shape == "encoder":
            raise ValueError("head: an encoder sees what it should predict; use masked, classifier or embedding")
        if self.experts and self.top_k > self.experts:
            raise ValueError(f"top_k: a token cannot choose {self.top_k} of {self.experts} experts")
        return self

    @classmethod
    def sized(cls, depth: int, vocab_size: int, context: int, shape: Shape = "decoder", **axes: Any) -> "ModelConfig":
        """One dial: `depth` layers of width 64·depth with heads of 64. `axes` are laid over what the shape is.

        A decoder is Qwen3-shaped (feed-forward 8/3 of the width, gated), an encoder BERT-shaped (4 times, plain, a
        masked head), an encoder_decoder T5-1.1-shaped (8/3, gated; `depth` layers each).
        """
        width = 64 * depth
        gated = 64 * round(8 / 3 * depth)
        sizes = {"vocab_size": vocab_size, "width": width, "layers": depth, "context": context, "shape": shape}
        sizes |= {"heads": depth, "kv_heads": depth, "head_size": 64, "hidden": gated}
        more = {"encoder": {"hidden": 4 * width}, "encoder_decoder": {"output_scale": width**-0.5}}.get(shape, {})
        return cls(**(sizes | CREATED[shape] | more | axes))

    @property
    def rotary_size(self) -> int:
        """How many dimensions of a head rotary positions turn."""
        return int(self.head_size * self.rope_fraction)

    @property
    def can_branch(self) -> bool:
        """Whether texts with the same beginning can share it in a row: where no rule counts distances along the row."""
        return self.shape == "decoder" and self.window is None and self.positions not in ("alibi", "buckets")

    @property
    def out_width(self) -> int:
        """The width of the hidden states that heads read."""
        return self.embedding_width or self.width

    @property
    def encoding_layers(self) -> int:
        """Layers of the encoder beside a decoder; 0 where there is only one stack."""
        return (self.encoder_layers or self.layers) if self.shape == "encoder_decoder" else 0

    def parameters(self) -> int:
        """The number of weights, the tied embedding counted once."""
        from fledge.model.size import parameters

        return sum(parameters(self).values())

    def active_parameters(self) -> int:
        """The weights one token goes through: of the experts, only the chosen ones."""
        from fledge.model.size import active

        return active(self)

    def flops_per_token(self, length: int) -> float:
        """FLOPs of forward and backward per token at sequence length `length`: 6 per weight that multiplies, plus
        the attention products (PaLM, arXiv:2204.02311, appendix B; causal attention counted whole)."""
        from fledge.model.size import flops_per_token

        return flops_per_token(self, length)


BIASES = {"qkv_bias": True, "output_bias": True, "feedforward_bias": True}
CREATED: dict[str, dict[str, Any]] = {
    "decoder": {},
    "encoder": {
        **{"positions": "learned", "residual": "post", "norm": "layer", "norm_eps": 1e-12, "final_norm": False},
        **{"embedding_norm": True, "qk_norm": False, "gated": False, "activation": "gelu", "token_types": 2},
        **{"head": "masked", "head_bias": True},
        **BIASES,
    },
    "encoder_decoder": {"positions": "buckets", "qk_norm": False, "activation": "gelu_tanh", "attention_scale": 1.0},
}
