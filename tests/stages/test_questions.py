"""Questions: the files, their rows, and what is missing."""

from pathlib import Path

import pytest

from fledge.core.errors import FledgeError
from fledge.core.files import read_jsonl, write_jsonl
from fledge.core.log import Log
from fledge.data.columns import to_conversations
from fledge.data.python.phrasings import DECLINE
from fledge.stages.questions import QuestionsConfig, questions

LOG = Log(quiet=True)
VERBS, THINGS = ("read", "write", "open", "close", "count", "merge"), ("file", "archive", "queue", "table", "stream")


def facts() -> list[dict[str, str]]:
    return [
        {
            "name": f"tools{number}.{verb}_{thing}",
            "module": f"tools{number}",
            "kind": "function",
            "signature": "(x)",
            "summary": f"{verb.capitalize()} the {thing} number {number} with care.",
        }
        for number in range(4)
        for verb in VERBS
        for thing in THINGS
    ]


def test_files_and_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "names.jsonl", facts())
    real = {fact["name"] for fact in facts()}
    (tmp_path / "all_names.txt").write_text("\n".join(real | {"json", "os", "math"}))
    config = QuestionsConfig(names=tmp_path / "names.jsonl", prompts_invented=10, evaluate_invented=7, evaluate_names=5)
    summary = questions(config, tmp_path, LOG)

    rows = read_jsonl(tmp_path / "demonstrations.jsonl")
    conversations, dropped = to_conversations(rows)
    assert len(conversations) == len(rows) == summary["demonstrations"]
    assert not sum(dropped.values())
    prompts, evaluation = (read_jsonl(tmp_path / f"{name}.jsonl") for name in ("prompts", "evaluation"))
    keys = {"prompt", "kind", "name", "real", "truth", "split"}
    for row in prompts + evaluation:
        assert set(row) == keys
        assert row["real"] == (row["name"] in real) == (row["truth"] is not None)
        assert row["prompt"][-1]["role"] == "user"
    assert {row["split"] for row in evaluation} == {"held_out_phrasing", "held_out_name", "invented"}
    assert sum(not row["real"] for row in evaluation) == 7
    assert any(m["content"] == DECLINE for row in rows for m in row["messages"])


def test_the_list_of_all_names_must_be_there(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "names.jsonl", facts())
    with pytest.raises(FledgeError, match=r"all_names\.txt does not exist"):
        questions(QuestionsConfig(names=tmp_path / "names.jsonl"), tmp_path, LOG)
