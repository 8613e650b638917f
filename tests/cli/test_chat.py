"""`fledge chat` as a person uses it: typed lines in, the screen out."""

import builtins
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

import fledge
from fledge.cli.chat import Talk, chat, converse, printable
from fledge.core.errors import FledgeError
from fledge.generate.assistant import Assistant

Say = Callable[..., tuple[Talk, str]]


@pytest.fixture(scope="module")
def assistant(run_directory: Path) -> Assistant:
    return fledge.load(run_directory, device="cpu")


@pytest.fixture
def say(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Type lines, get the conversation and what the screen showed. An exception among the lines is raised there."""

    def run(*lines: str | BaseException, **options: object) -> tuple[Talk, str]:
        screen = io.StringIO()
        settings = {"system": "", "temperature": 0.8, "seed": 0, "max_new_tokens": 20} | options
        talk = Talk(assistant, Console(file=screen, width=200), **settings)
        typed: Iterator[str | BaseException] = iter(lines)

        def type_(prompt: str = "") -> str:
            line = next(typed, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr(builtins, "input", type_)
        converse(talk)
        return talk, screen.getvalue()

    return run


def test_answers_stream_and_history_grows(say: Say, assistant: Assistant) -> None:
    talk, screen = say("What is it?", "", "  and New York?  ")
    assert [turn.role for turn in talk.turns] == ["user", "assistant"] * 2
    assert talk.turns[2].content == "and New York?"
    assert printable(talk.turns[1].content) in screen
    expected = assistant.generate([talk.turns[:1]], temperature=0.8, max_new_tokens=20)
    assert talk.turns[1].content == expected[0]
    second = assistant.generate([talk.turns[:3]], temperature=0.8, max_new_tokens=20, seed=1)
    assert talk.turns[3].content == second[0]


def test_seeds_make_answers_repeat(say: Say) -> None:
    talk, _ = say("/seed 7", "What?", "/undo", "/seed 7", "What?", "/reset", "/seed 8", "What?")
    other, _ = say("/seed 7", "What?")
    assert talk.turns[1] != other.turns[1]
    again, _ = say("What?", "/reset", "/seed 7", "What?")
    assert again.turns == other.turns


def test_temperature_zero_is_greedy(say: Say) -> None:
    talk, screen = say("/temperature 0", "What?", "/retry")
    same, _ = say("What?", temperature=0.0, seed=99)
    assert "greedy" in screen
    assert talk.turns == same.turns


def test_undo_takes_an_exchange_back(say: Say) -> None:
    talk, screen = say("one", "two", "/undo", "/undo", "/undo")
    assert talk.turns == []
    assert "took back: two" in screen
    assert "nothing to undo" in screen


def test_retry_answers_again_with_the_next_seed(say: Say) -> None:
    once, _ = say("What?")
    talk, _ = say("What?", "/retry")
    assert len(talk.turns) == 2
    assert talk.turns[0] == once.turns[0]
    assert talk.turns[1] != once.turns[1]


def test_the_system_message_is_what_the_model_sees(say: Say) -> None:
    talk, screen = say("/system", "/system be brief", "What?", "/system -")
    assert "no system message" in screen
    assert talk.messages()[0].role == "user"
    given, _ = say("What?", system="be brief")
    assert given.messages()[0].content == "be brief"
    assert talk.turns == given.turns


def test_save_appends_rows_ready_for_sft(say: Say, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    talk, _ = say("/system be brief", "What?", f"/save {path}", "/reset", "And?", f"/save {path}")
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert [turn["role"] for turn in first["messages"]] == ["system", "user", "assistant"]
    assert second["messages"] == [message.as_dict() for message in talk.messages()]


def test_history_is_trimmed_with_a_notice(say: Say) -> None:
    questions = [f"What is New York Zoo number {i}?" for i in range(6)]
    talk, screen = say(*questions)
    assert len(talk.turns) == 12
    assert "no longer sees the first" in screen


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/sed 1", "unknown command /sed"),
        ("/seed x", "not a number: 'x'"),
        ("/seed", "not a number"),
        ("/temperature -1", "0 or more"),
        ("/temperature nan", "0 or more"),
        ("/retry", "nothing to retry"),
        ("/save", "needs a file name"),
        ("/save x.jsonl", "nothing to save"),
        ("What is it? " * 200, "shorter message"),
    ],
)
def test_mistakes_are_answered_and_change_nothing(say: Say, line: str, says: str) -> None:
    talk, screen = say(line)
    assert says in screen
    assert (talk.turns, talk.seed, talk.temperature) == ([], 0, 0.8)


def test_help_lists_every_command(say: Say) -> None:
    _, screen = say("/help")
    for command in ("/system", "/undo", "/retry", "/seed", "/temperature", "/reset", "/save", "/quit"):
        assert command in screen


def test_quit_leaves_and_interrupts_do_not_at_first(say: Say) -> None:
    talk, _ = say("/quit", "never asked")
    assert talk.turns == []
    talk, screen = say(KeyboardInterrupt(), "What?")
    assert len(talk.turns) == 2
    assert "/quit leaves" in screen
    talk, _ = say(KeyboardInterrupt(), KeyboardInterrupt(), "never asked")
    assert talk.turns == []


def test_an_interrupted_answer_keeps_what_was_said(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Assistant, *args: object, **options: object) -> Iterator[str]:
        yield "I love"
        raise KeyboardInterrupt

    monkeypatch.setattr(Assistant, "chat", interrupted)
    talk, screen = say("What?")
    assert talk.turns[1].content == "I love"
    assert "stopped" in screen


def test_the_terminal_cannot_be_steered() -> None:
    assert printable("a\x1b[2Jb\x07\r\n\tc\x9b☃") == "a[2Jb\n\tc☃"


def test_the_command(run_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/temperature 0\nWhat?\n/quit\n"))
    chat(run_directory, device="cpu", max_new_tokens=5)
    assert "M parameters" in capsys.readouterr().out
    with pytest.raises(FledgeError, match="does not exist"):
        chat(run_directory / "nowhere")


@pytest.mark.parametrize("kind", ["directory", "not JSON", "below a file"])
def test_a_file_that_cannot_be_written_does_not_end_the_conversation(say: Say, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "talk.jsonl"
    if kind == "directory":
        path.mkdir()
    else:
        path.write_text("{bad\n")
    _, screen = say("What?", f"/save {path / 'x' if kind == 'below a file' else path}", "/undo")
    assert str(path) in screen
    assert "took back: What?" in screen
