"""`fledge generate` as scripts use it: stdin and files in, JSONL out."""

import io
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import fledge
from fledge.cli.generate import generate
from fledge.core.errors import FledgeError

app = typer.Typer()
app.command()(generate)


def call(run_directory: Path, *options: str, text: str | bytes | None = None) -> list[dict]:
    """The rows that the command writes; its failure is raised."""
    result = CliRunner().invoke(
        app,
        [str(run_directory), "--device", "cpu", "--max-new-tokens", "8", *options],
        input=text,
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_lines_in_rows_out_in_order(run_directory: Path) -> None:
    prompts = [f"I love {i * 'New York '}" + "Zoo" for i in range(9)]
    rows = call(run_directory, "--temperature", "0", "--max-batch", "3", text="\n".join(prompts) + "\n\n")
    assert [row["prompt"] for row in rows] == prompts
    expected = fledge.load(run_directory, device="cpu").complete(prompts, temperature=0, max_new_tokens=8)
    assert [row["completion"] for row in rows] == [completion.text for completion in expected]
    assert [row["tokens"] for row in rows] == [len(completion.ids) for completion in expected]
    assert {row["finish"] for row in rows} <= {"stop", "length"}


def test_jsonl_with_prompts_and_messages(run_directory: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "What is it?"}]
    file = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "I love"}, {"messages": messages}, {"prompt": messages, "kind": "forward"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = call(run_directory, "--temperature", "0", "--input", str(file))
    assert [row["prompt"] for row in rows] == ["I love", messages, messages]
    assert rows[1]["completion"] == rows[2]["completion"]


def test_chat_asks_plain_prompts_as_a_user(run_directory: Path) -> None:
    messages = [{"role": "system", "content": "be good"}, {"role": "user", "content": "What?"}]
    plain = call(run_directory, "--prompt", "What?", "--chat", "--system", "be good")
    conversation = call(run_directory, text=json.dumps({"messages": messages}))
    assert plain[0]["completion"] == conversation[0]["completion"]
    assert plain[0]["prompt"] == "What?"


def test_seeds_differ_by_prompt_and_repeat_by_call(run_directory: Path) -> None:
    options = ("--seed", "3", "--prompt", "I love", "--prompt", "I love")
    first, again = call(run_directory, *options), call(run_directory, *options)
    assert first == again
    assert first[0]["completion"] != first[1]["completion"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"prompt": "a"}\n{"prompt": \n', "stdin, line 2: not valid JSON"),
        ('{"prompt": "a"}\n\n{"text": "b"}\n', "stdin, line 3: neither a prompt nor messages"),
        ('{"prompt": "a"}\n[1]\n', "stdin, line 2: neither"),
        ('{"messages": [{"role": "user"}]}\n', "stdin, line 1: not a message"),
        (b"good\n\xff\xfe\n", "stdin, line 2: not valid UTF-8"),
        ("a\n" + "long " * 500, "stdin, line 2: the prompt has"),
        ("", "no prompts given"),
    ],
)
def test_bad_input_is_refused_with_its_place(run_directory: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(FledgeError, match=says):
        call(run_directory, text=text)


def test_a_missing_file_is_named(run_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(FledgeError, match=r"none\.txt cannot be read"):
        call(run_directory, "--input", str(tmp_path / "none.txt"))


def test_rows_are_written_as_they_are_finished(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader behind a pipe sees the first rows before the last are done."""
    written: list[int] = []

    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            written.append(1)
            if len(written) == 2:
                raise BrokenPipeError
            return len(text)

    monkeypatch.setattr("sys.stdout", Pipe())
    with pytest.raises(BrokenPipeError):
        generate(run_directory, prompt=["a", "b", "c", "d"], max_new_tokens=4, max_batch=1, device="cpu")
    assert len(written) == 2
