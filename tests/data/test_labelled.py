"""Labelled rows in the layouts people have them in, what is dropped and why, and the real files where they are."""

import gzip
import json
from pathlib import Path

import pytest

from fledge.core.errors import FledgeError
from fledge.data.labelled import (
    Labelled,
    Question,
    Tagged,
    TextPair,
    parallel_rows,
    to_labelled,
    to_questions,
    to_tagged,
    to_text_pairs,
)
from fledge.data.readers import read

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")


def test_texts_with_classes() -> None:
    rows = [{"text": "good", "label": 1}, {"text": "bad", "label": "neg"}, {"text": "fine", "label": 2.0}]
    made, dropped = to_labelled([*rows, {"text": " ", "label": 1}, {"text": "x"}], {}, number=False)
    assert made == [Labelled("good", None, "1"), Labelled("bad", None, "neg"), Labelled("fine", None, "2")]
    assert dropped == {"a text that is no text": 1, "no label": 1}


def test_pairs_with_scores_by_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("id\tsentence_A\tsentence_B\trel\tclass\n1\tA dog.\tA cat.\t4.5\tYES\n2\tx\ty\tmuch\tNO\n")
    rows = read(path).rows
    made, dropped = to_labelled(rows, {"label": "rel"}, number=True)
    assert made == [Labelled("A dog.", "A cat.", 4.5)]
    assert dropped == {"a label that is no number": 1}
    assert to_labelled(rows, {}, number=False)[0][1] == Labelled("x", "y", "NO")


def test_unknown_columns_are_named() -> None:
    with pytest.raises(FledgeError, match="no column 'rel'") as caught:
        to_labelled([{"text": "a", "label": 1}], {"label": "rel"}, number=True)
    assert "text, label" in caught.value.remedy
    with pytest.raises(FledgeError, match="'lable' is no part"):
        to_labelled([{"text": "a", "label": 1}], {"lable": "label"}, number=True)
    with pytest.raises(FledgeError, match="no row can be used"):
        to_labelled([{"body": "a", "label": 1}], {}, number=False)


def test_tagged_words() -> None:
    rows = [{"tokens": ["New", "York"], "ner_tags": ["B-LOC", "I-LOC"]}, {"tokens": ["a"], "ner_tags": [1, 2]}]
    made, dropped = to_tagged(rows, {})
    assert made == [Tagged(("New", "York"), ("B-LOC", "I-LOC"))]
    assert dropped == {"as many tags as tokens are needed": 1}


def test_questions_of_every_nesting() -> None:
    context = "Ada Lovelace wrote it."
    asked = {"id": "1", "question": "Who?", "answers": [{"text": "Ada Lovelace", "answer_start": 0}]}
    wrong = {"id": "2", "question": "What?", "answers": [{"text": "that", "answer_start": 4}]}
    paragraph = {"context": context, "qas": [asked, wrong, {"id": "3", "question": "When?", "answers": []}]}
    expected = [Question("1", "Who?", context, (("Ada Lovelace", 0),)), Question("3", "When?", context, ())]
    for rows in ([paragraph], [{"paragraphs": [paragraph]}], [{"version": "1", "data": [{"paragraphs": [paragraph]}]}]):
        made, dropped = to_questions(rows, {})
        assert made == expected
        assert dropped == {"an answer that does not stand in the context where it says": 1}
    flat = {"id": "1", "question": "Who?", "context": context}
    made, _ = to_questions([flat | {"answers": {"text": ["Ada Lovelace"], "answer_start": [0]}}], {})
    assert made == expected[:1]


def test_sources_and_targets(tmp_path: Path) -> None:
    rows = [{"source": "a dog", "target": "ein Hund"}, {"source": "x", "target": ""}]
    assert to_text_pairs(rows, {}) == ([TextPair("a dog", "ein Hund")], {"a target that is no text": 1})
    rows = [{"en": "a dog", "de": "ein Hund", "prefix": "translate: "}]
    found = to_text_pairs(rows, {"source": "en", "target": "de"})[0]
    assert found == [TextPair("a dog", "ein Hund", "translate: ")]
    assert to_text_pairs([{"text": "good film", "label": 1}], {})[0] == [TextPair("good film", "1")]
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"input": "a", "output": "b"}) + "\n")
    assert to_text_pairs(read(path).rows, {})[0] == [TextPair("a", "b")]  # not the `source` that reading adds


def test_parallel_texts_match_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"eins\r\nzwei"))
    rows = parallel_rows(tmp_path / "a.en", tmp_path / "a.de.gz")
    assert rows == [{"source": "one", "target": "eins"}, {"source": "two", "target": "zwei"}]
    (tmp_path / "b.de").write_text("eins\n")
    with pytest.raises(FledgeError, match="2 lines"):
        parallel_rows(tmp_path / "a.en", tmp_path / "b.de")
    with pytest.raises(FledgeError, match="cannot be read"):
        parallel_rows(tmp_path / "a.en", tmp_path / "none.de")
    (tmp_path / "bad.en").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(FledgeError, match="UTF-8"):
        parallel_rows(tmp_path / "bad.en", tmp_path / "b.de")


@needs_data
def test_the_real_files() -> None:
    sick = read(DATA / "classification" / "sick_trial.tsv").rows
    assert len(to_labelled(sick, {"label": "relatedness_score"}, number=True)[0]) == 500
    assert {e.label for e in to_labelled(sick, {}, number=False)[0]} == {"NEUTRAL", "ENTAILMENT", "CONTRADICTION"}
    made, dropped = to_questions(read(DATA / "qa" / "xquad_a.en.json.gz").rows, {})
    assert len(made) == 612
    assert not dropped
    rows = parallel_rows(DATA / "translation" / "multi30k_val.en.gz", DATA / "translation" / "multi30k_val.de.gz")
    assert len(to_text_pairs(rows, {})[0]) == 1014
