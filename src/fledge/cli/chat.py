"""`fledge chat`: a conversation in the terminal. Streaming, with history, undo, retry, seeds and saving."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fledge.core.errors import FledgeError
from fledge.core.files import write_jsonl
from fledge.core.nouns import Message

if TYPE_CHECKING:
    from fledge.generate.assistant import Assistant

N = TypeVar("N", int, float)

COMMANDS = {
    "/help": "this list",
    "/system TEXT": "set the system message (without TEXT: show it; '/system -' removes it)",
    "/undo": "take back the last question and its answer",
    "/retry": "answer the last question again, with the next seed",
    "/seed N": "draw with this seed: the same conversation then gets the same answers",
    "/temperature X": "0 is the likeliest answer every time, 1 the model's own spread",
    "/reset": "forget the conversation",
    "/save FILE": "append the conversation to FILE as one line of JSON, ready for sft",
    "/quit": "leave (or Ctrl-D)",
}


@dataclass
class Talk:
    """The state of one conversation. `seed` is that of the next answer."""

    assistant: "Assistant"
    console: Console
    system: str
    temperature: float
    seed: int
    top_p: float = 1.0
    max_new_tokens: int = 256
    turns: list[Message] = field(default_factory=list)
    dropped: int = 0

    def messages(self) -> list[Message]:
        """What the model is shown: the system message, then the turns."""
        return [Message("system", self.system)] * bool(self.system) + self.turns

    def ask(self, question: str) -> None:
        """Add a question and stream its answer; a question that cannot be answered is taken back."""
        self.turns.append(Message("user", question))
        try:
            self.answer()
        except (FledgeError, KeyboardInterrupt):
            self.turns.pop()
            raise

    def answer(self) -> None:
        """Stream the answer to the last turn. Ctrl-C ends it early and keeps what was said."""
        from fledge.generate.assistant import trim

        context = self.assistant.config.context
        shown, dropped = trim(self.assistant, self.messages(), reserve=min(self.max_new_tokens, context // 4))
        if dropped > self.dropped:
            self.note(f"the context of {context} tokens is full: the model no longer sees the first {dropped} turns")
        self.dropped = dropped
        room = context - len(self.assistant.encode(shown))
        said: list[str] = []
        self.console.print(Text("fledge › ", style="bold green"), end="")
        try:
            for piece in self.assistant.chat(
                shown,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed,
                max_new_tokens=min(self.max_new_tokens, room),
            ):
                said.append(piece)
                self.console.print(Text(printable(piece)), end="", soft_wrap=True)
        except KeyboardInterrupt:
            self.console.print(Text(" … stopped", style="yellow"), end="")
        self.console.print("\n")
        self.seed += 1
        self.turns.append(Message("assistant", "".join(said)))

    def undo(self) -> None:
        """Take back the last question and its answer."""
        if not self.turns:
            raise FledgeError("there is nothing to undo")
        question = self.turns[-2].content
        del self.turns[-2:]
        self.note(f"took back: {question}")

    def retry(self) -> None:
        """Answer the last question again."""
        if not self.turns:
            raise FledgeError("there is nothing to retry", "ask something first")
        last = self.turns.pop()
        try:
            self.answer()
        except (FledgeError, KeyboardInterrupt):
            self.turns.append(last)
            raise

    def reset(self) -> None:
        """Forget the conversation, keep the system message."""
        self.turns.clear()
        self.dropped = 0
        self.note("a new conversation")

    def set_system(self, text: str) -> None:
        """Show, set or remove the system message."""
        if text:
            self.system = "" if text == "-" else text
        self.note(f"system message: {self.system}" if self.system else "no system message")

    def set_seed(self, text: str) -> None:
        """Set the next answer's seed."""
        self.seed = number(text, int, "/seed 7")
        self.note(f"seed {self.seed}")

    def set_temperature(self, text: str) -> None:
        """Set the temperature."""
        value = number(text, float, "/temperature 0.7")
        if not 0 <= value < float("inf"):
            raise FledgeError(f"the temperature must be 0 or more, not {text}", "e.g. /temperature 0.7")
        self.temperature = value
        self.note(f"temperature {value:g}" + (" (greedy)" if value == 0 else ""))

    def save(self, text: str) -> None:
        """Append the conversation to a JSONL file."""
        from fledge.core.files import read_jsonl

        if not text:
            raise FledgeError("/save needs a file name", "e.g. /save talk.jsonl")
        if not self.turns:
            raise FledgeError("there is nothing to save yet")
        path = Path(text).expanduser()
        row = {"messages": [message.as_dict() for message in self.messages()]}
        try:
            write_jsonl(path, [*(read_jsonl(path) if path.exists() else []), row])
        except OSError as error:
            raise FledgeError(f"{path} cannot be written: {error.strerror}", "give another file name") from None
        self.note(f"saved {len(self.turns)} turns to {path}")

    def help(self) -> None:
        """List the commands."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(style="dim")
        for command, meaning in COMMANDS.items():
            table.add_row(Text(command), Text(meaning))
        self.console.print(table)

    def note(self, text: str) -> None:
        """Say something that is not the model's."""
        self.console.print(Text(text, style="dim"), soft_wrap=True)

    def obey(self, line: str) -> bool:
        """Carry out a command; False ends the conversation."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        plain: dict[str, Callable[[], None]] = {
            "/help": self.help,
            "/undo": self.undo,
            "/retry": self.retry,
            "/reset": self.reset,
        }
        valued: dict[str, Callable[[str], None]] = {
            "/system": self.set_system,
            "/seed": self.set_seed,
            "/temperature": self.set_temperature,
            "/save": self.save,
        }
        if name in ("/quit", "/exit"):
            return False
        if name in plain:
            plain[name]()
        elif name in valued:
            valued[name](rest)
        else:
            raise FledgeError(f"unknown command {name}", "/help lists the commands")
        return True


def chat(
    model: Annotated[Path, typer.Argument(help="A model directory, or the run directory of a recipe.")],
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Nucleus sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The first answer's seed; each further answer uses the next.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Talk to a model in the terminal."""
    console = Console(highlight=False)
    with console.status("loading …"):
        from fledge.generate.assistant import find_model, load
        from fledge.model.heads import LanguageModel

        where = find_model(model)
        assistant = load(where, device=device, dtype=dtype)
        if not isinstance(assistant.model, LanguageModel):
            raise FledgeError(
                f"{where} is a reward model: it scores answers and cannot talk", "give the policy, e.g. ppo"
            )
    talk = Talk(assistant, console, system, temperature, seed, top_p, max_new_tokens)
    size = assistant.config.parameters()
    talk.note(f"{where} · {size / 1e6:,.1f} M parameters · context {assistant.config.context} · /help, /quit")
    if where.name == "pretrain":
        talk.note("this model was only pretrained: it continues text more than it answers")
    converse(talk)


