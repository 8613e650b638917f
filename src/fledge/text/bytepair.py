"""Byte-level BPE encoding at corpus speed: a `tiktoken` encoder built from a `tokenizers` vocabulary.

The ids are those of `tokenizers`, provably. tiktoken merges any two neighbours whose concatenation is in the
vocabulary, `tokenizers` only the pairs it has learnt; the two agree if every merge makes a new token out of older
ones and every token's own bytes merge into that token (then the neighbours of a token about to form are always the
learnt pair). `build` checks exactly that and returns None where it does not hold, as for a vocabulary that was not
learnt by BPE, or where the pipeline does more than split and merge (normalisers, dropout, prefixes).
Byte-level alphabet: GPT-2 (Radford et al. 2019). Merges: arXiv:1508.07909.
"""

import json
from typing import Any

import numpy as np
import tiktoken
from tokenizers import Tokenizer as Backend

GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The split regex gives up on a run of a million blanks. `encode` says so with a ValueError, the faster
# `encode_ordinary` with a panic, so texts that could hold such a run go through the former.
LONG = 1 << 19


def byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary → that byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class BytePair:
    """A tiktoken encoder and the map from its ranks to the vocabulary's ids."""

    def __init__(self, encoding: tiktoken.Encoding, ids: np.ndarray, plain: bool) -> None:
        self.encoding = encoding
        self.ids = ids  # [ranks] int32
        self.plain = plain  # no added word has to be looked for in the text

    def encode(self, text: str) -> np.ndarray:
        """Ids [T] int32. Raises ValueError where the split regex exhausts its stack (a megabyte of blanks)."""
        if self.plain and len(text) < LONG:
            ranks = self.encoding.encode_ordinary(text)
        else:
            ranks = self.encoding.encode(text, allowed_special="all")
        return self.ids[ranks] if ranks else np.empty(0, np.int32)


def build(spec: dict[str, Any]) -> BytePair | None:
    """The fast encoder of a tokenizer.json, or None where it would not be exact."""
    model = spec["model"]
    pattern = split_pattern(spec.get("pre_tokenizer"))
    if pattern is None or model.get("type") != "BPE" or spec.get("normalizer") is not None:
        return None
    if any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
        return None
    vocabulary, alphabet = model["vocab"], byte_alphabet()
    if not alphabet.keys() <= vocabulary.keys():
        return None
    ranks = {bytes([byte]): rank for rank, byte in enumerate(alphabet.values())}
    ids = [vocabulary[character] for character in alphabet]
    rank_of = {character: rank for rank, character in enumerate(alphabet)}
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        token = left + right
        if left not in rank_of or right not in rank_of or token in rank_of:
            return None
        rank_of[token] = len(ids)
        ranks[bytes(alphabet[character] for character in token)] = len(ids)
        ids.append(vocabulary[token])
    merging = Backend.from_str(json.dumps(spec | {"model": model | {"ignore_merges": False}})).model
    if any([piece.value for piece in merging.tokenize(token)] != [token] for token in rank_of):
        return None
    if model.get("ignore_merges") and any(
        token not in rank_of and all(character in alphabet for character in token) for token in vocabulary
    ):
        return None
    words = [token for token in spec.get("added_tokens", []) if not token["special"]]
    if any(word["lstrip"] or word["rstrip"] or word["single_word"] for word in words):
        return None
    added = {word["content"]: len(ids) + n for n, word in enumerate(words)}
    encoding = tiktoken.Encoding("fledge", pat_str=pattern, mergeable_ranks=ranks, special_tokens=added)
    return BytePair(encoding, np.array(ids + [word["id"] for word in words], np.int32), plain=not added)


def split_pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The regex of a byte-level pre-tokenizer that isolates its matches; None for any other kind."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2_SPLIT
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    return None
