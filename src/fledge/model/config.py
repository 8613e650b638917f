"""A Transformer's architecture as a point in a space of small independent axes; no family has a name here."""

from typing import Any, Literal

from pydantic import Field

from fledge.core.config import Config


class ModelConfig(Config):
    """The axes of a decoder. `hidden` is the inner width of the feed-forward, `context` the longest sequence.

    rope_scaling is None, or a dict with `rope_type` linear (factor) or llama3 (factor, low_freq_factor,
    high_freq_factor, original_max_position_embeddings). window is the number of positions a token sees, itself
    included; None is all of them.
    """

    vocab_size: int = Field(gt=0)
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_size: int = Field(gt=0, multiple_of=2)
    hidden: int = Field(gt=0)
    context: int = Field(gt=0)
    norm_eps: float = 1e-6
    qk_norm: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    feedforward_bias: bool = False
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    rope_base: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    window: int | None = None
    tied: bool = True
    head: Literal["language", "scalar"] = "language"

    @classmethod
    def sized(cls, depth: int, vocab_size: int, context: int) -> "ModelConfig":
        """One dial: `depth` layers of width 64·depth with heads of 64 and a gated feed-forward of 8/3 the width."""
        width = 64 * depth
        return cls(
            vocab_size=vocab_size,
            width=width,
            layers=depth,
            heads=depth,
            kv_heads=depth,
            head_size=64,
            hidden=64 * round(8 / 3 * depth),
            context=context,
        )

    def parameters(self) -> int:
        """The number of weights, the tied embedding counted once."""
        projected = (self.heads + 2 * self.kv_heads) * self.head_size
        attention = projected * self.width + self.heads * self.head_size * self.width
        attention += self.qkv_bias * projected + self.output_bias * self.width + self.qk_norm * 2 * self.head_size
        feedforward = 3 * self.width * self.hidden + self.feedforward_bias * (2 * self.hidden + self.width)
        blocks = self.layers * (attention + feedforward + 2 * self.width)
        head = self.width if self.head == "scalar" else self.vocab_size * self.width * (not self.tied)
        return blocks + self.vocab_size * self.width + self.width + head

    def flops_per_token(self, length: int) -> float:
        """FLOPs of forward and backward per token at sequence length `length`: 6 per weight that multiplies, plus
        the attention products (PaLM, arXiv:2204.02311, appendix B; causal attention counted whole)."""
        embedding = self.vocab_size * self.width
        multiplying = self.parameters() - embedding * (self.head == "scalar" or not self.tied)
        return 6 * multiplying + 12 * self.layers * self.heads * self.head_size * length