def converse(talk: Talk) -> None:
    """Read lines until the end of input or /quit; Ctrl-C at the prompt twice leaves as well."""
    with suppress(ImportError):
        import readline  # noqa: F401  line editing and history for input()

    interrupted = False
    while True:
        try:
            line = input(prompt()).strip()
        except UnicodeDecodeError:
            talk.note("that line is not valid UTF-8")
            continue
        except EOFError:
            talk.console.print()
            return
        except KeyboardInterrupt:
            talk.console.print()
            if interrupted:
                return
            interrupted = True
            talk.note("Ctrl-C again, Ctrl-D or /quit leaves")
            continue
        interrupted = False
        try:
            if line.startswith("/"):
                if not talk.obey(line):
                    return
            elif line:
                talk.ask(line)
        except FledgeError as error:
            talk.console.print(Text(str(error), style="red"), soft_wrap=True)
        except KeyboardInterrupt:
            talk.note("stopped")


def prompt() -> str:
    """The prompt; its colour codes are marked so that readline knows they take no room."""
    return "\001\033[1;36m\002you ›\001\033[0m\002 " if sys.stdin.isatty() and sys.stdout.isatty() else "you › "


def printable(text: str) -> str:
    """Text without the control characters by which it could steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def number(text: str, kind: type[N], example: str) -> N:
    """The number that `text` spells."""
    try:
        return kind(text)
    except ValueError:
        raise FledgeError(f"not a number: '{text}'", f"e.g. {example}") from None
