"""Special tokens, words and sentences as a reader finds them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import AutoTokenizer

from fledge.core.config import make_config
from fledge.core.log import Log
from fledge.data.corruption.marks import Marks
from fledge.stages.tokenizer import TokenizerConfig
from fledge.stages.tokenizer import tokenizer as tokenizer_stage
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer


def test_special_tokens_are_found_by_what_they_are_for(tokenizer: Tokenizer, marks: Marks) -> None:
    def names(*ids: int) -> list[str]:
        return [tokenizer.decode([i], skip_special=False) for i in ids]

    assert names(marks.start, marks.end, marks.mask, marks.cls, marks.sep) == [
        "<|pad|>", "<|endoftext|>", "[MASK]", "[CLS]", "[SEP]",
    ]  # fmt: skip
    assert names(*marks.sentinels) == [f"<extra_id_{n}>" for n in range(100)]
    assert names(*marks.modes) == ["[R]", "[S]", "[X]"]
    assert not set(marks.ordinary) & set(tokenizer.special.values())
    assert len(marks.ordinary) + len(tokenizer.special) == tokenizer.vocab_size


def test_a_vocabulary_without_them_has_none() -> None:
    marks = Marks.of(Tokenizer.train(["some text"] * 3, 270))
    assert (marks.mask, marks.cls, marks.sep, marks.modes, len(marks.sentinels)) == (None, None, None, (), 0)


pieces = st.sampled_from([*DENOISING[:8], "[MA", "SK]", "<extra_id_", "1>", " ", "\n", "x", "é"])


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(pieces, max_size=10))
def test_text_never_becomes_one(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    for ids in (tokenizer.encode(text), tokenizer.encode_batch([text])[0].tolist()):
        assert not set(ids) & set(tokenizer.special.values())
        assert tokenizer.decode(ids, skip_special=False) == text


def test_a_tokenizer_without_denoising_is_what_it_was(tmp_path) -> None:
    """The same text learns the same merges, and the special tokens it had before keep their ids."""
    plain = Tokenizer.train(["the cat and the hat"] * 5, 300)
    more = Tokenizer.train(["the cat and the hat"] * 5, 300 + len(DENOISING), special_tokens=SPECIAL + DENOISING)
    assert [plain.token_id(t) for t in SPECIAL] == [more.token_id(t) for t in SPECIAL]
    assert plain.spec["model"]["merges"] == more.spec["model"]["merges"]
    assert "mask_token" not in plain.config


def test_the_stage_writes_what_transformers_reads(tmp_path) -> None:
    (tmp_path / "text.txt").write_text("the cat and the hat sat on the mat. " * 20)
    values = {"documents": tmp_path / "text.txt", "vocab_size": 400, "denoising": True}
    tokenizer_stage(make_config(TokenizerConfig, values, "the test"), tmp_path / "out", Log(quiet=True))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = Tokenizer.load(tmp_path / "out")
    marks = Marks.of(ours)
    assert (theirs.mask_token_id, theirs.cls_token_id, theirs.sep_token_id) == (marks.mask, marks.cls, marks.sep)
    assert theirs.convert_tokens_to_ids("<extra_id_7>") == marks.sentinels[7]
    assert set(theirs.all_special_ids) <= set(ours.special.values())


def test_sentences(tokenizer: Tokenizer, marks: Marks, ids: np.ndarray) -> None:
    starts = marks.sentences(ids)
    assert [tokenizer.decode(part) for part in np.split(ids, starts[1:])] == [
        "I am happy to join with you today.", " The sun is up, and the road is dry!", ' "Why not?"', " she asked.",
        " Nobody knew…", " We walk on.\n\n", "A new paragraph begins here.", " It counts 1, 2, 3.14 birds.", " The end",
    ]  # fmt: skip
    assert marks.sentences(ids[:0]).tolist() == []


def test_words(tokenizer: Tokenizer, marks: Marks) -> None:
    ids = tokenizer.array("Unhappily, 12 birds' naïve songs")
    words = marks.words(ids)
    found = [tokenizer.decode(ids[words == word]) for word in range(words[-1] + 1)]
    assert found == ["Unhappily", ",", " 12", " birds", "'", " naïve", " songs"]


@pytest.mark.parametrize("piece", ["##ing", "walk"])
def test_word_pieces_continue_words_by_their_sharps(piece: str) -> None:
    backend = Backend(models.WordPiece({"[UNK]": 0, "walk": 1, "##ing": 2, "[EOS]": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["[EOS]"])
    tokenizer = Tokenizer(json.loads(backend.to_str()), {"eos_token": "[EOS]"}, "")
    begins = Marks.of(tokenizer).begins_word
    assert bool(begins[tokenizer.vocabulary[piece]]) is not piece.startswith("##")
