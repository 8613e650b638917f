"""llama.cpp as a contender: the same weights as a GGUF file, decoded as its server does, one batch a step.

Needs `pip install gguf llama-cpp-python` (it compiles llama.cpp for this processor); without them `found` is False.
Greedy, all streams from the start to the end, as in `bench_serve.py`. The Python around a step is one `argmax`.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fledge.model.heads import LanguageModel

try:
    import gguf
    import llama_cpp as library

    found = True
except (ImportError, OSError, RuntimeError):  # not installed, or not compiled
    found = False

UBATCH = 512  # prompt tokens at once


def write_gguf(model: LanguageModel, path: Path, kind: str) -> Path:
    """A decoder of LLaMA's shape, or of Qwen3's (as fledge's own is), as GGUF, its matrices in `kind`: F16 or Q8_0. The
    vocabulary has no texts."""
    config, wanted = model.config, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "qwen3" if config.qk_norm else "llama")
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps or 1e-6)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in named(model):
        values = tensor.detach().float().numpy()
        to = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else wanted
        writer.add_tensor(name, gguf.quants.quantize(values, to), raw_dtype=to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def named(model: LanguageModel) -> list[tuple[str, torch.Tensor]]:
    """Weights under llama.cpp's names. In LLaMA's it turns neighbours, not halves: rows are put in its order."""
    config, backbone = model.config, model.backbone

    def turned(weight: torch.Tensor) -> torch.Tensor:
        if config.qk_norm:
            return weight
        return weight.view(-1, 2, config.head_size // 2, config.width).transpose(1, 2).reshape(-1, config.width)

    tensors = [("token_embd.weight", backbone.embedding.weight), ("output_norm.weight", backbone.norm.weight)]
    if model.head is not None:
        tensors.append(("output.weight", model.head.weight))
    inner, shared = config.heads * config.head_size, config.kv_heads * config.head_size
    for index, block in enumerate(backbone.blocks):
        q, k, v = block.attention.qkv.weight.split([inner, shared, shared])
        gate, up = block.feedforward.gate_up.weight.chunk(2)
        parts = {
            "attn_norm": block.attention_norm.weight, "ffn_norm": block.feedforward_norm.weight, "attn_q": turned(q),
            "attn_k": turned(k), "attn_v": v, "attn_output": block.attention.out.weight, "ffn_gate": gate,
            "ffn_up": up, "ffn_down": block.feedforward.down.weight,
        }  # fmt: skip
        if config.qk_norm:
            parts |= {"attn_q_norm": block.attention.q_norm.weight, "attn_k_norm": block.attention.k_norm.weight}
        tensors += [(f"blk.{index}.{name}.weight", weight) for name, weight in parts.items()]
    return tensors


class LlamaCpp:
    """A GGUF file, decoded for up to `streams` prompts of `length` tokens altogether each."""

    def __init__(self, path: Path, streams: int, length: int) -> None:
        library.llama_backend_init()
        quiet = library.llama_log_callback(lambda level, text, data: None)
        library.llama_log_set(quiet, None)
        self.quiet = quiet  # as long as it may be called
        self.model = library.llama_model_load_from_file(os.fsencode(path), library.llama_model_default_params())
        given = library.llama_context_default_params()
        given.n_ctx, given.n_seq_max, given.n_batch = streams * length, streams, max(UBATCH, streams)
        given.n_ubatch, given.kv_unified = UBATCH, False
        given.n_threads = given.n_threads_batch = torch.get_num_threads()
        self.context = library.llama_init_from_model(self.model, given)
        self.size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))
        self.batch = library.llama_batch_init(max(UBATCH, streams), 0, 1)

    def run(self, asked: Sequence[Sequence[int]], new: int) -> tuple[list[list[int]], float, float]:
        """Greedy answers of `new` tokens, seconds for all, seconds to the first token of the median prompt."""
        library.llama_memory_clear(library.llama_get_memory(self.context), True)
        began, firsts = time.perf_counter(), []
        answers: list[list[int]] = []
        for stream, ids in enumerate(asked):
            for start in range(0, len(ids), UBATCH):
                part = ids[start : start + UBATCH]
                last = start + len(part) == len(ids)
                places = [(t, start + i, stream, last and i + 1 == len(part)) for i, t in enumerate(part)]
                self._decode(places)
            answers.append([self._best(len(part) - 1)])
            firsts.append(time.perf_counter() - began)
        for step in range(new - 1):
            self._decode([(a[-1], len(asked[s]) + step, s, True) for s, a in enumerate(answers)])
            for stream, answer in enumerate(answers):
                answer.append(self._best(stream))
        return answers, time.perf_counter() - began, float(np.median(firsts))

    def measured(self, asked: Sequence[Sequence[int]], new: int) -> tuple[float, float]:
        """Tokens a second, seconds to the first token of the median prompt."""
        _, seconds, first = self.run(asked, new)
        return len(asked) * new / seconds, first

    def _decode(self, places: Sequence[tuple[int, int, int, bool]]) -> None:
        batch: Any = self.batch
        batch.n_tokens = len(places)
        for index, (token, position, stream, wanted) in enumerate(places):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, stream
        if library.llama_decode(self.context, batch):
            raise RuntimeError("llama.cpp could not decode")

    def _best(self, index: int) -> int:
        return int(np.ctypeslib.as_array(library.llama_get_logits_ith(self.context, index), (self.size,)).argmax())
