"""The static key-value cache: rows (slots) of fixed length, each filled to a length of its own.

Shapes: B rows, Hkv key-value heads, S positions, D head size.
"""

import torch
from torch import Tensor

from fledge.model.config import ModelConfig


class Cache:
    """Keys and values of each layer, [B,Hkv,S,D] per layer; a layer has tensors of its own (compile likes that).

    `rows` selects the slots that the next forward pass writes and reads (None: all of them, in order), `reach` how
    many positions it needs to read: no row is longer than that.
    """

    def __init__(
        self, config: ModelConfig, batch: int, length: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        shape = (batch, config.kv_heads, length, config.head_size)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.length = length
        self.rows: Tensor | None = None
        self.reach = length

    def update(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes k, v [b,Hkv,T,D] at positions [b,T] of the selected rows; returns all keys and values up to reach."""
        keys, values = self.keys[layer], self.values[layer]
        rows = torch.arange(len(keys), device=keys.device) if self.rows is None else self.rows
        keys[rows[:, None], :, positions] = k.transpose(1, 2).to(keys.dtype)
        values[rows[:, None], :, positions] = v.transpose(1, 2).to(values.dtype)
        if self.rows is None:
            return keys[:, :, : self.reach], values[:, :, : self.reach]
        return keys[self.rows, :, : self.reach], values[self.rows, :, : self.reach]
