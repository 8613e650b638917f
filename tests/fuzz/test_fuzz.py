"""The fuzzing harness in its short form, and properties of what reads a config, a row and an override."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz_targets import check, targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fledge.core.config import load_config, make_config, set_path
from fledge.core.errors import LONGEST, FledgeError, one_line
from fledge.data.columns import to_comparisons, to_conversations, to_documents
from fledge.data.readers import Reading, iterate
from fledge.stages import load_stage

HARNESS = Path(__file__).parent / "run.py"
QUICK = 25  # inputs for each target

texts = st.text(max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
NAMES = ("text", "messages", "conversations", "prompt", "completion", "chosen", "rejected", "completions", "ranks")
turns = st.lists(
    st.dictionaries(st.sampled_from(("role", "content", "from", "value")), values | st.sampled_from(("user", "gpt"))),
    max_size=3,
)
rows = st.lists(st.dictionaries(st.sampled_from(NAMES), values | turns, max_size=4), min_size=1, max_size=4)
keys = st.sampled_from(("model", "epochs", "optimizer", "optimizer.learning_rate", "length", "seed")) | texts


def test_no_hostile_file_hangs_crashes_or_takes_the_memory(tmp_path: Path) -> None:
    command = [sys.executable, str(HARNESS), "--inputs", str(QUICK), "--keep", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(run.stdout.splitlines()) == len(targets()) + 3


def refused_well(attempt: Any) -> None:
    """Runs it: an answer, or a refusal in one line."""
    try:
        attempt()
    except FledgeError as error:
        check(error)


@settings(max_examples=60, deadline=None)
@given(found=st.dictionaries(keys, values, max_size=4))
def test_any_values_are_a_config_or_one_line(found: dict[str, Any]) -> None:
    refused_well(lambda: make_config(load_stage("sft").config, found, "a test"))


@settings(max_examples=60, deadline=None)
@given(given=st.lists(st.builds("{}={}".format, keys, texts), max_size=3))
def test_any_override_is_a_setting_or_one_line(given: list[str]) -> None:
    refused_well(lambda: load_config(load_stage("sft").config, None, ["model=a", "demonstrations=b", *given]))


@given(path=st.lists(st.sampled_from("abc"), min_size=1, max_size=3), value=st.integers() | st.booleans())
def test_an_override_sets_what_it_names_and_nothing_else(path: list[str], value: int | bool) -> None:
    found: dict[str, Any] = {"z": 1}
    set_path(found, f"{'.'.join(path)}={json.dumps(value)}")
    assert found.pop("z") == 1
    for part in path:
        assert list(found) == [part]
        found = found[part]
    assert found == value  # type: ignore[comparison-overlap]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(found=rows)
def test_every_row_is_used_or_counted(found: list[dict[str, Any]]) -> None:
    def attempt() -> None:
        for make in (to_documents, to_conversations, to_comparisons):
            made, dropped = make(found)
            assert len(made) + sum(dropped.values()) == len(found)

    refused_well(attempt)


@settings(max_examples=60, deadline=None)
@given(found=rows)
def test_rows_come_back_from_a_file_as_they_were_written(
    found: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    report = Reading()
    back = [{key: value for key, value in row.items() if key in NAMES} for row in iterate(path, report)]
    lone = [row for row in found if "\\ud" in json.dumps(row)]  # half of a surrogate pair may be refused
    assert report.read == len(found)
    assert len(back) >= len(found) - len(lone)
    if not lone:
        assert json.dumps(back) == json.dumps(found)


@given(st.text())
def test_a_message_is_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= LONGEST
    assert text != line or text.isprintable()
