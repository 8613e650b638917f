"""The tokenizer against `tokenizers`, `transformers` and the properties it promises."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fledge.core.errors import FledgeError
from fledge.text.bytepair import GPT2_SPLIT, build
from fledge.text.tokenizer import PIECE, SPECIAL, Tokenizer, pieces

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
CORPUS = [path.read_text(encoding="utf-8") for path in sorted(Path(re.__file__).parent.glob("*.py"))] + [
    Path(json.__file__).read_text(encoding="utf-8"),
    "Grüße, señor! Ελληνικά и кириллица 日本語 🙂 don't WE'LL\t\r\n 12345",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS, 800)


@pytest.fixture(scope="module")
def bare(tokenizer: Tokenizer) -> Backend:
    """The same vocabulary in `tokenizers`, special tokens not parsed."""
    backend = Backend.from_str(json.dumps(tokenizer.spec))
    backend.encode_special_tokens = True
    return backend


def test_special_tokens_come_first_and_the_size_is_kept(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_id(token) for token in SPECIAL] == [0, 1, 2, 3]
    assert tokenizer.special == {token: i for i, token in enumerate(SPECIAL)}
    assert tokenizer.vocab_size == 800
    assert (tokenizer.document_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 2, 3)
    assert tokenizer.token_id("no such token") is None


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_any_text_round_trips_with_the_ids_of_tokenizers(tokenizer: Tokenizer, bare: Backend, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.fast is not None
    assert ids == bare.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special.values())


@settings(max_examples=200, deadline=None)
@given(data=st.binary())
def test_any_bytes_round_trip(tokenizer: Tokenizer, data: bytes) -> None:
    latin = tokenizer.encode(data.decode("latin-1"))
    assert tokenizer.decode(latin).encode("latin-1") == data
    of_byte = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    assert b"".join(tokenizer.token_bytes(of_byte[bytes([byte])]) for byte in data) == data


words = st.sampled_from([*SPECIAL, "<|im_", "end|>", "'S", "'ll", "'ſ", " ", "\n", "\r\n", "\t", "a", "é", "7", "  "])


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(words, max_size=12))
def test_text_never_becomes_a_special_token(tokenizer: Tokenizer, bare: Backend, parts: list[str]) -> None:
    text = "".join(parts)
    for ids in (tokenizer.encode(text), tokenizer.encode_batch([text])[0].tolist()):
        assert not set(ids) & set(tokenizer.special.values())
        assert tokenizer.decode(ids, skip_special=False) == text
        assert ids == bare.encode(text, add_special_tokens=False).ids


def test_special_tokens_are_parsed_where_asked(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_special("<|im_start|>hi<|im_end|>")
    assert ids == [1, *tokenizer.encode("hi"), 2]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>hi<|im_end|>"


def test_every_code_point_is_split_as_tokenizers_splits_it(tokenizer: Tokenizer, bare: Backend) -> None:
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and (c < 0x3100 or c % 61 == 0)]
    texts = [f"a{c}b 1{c}2 !{c}? '{c} \n{c} x" for c in points]
    # One text for many characters, as every piece of it is independent of the ones before.
    joined = ["\n\n.".join(texts[i : i + 500]) for i in range(0, len(texts), 500)]
    for text, ids in zip(joined, tokenizer.encode_batch(joined), strict=True):
        assert ids.tolist() == bare.encode(text, add_special_tokens=False).ids


def test_a_batch_on_several_threads_equals_one_by_one(tokenizer: Tokenizer) -> None:
    texts = [*CORPUS * 3, "", "x", " " * 100]
    batch = tokenizer.encode_batch(texts)
    assert all(ids.dtype == np.int32 for ids in batch)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_a_megabyte_of_one_character(tokenizer: Tokenizer) -> None:
    for text in (" " * 1_000_000, "a" * 1_000_000, "\n" * 1_000_000 + "x"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_lone_surrogates_are_replaced(tokenizer: Tokenizer) -> None:
    expected = tokenizer.encode("a\ufffdb")
    assert tokenizer.encode("a\ud800b") == expected
    assert tokenizer.encode_batch(["a\ud800b"])[0].tolist() == expected


def test_training_is_deterministic_across_processes(tokenizer: Tokenizer) -> None:
    code = (
        "import sys, json; from fledge.text.tokenizer import Tokenizer\n"
        "print(json.dumps(Tokenizer.train(iter(json.load(sys.stdin)), 800).spec, sort_keys=True))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(CORPUS), capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == tokenizer.spec


@given(texts=st.lists(st.text(st.sampled_from("ab\n"), max_size=60), max_size=5))
def test_the_trainer_gets_all_text_in_small_pieces(texts: list[str]) -> None:
    long = [text * (PIECE // 30) for text in texts]
    got = list(pieces(long))
    assert "".join(got) == "".join(long)
    assert all(0 < len(piece) <= PIECE for piece in got)


def test_transformers_loads_it_with_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path, context=512)
    # The family in config.json makes transformers choose a class of its own unless ours names one.
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    for theirs in (AutoTokenizer.from_pretrained(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert theirs.model_max_length == 512
        assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
        assert len(theirs) == tokenizer.vocab_size
        for text in [*CORPUS, "", " ", "\n\n  don't"]:
            assert theirs.encode(text) == tokenizer.encode(text)
            assert theirs.decode(theirs.encode(text)) == text
        assert theirs.encode("<|im_start|>x<|im_end|>\n") == tokenizer.encode_special("<|im_start|>x<|im_end|>\n")


def test_saving_and_loading_changes_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.spec == tokenizer.spec
    assert again.config == tokenizer.config
    assert again.chat_template == tokenizer.chat_template


def test_a_word_added_without_being_special_is_parsed_as_transformers_does(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    theirs.add_tokens(["<think>"])
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert ours.fast is not None
    assert ours.encode("a <think>b<|pad|>") == [
        *tokenizer.encode("a "),
        ours.token_id("<think>"),
        *tokenizer.encode("b<|pad|>"),
    ]
    assert ours.encode("a <think> b") == theirs.encode("a <think> b")
    assert ours.decode(ours.encode("a <think> b")) == "a <think> b"


def test_a_vocabulary_that_tiktoken_would_read_differently_is_refused() -> None:
    # "abc" was learnt as ab+c, but bc merges first: `tokenizers` never makes it, tiktoken would.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "bc", "ab", "abc"])}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[("b", "c"), ("a", "b"), ("ab", "c")]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    assert build(json.loads(backend.to_str())) is None


def sentencepiece_like() -> Backend:
    vocabulary = {"<unk>": 0, "</s>": 1, **{f"<0x{b:02X}>": b + 2 for b in range(256)}, "▁": 258, "a": 259, "▁a": 260}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<unk>", "</s>"])
    return backend


def test_a_tokenizer_of_another_kind_falls_back_to_tokenizers(tmp_path: Path) -> None:
    backend = sentencepiece_like()
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.load(tmp_path)
    assert ours.fast is None
    ids = ours.encode("a aé</s>")
    assert ids[:2] == [259, 260]
    assert 1 not in ids
    assert [i.tolist() for i in ours.encode_batch(["a aé</s>", ""])] == [ids, []]
    assert ours.decode(ids) == "a aé</s>"
    assert [ours.token_bytes(i) for i in (260, 2 + 0xC3, 1)] == [b" a", b"\xc3", b"</s>"]
    assert ours.eos_id == 1


def test_gpt2_encodes_as_the_reference_ids_say(tmp_path: Path) -> None:
    if not SHARED.exists():
        pytest.skip(f"needs the GPT-2 vocabulary in {SHARED}")
    vocabulary = json.loads((SHARED / "gpt2_encoder.json").read_text())
    merges = [tuple(m.split(" ")) for m in (SHARED / "gpt2_vocab.bpe").read_text().splitlines()[1:]]
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.load(tmp_path)
    assert ours.fast is not None
    assert ours.vocab_size == 50257
    assert ours.eos_id == ours.document_id == ours.pad_id == 50256
    rows = [json.loads(line) for line in (SHARED / "golden_encodings.jsonl").read_text().splitlines()]
    assert [ours.encode(row["text"]) for row in rows] == [row["gpt2_ids"] for row in rows]
    assert all(ours.decode(row["gpt2_ids"]) == row["text"] for row in rows)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer.json"),
        ({"tokenizer.model": "x"}, "only tokenizer.model"),
        ({"tokenizer.json": '{"model": '}, "not valid JSON"),
        ({"tokenizer.json": "[]"}, "does not hold a JSON object"),
        ({"tokenizer.json": '{"model": {"type": "BPE"}}'}, "usable tokenizer"),
        ({"tokenizer.json": "\udcff"}, "not valid JSON"),
    ],
)
def test_missing_or_broken_files_are_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(FledgeError, match=message) as error:
        Tokenizer.load(tmp_path)
    assert error.value.remedy


def test_a_broken_config_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|nowhere|>"}')
    with pytest.raises(FledgeError, match="no end-of-turn token"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": ["abc"], "vocab_size": 200}, "too small"),
        ({"texts": [], "vocab_size": 500}, "no text"),
        ({"texts": ["", " "], "vocab_size": 500}, "no text"),
        ({"texts": ["abc"], "vocab_size": 500, "special_tokens": ("<|pad|>",)}, "lacks"),
    ],
)
def test_training_refuses_what_cannot_work(arguments: dict, message: str) -> None:
    with pytest.raises(FledgeError, match=message):
        Tokenizer.train(**arguments)
