"""Text in: learning a vocabulary and encoding a corpus against raw `tokenizers`, and how long a training step waits.

The corpus is the standard library's source. Both sides learn with the same settings; both encode with the same
vocabulary on all cores, and their ids are compared. `encode_batch_fast` is the variant of `tokenizers` that leaves out
offsets. The last lines show how fast the stream packs documents, and what share that is of a training step of the
demo's model.
"""

import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Raw

from fledge.core.device import pick_dtype
from fledge.data.packing import Example
from fledge.data.stream import WINDOW, Stream
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.objectives.language import next_token
from fledge.text.tokenizer import SPECIAL, SPLIT, Tokenizer
from fledge.train.loop import fit
from fledge.train.optimizers import OptimizerConfig
from fledge.train.optimizers import build as build_optimizer
from measure import Contender, arguments, fastest, interleaved, median, show, speedup, spread, warn_if_busy


def library_text(size: int) -> list[str]:
    """The standard library's source files, `size` bytes of them."""
    texts: list[str] = []
    for file in sorted(Path(os.__file__).parent.rglob("*.py")):
        if size <= 0 or "site-packages" in file.parts:
            continue
        texts.append(file.read_text(encoding="utf-8", errors="replace"))
        size -= len(texts[-1].encode())
    return texts


def raw_tokenizer() -> Raw:
    """An empty byte-level BPE of `tokenizers` with fledge's split."""
    raw = Raw(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    return raw


def train_raw(texts: list[str], vocabulary: int) -> Raw:
    """Learns with `tokenizers` alone."""
    raw = raw_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), min_frequency=1,
    )  # fmt: skip
    raw.train_from_iterator(texts, trainer)
    return raw


def same_ids(tokenizer: Tokenizer, texts: list[str]) -> bool:
    """Whether fledge and `tokenizers` encode every text to the same ids."""
    theirs = tokenizer.plain.encode_batch(texts, add_special_tokens=False)
    return all(np.array_equal(a, b.ids) for a, b in zip(tokenizer.encode_batch(texts), theirs, strict=True))


def throughput(task: str, runs: dict[str, Contender], megabytes: float, rounds: int) -> list[tuple[str, ...]]:
    """The lines of one task in MB/s."""
    seconds = interleaved(runs, rounds)
    best = seconds[fastest(seconds, "tokenizers")]
    return [
        (
            task,
            name,
            f"{megabytes / median(seconds[name]):.1f} MB/s",
            f"{speedup(seconds[name], best):.2f}×",
            spread(seconds[name]),
        )
        for name in runs
    ]


def data_wait(examples: list[Example], shape: ModelConfig, rows: int, length: int, steps: int) -> list[tuple[str, ...]]:
    """The stream's speed by itself, packing included, and what that is of a training step."""
    torch.manual_seed(0)
    model = build(shape)
    stream = Stream({"text": examples}, {"text": 1.0}, length, rows, 1, 0, split=True)
    optimizer = build_optimizer(model, OptimizerConfig())
    dtype = pick_dtype("auto", torch.device("cpu"))
    trained = [step.seconds for step in fit(model, stream, next_token, optimizer, steps=steps, dtype=dtype)]

    began, count = time.perf_counter(), 1 + 4 * WINDOW // stream.tokens_per_step
    for _ in range(count):
        next(stream)
    waited = (time.perf_counter() - began) / count
    what = f"data wait of a step of {rows * length:,} tokens, {shape.parameters() / 1e6:.1f} M parameters"
    return [
        ("pack", "fledge", f"{stream.tokens_per_step / waited / 1e6:.1f} M tokens/s", "", ""),
        ("train", what, f"{waited / median(trained):.2%}", "", ""),
    ]


def main() -> None:
    """Learning, encoding, packing."""
    quick, rounds = arguments(__doc__, rounds=5)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    warn_if_busy()
    texts = library_text(100_000 if quick else 10_000_000)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    vocabulary = 512 if quick else 8192

    tokenizer = Tokenizer.train(texts, vocabulary)
    assert same_ids(tokenizer, texts), "fledge and tokenizers disagree"
    learning: dict[str, Contender] = {
        "tokenizers": lambda: train_raw(texts, vocabulary),
        "fledge": lambda: Tokenizer.train(texts, vocabulary),
    }
    raw = tokenizer.plain
    encoding: dict[str, Contender] = {
        "tokenizers, encode_batch": lambda: raw.encode_batch(texts, add_special_tokens=False),
        "tokenizers, encode_batch_fast": lambda: raw.encode_batch_fast(texts, add_special_tokens=False),
        "fledge": lambda: tokenizer.encode_batch(texts),
    }
    lines = throughput(f"learn {vocabulary:,} tokens", learning, megabytes, rounds)
    lines += throughput("encode, identical ids", encoding, megabytes, rounds)

    examples = [Example(ids, np.ones(len(ids), dtype=bool)) for ids in tokenizer.encode_batch(texts)]
    shape = ModelConfig.sized(1 if quick else 4, tokenizer.vocab_size, 512)
    rows, length, steps = (4, 64, 3) if quick else (32, 256, 20)
    lines += data_wait(examples, shape, rows, length, steps)
    columns = ("task", "what", "speed", "× best tokenizers", "spread")
    show(f"Text, {megabytes:.1f} MB in {len(texts)} files, median of {rounds} rounds", columns, lines)


if __name__ == "__main__":
    main()
